"""The HOLDFAST_* environment: everything that `holdfast` and the trainer read.

Paths that differ from pod to pod are not in the ConfigMap but in the container that needs them.
"""

from infra.kubernetes.distributed import fabric_environment, rendezvous_environment
from infra.names import BLUEPRINT, STORE_MOUNT, WORK_MOUNT, Project
from infra.settings import Settings, Workload

DECISION = f"{WORK_MOUNT}/decision.json"
METRICS = f"{WORK_MOUNT}/metrics.jsonl"

#: Of a save's time, what a process needs to end after it.
EXIT_SECONDS = 10


def store_environment(settings: Settings, project: Project) -> dict[str, str]:
    """How to reach the store and whose it is."""
    store = settings.backup_store
    prefix = store.prefix or project.owner
    if store.create is not None:
        values = {"HOLDFAST_STORE": f"s3://{store.create.name}/{prefix}"}
    elif store.existing is None:
        values = {"HOLDFAST_STORE": f"file://{STORE_MOUNT}/{prefix}"}
    else:
        values = {"HOLDFAST_STORE": f"{store.existing.url}/{prefix}"}
        if store.existing.endpoint:
            values["AWS_ENDPOINT_URL"] = store.existing.endpoint
            if store.existing.endpoint.startswith("http://"):
                values["AWS_ALLOW_HTTP"] = "true"
    region = (store.existing.region if store.existing else None) or settings.region
    if region and store.volume is None:
        values["AWS_REGION"] = region
    return {**values, "HOLDFAST_OWNER": store.owner or project.owner}


def workload_environment(
    name: str, workload: Workload, settings: Settings, project: Project
) -> dict[str, str]:
    """The ConfigMap ``holdfast-<claim>``."""
    retention = workload.retention
    return {
        **store_environment(settings, project),
        "HOLDFAST_WORKLOAD": name,
        "HOLDFAST_RUN": workload.run,
        "HOLDFAST_KEEP": str(workload.keep),
        "HOLDFAST_START": workload.start,
        "HOLDFAST_PUSH": workload.push,
        "HOLDFAST_DEADLINE": str(workload.backup_timeout),
        "HOLDFAST_RETENTION_KEEP_LAST": str(retention.keep_last),
        "HOLDFAST_RETENTION_HOURLY": str(retention.hourly),
        "HOLDFAST_RETENTION_DAILY": str(retention.daily),
        "HOLDFAST_RETENTION_WEEKLY": str(retention.weekly),
        "HOLDFAST_RETENTION_MONTHLY": str(retention.monthly),
        "HOLDFAST_GRACE": str(workload.grace),
        "HOLDFAST_KANISTER_NAMESPACE": settings.kanister.namespace,
        "HOLDFAST_NAMESPACE": workload.namespace,
        "HOLDFAST_CLAIM": workload.volume.claim,
        "HOLDFAST_BLUEPRINT": BLUEPRINT,
        "HOLDFAST_JOB": name,
        "HOLDFAST_TIMEOUT": str(workload.backup_timeout),
    }


def recover_environment(workload: Workload) -> dict[str, str]:
    """What the recover container adds. The run is here too, and not only in the ConfigMap: another
    one is another Job, while a container that starts again in its pod stays with its own."""
    return {
        "HOLDFAST_RUN": workload.run,
        "HOLDFAST_VOLUME": workload.mount_path,
        "HOLDFAST_DECISION": DECISION,
    }


def trainer_environment(name: str, settings: Settings, image: str) -> dict[str, str]:
    """What the trainer adds: its paths, its ranks, its image for the fingerprint; the user's own
    come last and win."""
    workload = settings.workloads[name]
    values = {
        **recover_environment(workload),
        "HOLDFAST_METRICS": METRICS,
        "HOLDFAST_PORT": str(workload.port),
        "HOLDFAST_RANKS": str(workload.ranks),
        "HOLDFAST_IMAGE": image,
        "HOLDFAST_TRAINING_SHUTDOWN_TIMEOUT": str(max(1, workload.save_seconds - EXIT_SECONDS)),
    }
    values |= rendezvous_environment(name, workload)
    values |= fabric_environment(name, settings)
    if workload.interval is not None:
        values["HOLDFAST_TRAINING_SAVE_EVERY"] = str(workload.interval)
    return {**values, **workload.env}

"""The HOLDFAST_* environment: everything that `holdfast` and the trainer read.

Paths that differ from pod to pod are not in the ConfigMap but in the container that needs them.
"""

from collections.abc import Mapping

from infra.kubernetes.distributed import fabric_environment, rendezvous_environment
from infra.names import (
    APPLICATIONS,
    BLUEPRINT,
    PIPELINE,
    PIPELINE_CONFIGURATION,
    PIPELINE_STATE,
    STORE_MOUNT,
    TOPMOST,
    TRACKING,
    WORK_MOUNT,
    WORKLOAD_LABEL,
    Project,
)
from infra.protected import ProtectedServer
from infra.settings import (
    AnyWorkload,
    Application,
    BackupStore,
    ForeignPods,
    Schedule,
    Workload,
)
from infra.settings.node_groups import TrainingNodes

DECISION = f"{WORK_MOUNT}/decision.json"
METRICS = f"{WORK_MOUNT}/metrics.jsonl"

#: Part of a save's time: what a process needs to end after it.
EXIT_SECONDS = 10


def store_environment(store: BackupStore, region: str | None, project: Project) -> dict[str, str]:
    """How to reach the store and who owns it.

    Args:
        store: its settings.
        region: the AWS region where pods run, if they do.
        project: the default of prefix and owner.
    """
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
    region = (store.existing.region if store.existing else None) or region
    if region and store.volume is None:
        values["AWS_REGION"] = region
    return {**values, "HOLDFAST_OWNER": store.owner or project.owner}


def workload_environment(
    name: str, workload: AnyWorkload, store: Mapping[str, str], kanister_namespace: str
) -> dict[str, str]:
    """The ConfigMap ``holdfast-<claim>``; ``store`` is the environment that reaches the store."""
    return {
        **store,
        "HOLDFAST_WORKLOAD": name,
        "HOLDFAST_RUN": workload.run,
        **_of_kind(name, workload),
        "HOLDFAST_START": workload.start,
        "HOLDFAST_PUSH": workload.push,
        **schedule_environment(workload),
        "HOLDFAST_KANISTER_NAMESPACE": kanister_namespace,
        "HOLDFAST_NAMESPACE": workload.namespace,
        "HOLDFAST_CLAIM": workload.volume.claim,
        "HOLDFAST_TIMEOUT": str(workload.backup_timeout),
    }


def schedule_environment(schedule: Schedule) -> dict[str, str]:
    """How long a backup may take, which snapshots stay, and when what goes is deleted."""
    retention = schedule.retention
    return {
        "HOLDFAST_DEADLINE": str(schedule.backup_timeout),
        "HOLDFAST_RETENTION_KEEP_LAST": str(retention.keep_last),
        "HOLDFAST_RETENTION_HOURLY": str(retention.hourly),
        "HOLDFAST_RETENTION_DAILY": str(retention.daily),
        "HOLDFAST_RETENTION_WEEKLY": str(retention.weekly),
        "HOLDFAST_RETENTION_MONTHLY": str(retention.monthly),
        "HOLDFAST_GRACE": str(schedule.grace),
    }


def publisher_environment(store: Mapping[str, str], grace: int) -> dict[str, str]:
    """The ConfigMap of publishers, and of the sweep after them; ``grace`` in seconds."""
    return {**store, "HOLDFAST_GRACE": str(grace)}


def paused_by_task(name: str, workload: AnyWorkload) -> str | None:
    """Where the search for the topmost owner begins, as `--pause` has it: ``KIND/NAME`` or
    ``KIND/LABEL=VALUE``. None for what Kanister pauses itself."""
    if isinstance(workload, ForeignPods):
        owner = workload.owner
        return f"{owner.kind}/{owner.name or owner.label or f'{WORKLOAD_LABEL}={name}'}"
    if isinstance(workload, Workload) and workload.queue is not None:
        return f"job/{name}"
    return None


def _of_kind(name: str, workload: AnyWorkload) -> dict[str, str]:
    """What a restore pauses and by which Blueprint, and what the bundles are."""
    if isinstance(workload, Application):
        return {
            "HOLDFAST_KIND": "model",
            "HOLDFAST_BLUEPRINT": APPLICATIONS,
            "HOLDFAST_DEPLOYMENT": name,
        }
    if (owner := paused_by_task(name, workload)) is not None:
        return {
            "HOLDFAST_KEEP": str(workload.keep),
            "HOLDFAST_BLUEPRINT": TOPMOST,
            "HOLDFAST_PAUSE": owner,
        }
    return {
        "HOLDFAST_KEEP": str(workload.keep),
        "HOLDFAST_BLUEPRINT": BLUEPRINT,
        "HOLDFAST_JOB": name,
    }


def pipeline_environment(
    backup: Schedule, server: ProtectedServer, store: Mapping[str, str], kanister_namespace: str
) -> dict[str, str]:
    """The ConfigMap of the pipeline: where its database and artifacts are, and how they are kept.
    Artifacts on a volume are named in the containers that mount it."""
    reach = {}
    if server.url is not None:
        reach["HOLDFAST_ARTIFACTS"] = server.url
    if server.bucket is not None and server.bucket.endpoint is not None:
        reach["AWS_ENDPOINT_URL"] = server.bucket.endpoint
        if server.bucket.endpoint.startswith("http://"):
            reach["AWS_ALLOW_HTTP"] = "true"
    if server.bucket is not None and server.bucket.region is not None:
        reach["AWS_REGION"] = server.bucket.region
    if server.mlflow_version is not None:
        reach["HOLDFAST_MLFLOW_VERSION"] = server.mlflow_version
    return {
        **reach,
        **store,
        **server.database,
        "HOLDFAST_WORKLOAD": PIPELINE,
        # The same for every server, so that one can take up the snapshots of another.
        "HOLDFAST_RUN": TRACKING,
        **schedule_environment(backup),
        "HOLDFAST_KANISTER_NAMESPACE": kanister_namespace,
        "HOLDFAST_NAMESPACE": server.namespace,
        "HOLDFAST_CONFIGURATION": PIPELINE_CONFIGURATION,
        "HOLDFAST_BLUEPRINT": PIPELINE_STATE,
        "HOLDFAST_DEPLOYMENT": server.deployment,
        "HOLDFAST_TIMEOUT": str(backup.backup_timeout),
    }


def recover_environment(workload: AnyWorkload) -> dict[str, str]:
    """What the recover container adds. The run's name is here too, not only in the ConfigMap: a
    changed name makes another Job, and a container that restarts in its pod keeps its own run."""
    return {
        "HOLDFAST_RUN": workload.run,
        "HOLDFAST_VOLUME": workload.mount_path,
        "HOLDFAST_DECISION": DECISION,
    }


def application_environment(application: Application) -> dict[str, str]:
    """What an application's server adds: where its bundles are, and its port. The user's own
    variables come last and override the others."""
    return {
        "HOLDFAST_RUN": application.run,
        "HOLDFAST_VOLUME": application.mount_path,
        "HOLDFAST_PORT": str(application.port),
        **application.env,
    }


def trainer_environment(
    name: str, workload: Workload, nodes: TrainingNodes | None, image: str
) -> dict[str, str]:
    """What the trainer adds: its paths, its ranks, its image for the fingerprint. The user's own
    variables come last and override the others."""
    values = {
        **recover_environment(workload),
        "HOLDFAST_METRICS": METRICS,
        "HOLDFAST_PORT": str(workload.port),
        "HOLDFAST_RANKS": str(workload.ranks),
        "HOLDFAST_IMAGE": image,
        "HOLDFAST_TRAINING_SHUTDOWN_TIMEOUT": str(max(1, workload.save_seconds - EXIT_SECONDS)),
    }
    values |= rendezvous_environment(name, workload)
    values |= fabric_environment(workload, nodes)
    if workload.interval is not None:
        values["HOLDFAST_TRAINING_SAVE_EVERY"] = str(workload.interval)
    return {**values, **workload.env}

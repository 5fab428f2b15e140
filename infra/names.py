"""Names and paths that several layers share."""

from dataclasses import dataclass

PART_OF = {"app.kubernetes.io/part-of": "holdfast"}

#: Carried by every pod that mounts a claim, so that tasks find the trainer's node.
CLAIM_LABEL = "holdfast.dev/claim"
#: Carried by the trainer's pods and by all that belongs to a workload.
WORKLOAD_LABEL = "holdfast.dev/workload"

SYSTEM_NAMESPACE = "holdfast-system"
#: Blueprints: of trainings, of applications, of the pipeline, of what is in a queue or another's.
BLUEPRINT, APPLICATIONS, PIPELINE_STATE = "checkpoints", "applications", "pipeline-state"
TOPMOST = "topmost"
#: Owners whose pods end: Kueue admits them as a whole, and they are started by no one again.
OF_JOBS = ("job", "jobset", "trainjob")
#: Names the queue of Kueue that a Job waits in.
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
#: The workload of the store that holds the pipeline's snapshots.
PIPELINE = "pipeline"
#: Its ConfigMap, which ActionSets are about, and the account of its tasks; that of what restores.
PIPELINE_CONFIGURATION = f"holdfast-{PIPELINE}"
PIPELINE_RESTORER = f"{PIPELINE_CONFIGURATION}-restore"
#: Adds and promotes datasets and models: its account, and the ConfigMap that reaches the store.
PUBLISHER = "holdfast-publisher"
#: Removes what no version of them names any more: its CronJob and account.
ASSETS_PRUNE = "holdfast-prune"
#: Of training pods, where the cluster is the stack's own.
PRIORITY_CLASS = "holdfast-training"

#: Where the store's volume and the scratch directory appear in our containers.
STORE_MOUNT = "/var/lib/holdfast/store"
WORK_MOUNT = "/var/lib/holdfast/scratch"
#: The MLflow server, its database, and the Secret that trainers log in with.
TRACKING, TRACKING_DATABASE, TRACKING_CLIENT = "tracking", "tracking-database", "tracking-client"
TRACKING_PORT = 5000


def workload_labels(workload: str) -> dict[str, str]:
    """The labels of everything that belongs to one workload."""
    return {**PART_OF, WORKLOAD_LABEL: workload}


#: On a PersistentVolume: the zone of what is behind it, and whether the stack made that.
ZONE_ANNOTATION = "holdfast.dev/zone"
MADE_BY_STACK_ANNOTATION = "holdfast.dev/made-by-stack"
#: On the ConfigMap of a workload of someone else's: what its pod template gets, as JSON.
POD_ANNOTATION = "holdfast.dev/pod"


def volume_name(volume: str, namespace: str | None = None) -> str:
    """The PersistentVolume of a volume; a directory that several namespaces mount has one each."""
    return f"{volume}-{namespace}-vol" if namespace else f"{volume}-vol"


def config_map_name(claim: str) -> str:
    """The ConfigMap with a workload's environment: a Blueprint knows only the claim's name."""
    return f"holdfast-{claim}"


def task_account(claim: str) -> str:
    """The ServiceAccount of Kanister's tasks on a claim: a Blueprint knows only the claim."""
    return f"holdfast-{claim}"


def pause_account(claim: str) -> str:
    """The ServiceAccount of the tasks that pause and resume what owns the pods of a claim."""
    return f"{task_account(claim)}-pause"


def training_runtime_name(namespace: str, workload: str) -> str:
    """The ClusterTrainingRuntime of a workload; it is in no namespace, so its name says whose."""
    return f"holdfast-{namespace}-{workload}"


def members_service(workload: str) -> str:
    """The headless Service in front of the pods of a training over several nodes."""
    return f"{workload}-members"


def rendezvous(workload: str) -> str:
    """The Deployment, and its Service, where the nodes of a training meet."""
    return f"{workload}-rendezvous"


def backup_account(workload: str) -> str:
    """The ServiceAccount, and the CronJob, that back a workload up."""
    return f"{workload}-backup"


@dataclass(frozen=True)
class Project:
    """Which stack this is: the default prefix and owner of its backups."""

    project: str
    stack: str

    @property
    def owner(self) -> str:
        """``<project>/<stack>``."""
        return f"{self.project}/{self.stack}"

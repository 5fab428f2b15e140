"""What every stack has, whatever it runs on: images, Kanister, the backup store, the workloads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from infra import versions
from infra.settings.fields import Image, Model, Name
from infra.settings.foreign import ForeignPods
from infra.settings.network_volumes import EbsVolume, EfsVolume, FsxLustreVolume
from infra.settings.node_groups import TrainingGroup, TrainingNodes
from infra.settings.pipeline import Pipeline
from infra.settings.protection import DAY
from infra.settings.store import BackupStore, ExistingStore
from infra.settings.volumes import ExistingClaim, HostPathVolume, Volume
from infra.settings.workload import AnyWorkload, Application, Workload

#: Namespaces that the cluster or another layer owns.
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease", "holdfast-system")

#: Names in the backup store that are not a workload's: datasets, models, the pipeline's state.
RESERVED_WORKLOADS = ("datasets", "models", "pipeline")


#: How the accounts of Kanister's tasks begin, after which comes the claim; and two that are none.
OUR_PREFIX, RESERVED_CLAIMS = "holdfast-", ("publisher", "prune")


class KubernetesSettings(Model):
    """Which cluster, and how to reach it."""

    context: str | None = None
    """The kubeconfig context. Default: the current one."""
    kubeconfig: str | None = None
    """The kubeconfig file. Default: KUBECONFIG, else the one in your home directory."""


@dataclass(frozen=True)
class EksAccess:
    """An EKS cluster, for which a kubeconfig is made when it is needed."""

    name: str
    region: str


class Images(Model):
    """Container images. Never ``latest``: what runs must not depend on the day."""

    tools: Image = "holdfast-tools:dev"
    """The ``holdfast`` command: recover container, backup CronJob, Kanister's tasks."""
    training: Image = "holdfast-training:dev"
    """The trainer, unless a workload names its own."""


class KanisterSettings(Model):
    """The Kanister operator, which runs the Blueprints."""

    namespace: Name = "kanister"
    """Its namespace, which holds Blueprints and ActionSets too."""
    chart: str = versions.KANISTER[1]
    """The chart's name in the repository; or a chart that needs none: a path on disk that begins
    with ``./``, ``../`` or ``/``, or ``oci://…``."""
    version: str = Field(default=versions.KANISTER[2], pattern=r"^\d+\.\d+\.\d+$")
    """The chart's version, equal to Kanister's."""
    repository: str | None = None
    """The chart repository. Default: Kanister's own; none for a chart that needs none."""
    values: dict[str, Any] = Field(default_factory=dict)
    """Further Helm values, merged over Holdfast's: an image mirror, node selectors, tolerations.
    Not ``bpValidatingWebhook``: Kanister's webhook refuses the Blueprints, also the webhook of
    another Kanister in the cluster."""

    @property
    def chart_repository(self) -> str | None:
        """Where the chart comes from; None where its name says that."""
        return None if self._is_complete else self.repository or versions.KANISTER[0]

    @property
    def _is_complete(self) -> bool:
        return self.chart.startswith(("./", "../", "/", "oci://"))

    @model_validator(mode="after")
    def _one_place_for_the_chart(self) -> "KanisterSettings":
        if self._is_complete and self.repository is not None:
            raise ValueError(
                f"repository {self.repository} is not used for chart {self.chart}: leave it out, "
                f"or name a chart in it, such as {versions.KANISTER[1]}"
            )
        return self

    @field_validator("values")
    @classmethod
    def _no_webhook(cls, values: dict[str, Any]) -> dict[str, Any]:
        webhook = values.get("bpValidatingWebhook")
        if isinstance(webhook, dict) and webhook.get("enabled", False) is not False:
            raise ValueError(
                "bpValidatingWebhook is enabled, and Kanister's webhook would refuse the "
                "Blueprints: it takes `{{ .PVC.Name }}` in a label for the label itself. Leave it "
                "out"
            )
        return values


class Settings(Model):
    """What all targets have in common."""

    target: str
    """What the stack runs on."""
    images: Images = Images()
    """Container images."""
    run_as: int = Field(default=1000, ge=1, le=2**31 - 1)
    """User and group id of every pod of the stack; not 0, which ``restricted`` refuses."""
    kanister: KanisterSettings = KanisterSettings()
    """The Kanister operator."""
    backup_store: BackupStore
    """Where backups live."""
    workloads: dict[Name, AnyWorkload] = Field(min_length=1)
    """Trainings, applications and pods of others by name. The first one's names are the stack's
    plain exports."""
    pipeline: Pipeline = Pipeline()
    """Experiment tracking."""

    @field_validator("workloads")
    @classmethod
    def _names_and_namespaces_are_free(
        cls, workloads: dict[str, AnyWorkload]
    ) -> dict[str, AnyWorkload]:
        for name, workload in workloads.items():
            if name in RESERVED_WORKLOADS:
                kept = ", ".join(RESERVED_WORKLOADS)
                raise ValueError(
                    f"{name} is a place of its own in the backup store ({kept} are): use another "
                    "name, such as churn"
                )
            if name.startswith(OUR_PREFIX):
                raise ValueError(
                    f"{name} begins with {OUR_PREFIX}, as accounts of the stack do: use another "
                    "name, such as churn"
                )
            if workload.volume.claim in RESERVED_CLAIMS:
                raise ValueError(
                    f"{name} has a claim called {workload.volume.claim}, and {OUR_PREFIX}"
                    f"{workload.volume.claim} is an account of the stack's: use another claim"
                )
            foreign = isinstance(workload, ForeignPods) and workload.namespace == "default"
            if workload.namespace in SYSTEM_NAMESPACES and not foreign:
                raise ValueError(
                    f"{name} is in namespace {workload.namespace}, which belongs to the "
                    "cluster or to Holdfast: use another, such as training"
                )
        return workloads

    @model_validator(mode="after")
    def _kanister_is_apart(self) -> "Settings":
        for name, workload in self.workloads.items():
            if workload.namespace == self.kanister.namespace:
                raise ValueError(
                    f"workloads.{name}.namespace: {workload.namespace} belongs to Kanister: "
                    "use another, so that no workload can reach the operator"
                )
        return self

    @model_validator(mode="after")
    def _tracking_is_apart(self) -> "Settings":
        tracking = self.pipeline.tracking
        if tracking is None:
            return self
        taken = {*self.namespaces(), self.kanister.namespace, *SYSTEM_NAMESPACES}
        if tracking.namespace in taken:
            raise ValueError(
                f"pipeline.tracking.namespace {tracking.namespace} is used already: use one of its "
                "own, such as pipeline, since its network policies close it"
            )
        return self

    @model_validator(mode="after")
    def _the_existing_server_is_apart(self) -> "Settings":
        server = self.pipeline.existing
        if server is None:
            return self
        cluster = [each for each in SYSTEM_NAMESPACES if each != "default"]
        if server.namespace in (*self.namespaces(), self.kanister.namespace, *cluster):
            raise ValueError(
                f"pipeline.existing.namespace: {server.namespace} is used by the stack or by the "
                "cluster: give the workloads a namespace of their own, so that none of their pods "
                "can use the server's accounts"
            )
        if server.run_as not in (None, self.run_as) and self.backup_store.volume is not None:
            raise ValueError(
                f"pipeline.existing.run_as: {server.run_as} cannot write to the store's volume, "
                f"which belongs to {self.run_as}: use a bucket as backup_store, or one user for all"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_both_buckets(self) -> "Settings":
        """A task of the pipeline's reads one bucket and writes another, with one environment."""
        server = self.pipeline.protected
        if server is None or self.backup_store.volume or server.artifacts.url is None:
            return self
        if self.pipeline.existing is not None:
            where = "existing.artifacts.bucket"
        else:
            where = "tracking.artifacts." + ("existing" if server.artifacts.bucket else "create")
        here = self._way_to(server.artifacts.bucket)
        there = self._way_to(self.backup_store.existing)
        remedy = "use one for both"
        if self.pipeline.existing is None:
            remedy += ", or say pipeline.backup.enabled: false"
        for key, mine in here.items():
            if mine != there[key]:
                raise ValueError(
                    f"pipeline.{where}.{key}: {mine} is not that of the backup store, "
                    f"{there[key]}, and a backup reaches both at once: {remedy}"
                )
        return self

    def _way_to(self, bucket: ExistingStore | None) -> dict[str, str | None]:
        """How a bucket is reached; None: one that the stack makes."""
        return {
            "endpoint": bucket.endpoint if bucket is not None else None,
            "region": (bucket.region if bucket is not None else None) or self.region,
            "credentials_secret": bucket.credentials_secret if bucket is not None else None,
        }

    @model_validator(mode="after")
    def _volumes_are_distinct(self) -> "Settings":
        names: dict[str, str] = {}
        paths: dict[str, str] = {}
        for where, scope, volume in self.volumes():
            cluster_wide = not isinstance(volume, ExistingClaim)
            key = volume.name if cluster_wide else f"{scope}/{volume.name}"
            if key in names:
                raise ValueError(
                    f"{where}.name: '{volume.name}' is the name of {names[key]} too: "
                    "give each volume a name of its own"
                )
            names[key] = where
            if isinstance(volume, HostPathVolume):
                for path, other in paths.items():
                    mine = f"{volume.node}:{volume.path}/"
                    if mine.startswith(path) or path.startswith(mine):
                        raise ValueError(
                            f"{where}.path: {volume.path} overlaps the directory of {other}: "
                            "give each volume a directory of its own"
                        )
                paths[f"{volume.node}:{volume.path}/"] = where
        return self

    def volumes(self) -> Iterator[tuple[str, str, Volume]]:
        """Each volume of the stack: the setting it comes from, its namespace, itself."""
        for name, workload in self.workloads.items():
            yield f"workloads.{name}.volume", workload.namespace, workload.volume
        if self.backup_store.volume is not None:
            yield "backup_store.volume", "", self.backup_store.volume
        if self.pipeline.tracking is not None:
            for where, volume in self.pipeline.tracking.volumes():
                yield f"pipeline.tracking.{where}", self.pipeline.tracking.namespace, volume

    def makes_namespace(self, namespace: str) -> bool:
        """Whether a namespace is the stack's: not one that holds a claim of someone else's, or the
        tracking server of someone else."""
        existing = self.pipeline.existing
        if existing is not None and existing.namespace == namespace:
            return False
        return not any(
            isinstance(volume, ExistingClaim) and scope in (namespace, "")
            for _, scope, volume in self.volumes()
        )

    def namespaces(self) -> list[str]:
        """The workloads' namespaces, each once, in the order of the settings."""
        return list(dict.fromkeys(workload.namespace for workload in self.workloads.values()))

    @property
    def trainings(self) -> dict[str, Workload]:
        """The training jobs by name."""
        return {n: w for n, w in self.workloads.items() if isinstance(w, Workload)}

    @property
    def applications(self) -> dict[str, Application]:
        """The Deployments by name."""
        return {n: w for n, w in self.workloads.items() if isinstance(w, Application)}

    @property
    def foreign(self) -> dict[str, ForeignPods]:
        """What someone else runs, by name."""
        return {n: w for n, w in self.workloads.items() if isinstance(w, ForeignPods)}

    def longest_grace_of_pods(self, namespace: str | None = None) -> int:
        """Seconds that pods of the stack's own may take to end, in one namespace or in all."""
        return max(
            (
                each.termination_grace_seconds
                for each in (*self.trainings.values(), *self.applications.values())
                if namespace in (None, each.namespace)
            ),
            default=0,
        )

    def training_groups(self) -> dict[str, TrainingGroup]:
        """The training groups by name; none where the nodes are not the stack's own."""
        return {}

    def nodes_of(self, name: str) -> TrainingNodes | None:
        """The training group that hosts a workload; None where the nodes are not the stack's."""
        return None

    @property
    def longest_grace(self) -> int:
        """Seconds for which datasets and models must wait for deletion: whoever names them may take
        half of its own grace period to do so."""
        schedules = [*self.workloads.values(), self.pipeline.backup]
        return max(DAY, *(schedule.grace for schedule in schedules))

    @property
    def region(self) -> str | None:
        """The AWS region where pods run, if they do."""
        return None

    @property
    def deploys(self) -> bool:
        """Whether there are images, so that pods can be declared."""
        return True

    @property
    def access(self) -> KubernetesSettings | EksAccess:
        """How kubectl reaches the cluster."""
        raise TypeError(f"{type(self).__name__} does not say how its cluster is reached")


class KubernetesStack(Settings):
    """A stack on a cluster that is there already."""

    target: Literal["kubernetes"]
    """``kubernetes``: any cluster that a kubeconfig context reaches."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """Which cluster."""
    cluster_identifier: str = Field(min_length=1, max_length=253)
    """A name for the cluster. While it stays, a changed server address (kind and minikube pick
    another port at each start) replaces nothing; another name is another cluster and replaces
    everything."""

    @property
    def access(self) -> KubernetesSettings:
        return self.kubernetes

    @model_validator(mode="after")
    def _makes_nothing_in_aws(self) -> "KubernetesStack":
        if self.backup_store.create is not None:
            raise ValueError(
                "backup_store.create: only target eks makes buckets: make one yourself and name it "
                "in backup_store.existing"
            )
        tracking = self.pipeline.tracking
        if tracking is not None and tracking.artifacts.create is not None:
            raise ValueError(
                "pipeline.tracking.artifacts.create: only target eks makes buckets: make one "
                "yourself and name it in pipeline.tracking.artifacts.existing"
            )
        for where, _, volume in self.volumes():
            if isinstance(volume, EbsVolume | EfsVolume | FsxLustreVolume):
                raise ValueError(
                    f"{where}: only target eks makes volumes of kind {volume.kind}: make a claim "
                    "with your cluster's own driver and use existing-claim"
                )
        return self

"""One workload: what runs on a volume, its schedule and what protects it.

A workload is a training (kind ``training``, the default), an application (kind ``deployment``), or
pods of someone else's (kind ``protected``).
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from infra.settings.fields import (
    Cpu,
    EnvName,
    Image,
    Model,
    ModelName,
    Name,
    RunName,
    Size,
    size_bytes,
)
from infra.settings.foreign import ForeignPods
from infra.settings.protection import HOUR, MINUTE, Protected, room
from infra.settings.volumes import SHAREABLE, Volume


class Resources(Model):
    """What the workload's container asks for, and may use at most."""

    cpu: Cpu = "2"
    """Cores; also the limit."""
    memory: Size = "4Gi"
    """Memory; also the limit, shared memory included."""


class OwnPods(Protected):
    """What a workload has whose pods the stack makes."""

    volume: Volume
    """Where it keeps its bundles."""
    env: dict[EnvName, str] = Field(default_factory=dict)
    """Further environment of its container. No secrets: they would be readable in the object."""
    resources: Resources = Resources()
    """CPU and memory of its container."""

    @model_validator(mode="after")
    def _env_is_the_users(self) -> "OwnPods":
        for name in self.env:
            if name.startswith("HOLDFAST_") and not name.startswith("HOLDFAST_TRAINING_"):
                raise ValueError(
                    f"env {name} is set by Holdfast: use the setting that it comes from"
                )
        return self


class Workload(OwnPods):
    """A training job and how it is protected."""

    kind: Literal["training"] = "training"
    """Selects this kind, which is the default."""
    image: Image | None = None
    """The trainer's image. Default: ``images.training``."""
    command: tuple[str, ...] = Field(default=("python", "-m", "training"), min_length=1)
    """What the trainer runs: any framework that writes bundles below HOLDFAST_VOLUME."""
    run: RunName
    """The training run. A new name is a new start from step 0, by intent."""
    queue: Name | None = None
    """The LocalQueue of Kueue, in the workload's namespace, that admits the Job. Kueue must be
    installed. Default: the Job starts at once."""
    node_group: Name | None = None
    """Target eks: the training group that runs it. Default: the first that can."""
    nodes: int = Field(default=1, ge=1, le=1024)
    """Nodes that train together."""
    min_nodes: int | None = Field(default=None, ge=1, le=1024)
    """Nodes that are enough while others are gone: the training is slower then. Default: all."""
    gpus_per_node: int = Field(default=0, ge=0, le=16)
    """NVIDIA GPUs on each node."""
    ranks: int = Field(default=1, ge=1, le=1024)
    """Training processes on each node; one for each GPU where there are GPUs."""
    interval: int | None = Field(default=None, ge=1)
    """Steps between two saves. Default: the workload's own."""
    port: int = Field(default=8080, ge=1024, le=65535)
    """The port that the trainer serves (metrics), and its Service."""
    keep: int = Field(default=3, ge=1, le=1000)
    """Bundles that stay on the volume: the newest K that are valid."""
    pinned: int = Field(default=0, ge=0)
    """Bundles that you mean to pin on the volume; only the space rule uses it."""
    bundle_size: Size | None = None
    """What one bundle takes, such as ``2Gi``. With it, the volume's size is checked."""
    shared_memory: Size = "1Gi"
    """Size of /dev/shm, which data loaders and NCCL use; counts as memory."""
    save_seconds: int = Field(default=2 * MINUTE, ge=1)
    """How long one save may take, at worst."""
    upload_seconds: int = Field(default=0, ge=0)
    """How long the trainer itself uploads after its last save (0: a CronJob does it)."""
    termination_grace_seconds: int = Field(default=5 * MINUTE, ge=1, le=HOUR)
    """Seconds between SIGTERM and SIGKILL: the last save must fit."""
    accept_forced_drain: bool = False
    """Target eks: must be true where save_seconds + upload_seconds are over 300. EKS deletes pods
    15 minutes after it began to drain their node for an update of its group, and about 5 minutes
    after where the group is deleted or replaced, whatever the pods' grace period."""
    backoff_limit: int = Field(default=100, ge=0)
    """Lost pods after which the Job gives up. In-place restarts and evictions do not count."""
    restart: Literal["container", "all-containers"] = "container"
    """What starts again, in its pod, when the trainer failed. ``container``: the trainer alone.
    ``all-containers``: ``recover`` before it, which refills a lost volume; from Kubernetes 1.36 on,
    nodes included, and ``kubectl logs --previous`` has nothing."""
    rollout: Literal["replace", "manual"] = "replace"
    """``replace``: a changed pod template stops, saves and resumes the run at the next ``up``.
    ``manual``: it is ignored until this says ``replace`` again."""

    @property
    def least_nodes(self) -> int:
        """Nodes that are enough to go on."""
        return self.min_nodes or self.nodes

    @model_validator(mode="after")
    def _one_volume_many_nodes(self) -> "Workload":
        if self.nodes > 1 and "ReadWriteMany" not in self.volume.access_modes:
            raise ValueError(
                f"volume '{self.volume.kind}' cannot be shared by {self.nodes} nodes: "
                f"use {SHAREABLE} with access mode ReadWriteMany, or nodes: 1"
            )
        return self

    @model_validator(mode="after")
    def _enough_nodes(self) -> "Workload":
        if self.least_nodes > self.nodes:
            raise ValueError(
                f"min_nodes {self.min_nodes} is more than nodes {self.nodes}: "
                f"use {self.nodes} at most"
            )
        return self

    @model_validator(mode="after")
    def _a_gpu_for_each_rank(self) -> "Workload":
        if self.gpus_per_node and self.ranks > self.gpus_per_node:
            raise ValueError(
                f"ranks {self.ranks} share {self.gpus_per_node} GPUs on each node: "
                f"use ranks {self.gpus_per_node}, one for each"
            )
        return self

    @model_validator(mode="after")
    def _last_save_fits(self) -> "Workload":
        needed = self.save_seconds + self.upload_seconds
        if self.termination_grace_seconds < needed:
            raise ValueError(
                f"termination_grace_seconds {self.termination_grace_seconds} is less than "
                f"save_seconds + upload_seconds: use at least {needed}"
            )
        return self

    @model_validator(mode="after")
    def _space_suffices(self) -> "Workload":
        room(self.volume, self.keep, self.pinned, self.bundle_size)
        return self

    @model_validator(mode="after")
    def _memory_holds_shared_memory(self) -> "Workload":
        if size_bytes(self.shared_memory) >= size_bytes(self.resources.memory):
            raise ValueError(
                f"shared_memory {self.shared_memory} uses all of the "
                f"{self.resources.memory} of memory: raise resources.memory"
            )
        return self


class Application(OwnPods):
    """A server that answers from what is on its volume, and how it is protected."""

    kind: Literal["deployment"]
    """Selects this kind: a Deployment, with a Service in front of it."""
    image: Image | None = None
    """Its image. Default: ``images.training``, which has the example's model server."""
    command: tuple[str, ...] = Field(default=("python", "-m", "training.serve"), min_length=1)
    """What it runs: anything that reads the newest bundle below HOLDFAST_VOLUME."""
    run: RunName = "serving"
    """The name under which its bundles are kept, on the volume and in the store."""
    model: ModelName | None = None
    """A model of the store that a starting pod puts on the volume: ``NAME@alias``,
    ``NAME:version``, or ``NAME`` for the newest version. Default: none is looked for."""
    port: int = Field(default=8080, ge=1024, le=65535)
    """The port that it serves, and its Service."""
    health_path: str = Field(default="/health", pattern=r"^/[\w./-]*$")
    """What the kubelet asks for by HTTP: anything but a success takes the pod out of the Service,
    and restarts it after two minutes."""
    termination_grace_seconds: int = Field(default=MINUTE, ge=1, le=HOUR)
    """Seconds between SIGTERM and SIGKILL: answers under way must fit."""


def _kind(value: Any) -> str:
    """A workload that does not say its kind is a training, as all were once."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else str(kind or "training")


AnyWorkload = Annotated[
    Annotated[Workload, Tag("training")]
    | Annotated[Application, Tag("deployment")]
    | Annotated[ForeignPods, Tag("protected")],
    Discriminator(_kind),
]

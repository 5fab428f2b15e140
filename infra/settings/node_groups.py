"""Node groups: a small one for the system, and dedicated ones that only training pods may use."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from infra.settings.fields import Model, Name, Size, size_bytes
from infra.settings.instances import EFA_TYPES, INSTANCES, UNSUPPORTED, InstanceType
from infra.settings.network import ZoneId

#: Labels and taints of training nodes. Pods tolerate and select exactly these.
WORKLOAD_TYPE = "workload-type"
MODEL_TRAINING = "model-training"
GPU = "nvidia.com/gpu"
EFA = "vpc.amazonaws.com/efa"
GROUP_LABEL = "holdfast.dev/node-group"

#: EC2 says two minutes before it takes a spot node.
SPOT_NOTICE = 120

#: The node image of the NVIDIA AMI does not fit on less.
SMALLEST_DISK = 20 * 2**30


def _instance_type(value: str) -> str:
    for family, reason in UNSUPPORTED.items():
        if value.startswith(family):
            raise ValueError(f"{value} {reason}: use an x86-64 type with NVIDIA GPUs, or none")
    if value not in INSTANCES:
        close = difflib.get_close_matches(value, INSTANCES, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}? Else " if close else ""
        raise ValueError(
            f"{value!r} is not known: {hint}add its figures to infra/settings/instances.py"
        )
    return value


InstanceName = Annotated[str, AfterValidator(_instance_type)]


def _placement_group(value: object) -> object:
    """Before the types, since each member of a union would have a line of its own to say."""
    if isinstance(value, str) and (not value.isascii() or not 1 <= len(value) <= 255):
        raise ValueError(
            f"{value!r} is not a placement group's name: use 1 to 255 ASCII characters"
        )
    if not isinstance(value, bool | str):
        raise ValueError(f"{value!r} is not a placement group: write true, false or a name")
    return value


PlacementGroup = Annotated[bool | str, BeforeValidator(_placement_group)]
InstanceNames = Annotated[tuple[InstanceName, ...], Field(min_length=1)]


#: Of a gp3 disk: operations and MiB a second. The second pair is what AWS measured parallel pulls
#: with (awslabs/amazon-eks-ami, nodeadm/doc/examples.md: 600 MiB/s at least, 1,000 and 16,000
#: recommended).
BASE_DISK, FAST_DISK = (3000, 125), (16_000, 1000)


class Scaling(Model):
    """Numbers of nodes, fewest to most."""

    min: int = Field(default=1, ge=0, le=1000)
    """The fewest."""
    desired: int = Field(default=2, ge=0, le=1000)
    """How many there are after `up`."""
    max: int = Field(default=3, ge=1, le=1000)
    """The most: an update adds new nodes before it removes old ones."""

    @model_validator(mode="after")
    def _in_order(self) -> "Scaling":
        if not self.min <= self.desired <= self.max:
            raise ValueError(
                f"desired {self.desired} is not between min {self.min} and max {self.max}: "
                "correct one of them"
            )
        return self


class RepairRule(Model):
    """What EKS does about one finding of the node monitoring agent, instead of its default."""

    condition: Literal[
        "AcceleratedHardwareReady",
        "ContainerRuntimeReady",
        "KernelReady",
        "NetworkingReady",
        "StorageReady",
    ]
    """The node's condition."""
    reason: str = Field(pattern=r"^[A-Za-z0-9]{1,100}$")
    """The reason that the condition gives, such as ``DCGMError``."""
    wait_minutes: int = Field(default=10, ge=1, le=10080)
    """Minutes that the finding must last."""
    action: Literal["Replace", "Reboot", "NoAction"]
    """What EKS then does."""


#: The agent never takes this finding back, not even when DCGM answers again, and it comes from a
#: restart of DCGM alone: healthy nodes would be replaced under a run
#: (aws/eks-node-monitoring-agent issue 266, pull request 275). Faults of a GPU have reasons of
#: their own (``NvidiaXID…Error``, ``DCGMHealthCode…``), which EKS still acts on.
DCGM_IS_NO_FAULT = RepairRule(
    condition="AcceleratedHardwareReady", reason="DCGMError", wait_minutes=10, action="NoAction"
)


class NodeGroup(Model):
    """What every managed node group has."""

    instance_types: InstanceNames
    """EC2 instance types; with several, EC2 takes the first that it has."""
    scaling: Scaling = Scaling()
    """Numbers of nodes."""
    disk_size: Size = "100Gi"
    """The root disk: gp3, encrypted. Images and pods' scratch space live there."""

    @field_validator("disk_size")
    @classmethod
    def _disk_holds_the_image(cls, size: str) -> str:
        if size_bytes(size) < SMALLEST_DISK or size_bytes(size) % 2**30:
            raise ValueError(f"{size} is not whole GiB from 20Gi: use 20Gi or more")
        return size

    @property
    def disk_gib(self) -> int:
        """The root disk in GiB, as EC2 wants it."""
        return size_bytes(self.disk_size) // 2**30

    @property
    def most_nodes(self) -> int:
        """The most nodes at any time."""
        return self.scaling.max

    def types(self) -> list[InstanceType]:
        """What is known of its instance types."""
        return [INSTANCES[name] for name in self.instance_types]


class SystemGroup(NodeGroup):
    """Nodes without a taint, on all zones: CoreDNS, Kanister, controllers."""

    instance_types: InstanceNames = ("m7i.large",)
    """EC2 instance types; x86-64, since Kanister's images are."""
    scaling: Scaling = Scaling(min=1, desired=2, max=4)
    """Numbers of nodes."""
    disk_size: Size = "50Gi"
    """The root disk: gp3, encrypted."""

    @field_validator("instance_types")
    @classmethod
    def _no_gpus(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if INSTANCES[name].gpus:
                raise ValueError(
                    f"{name} has GPUs, which the system group would waste: use m7i.large or similar"
                )
        return names

    @field_validator("scaling")
    @classmethod
    def _never_empty(cls, scaling: Scaling) -> Scaling:
        if scaling.min < 1:
            raise ValueError("min 0 would leave CoreDNS and Kanister no node: use at least 1")
        return scaling


class Elastic(Model):
    """Nodes that Karpenter makes while pods wait for them, and removes when they are empty."""

    purchase: tuple[Literal["on-demand", "spot"], ...] = Field(
        default=("on-demand",), min_length=1, max_length=2
    )
    """How EC2 sells them. With both, spot is taken first, and on demand where there is none."""
    max_nodes: int = Field(default=3, ge=1, le=1000)
    """The most nodes at any time: the bound of what the group can cost."""
    idle_minutes: int = Field(default=10, ge=1, le=1440)
    """Minutes after which an empty node goes. A Job that is restored or replaced finds its nodes
    still there within them."""
    protect_hours: int | None = Field(default=None, ge=1, le=8760)
    """Hours after its start during which a trainer's node is never drained by choice of Karpenter.
    Default: as long as it trains. Interruptions by EC2 are no choice: the trainer then saves."""


class TrainingGroup(NodeGroup):
    """Dedicated nodes: labelled workload-type=model-training, and tainted for all other pods."""

    capacity: Literal["on-demand", "spot", "reservation", "capacity-block", "elastic"] = "on-demand"
    """How EC2 provides the nodes. ``spot`` is cheap and can be taken with two minutes' notice.
    ``elastic``: nodes come when pods wait and go when the Job ends; all others have a fixed number
    of nodes, ``scaling``."""
    elastic: Elastic = Elastic()
    """With ``capacity: elastic``: how many nodes, bought how, and when they go."""
    reservation_id: str | None = Field(default=None, pattern=r"^cr-[0-9a-f]{8,17}$")
    """The capacity reservation or Capacity Block, ``cr-…``."""
    accept_interruptions: bool = False
    """Must be true where all training groups are on spot."""
    zone: ZoneId | None = None
    """One zone ID for all its nodes. Needed with EFA, a placement group or reserved capacity."""
    efa: bool = False
    """Elastic Fabric Adapter on every network card that has it, and its device plugin."""
    parallel_image_pull: bool = False
    """Pull and unpack the layers of an image side by side (SOCI), which pays for images of 5 GB and
    more. The root disk then has 16,000 operations and 1,000 MiB a second, at a price: below 600
    MiB a second it would be slower than without. Needs instance types of 2xlarge or larger."""
    placement_group: PlacementGroup = False
    """Put the nodes close together: true makes a group, a name uses the one that there is. Where
    capacity is scarce, EC2 then finds it less often. With a reservation only the name of the group
    that it was made in; not with a Capacity Block, which is close together by itself."""
    repair: tuple[RepairRule, ...] = (DCGM_IS_NO_FAULT,)
    """What node repair does about single findings. Default: nothing about ``DCGMError``, which
    stays on healthy nodes; GPU faults have reasons of their own. An empty list is EKS' default:
    replace or reboot."""

    @model_validator(mode="after")
    def _all_or_no_gpus(self) -> "TrainingGroup":
        counts = {facts.gpus for facts in self.types()}
        if len(counts) > 1:
            raise ValueError(
                f"instance_types {', '.join(self.instance_types)} differ in GPUs: "
                "make one group of each"
            )
        return self

    @model_validator(mode="after")
    def _elastic_or_fixed(self) -> "TrainingGroup":
        if self.capacity == "elastic" and "scaling" in self.model_fields_set:
            raise ValueError(
                "scaling with capacity elastic would not be used, as nodes follow the pods: "
                "remove it, and set elastic.max_nodes"
            )
        if self.capacity != "elastic" and "elastic" in self.model_fields_set:
            raise ValueError(
                f"elastic with capacity {self.capacity} would not be used: "
                "set capacity to elastic, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _large_enough_to_pull_in_parallel(self) -> "TrainingGroup":
        """By nodeadm's own documentation (awslabs/amazon-eks-ami, nodeadm/doc/examples.md)."""
        small = [name for name in self.instance_types if name.endswith((".large", ".xlarge"))]
        if self.parallel_image_pull and small:
            raise ValueError(
                f"parallel_image_pull: {small[0]} is too small for it: use 2xlarge or larger, or "
                "false"
            )
        return self

    @model_validator(mode="after")
    def _efa_exists(self) -> "TrainingGroup":
        if not self.efa:
            return self
        if len(self.instance_types) > 1:
            raise ValueError(
                "efa needs one instance type, as the number of network cards differs: "
                f"keep {self.instance_types[0]} only"
            )
        if self.instance_types[0] not in EFA_TYPES:
            raise ValueError(
                f"efa: {self.instance_types[0]} has no network card for it: "
                f"use one of {', '.join(EFA_TYPES)}, or efa: false"
            )
        return self

    @model_validator(mode="after")
    def _reservation_is_named(self) -> "TrainingGroup":
        if self.reserved and self.reservation_id is None:
            raise ValueError(
                f"capacity {self.capacity} without reservation_id: give the one that you bought, "
                "cr-…"
            )
        if not self.reserved and self.reservation_id is not None:
            raise ValueError(
                f"reservation_id with capacity {self.capacity} would not be used: "
                "set capacity to reservation or capacity-block"
            )
        if self.capacity == "capacity-block":
            if len(self.instance_types) > 1:
                raise ValueError(
                    "capacity-block is bought for one instance type: name only that one"
                )
            if not self.instance_types[0].startswith("p"):
                raise ValueError(
                    f"capacity-block: {self.instance_types[0]} is not sold in blocks: "
                    "use a p4, p5 or p6 type, or capacity: reservation"
                )
            if self.scaling.min:
                raise ValueError(
                    f"capacity-block: scaling.min {self.scaling.min} asks for nodes before the "
                    "block begins and after its end: set min to 0, and desired while it is active"
                )
        return self

    @model_validator(mode="after")
    def _reserved_nodes_are_where_the_reservation_is(self) -> "TrainingGroup":
        """A reservation is used by instances in its own placement group only, or in none (EC2 user
        guide, capacity reservations in cluster placement groups); Capacity Blocks take none."""
        if self.capacity == "capacity-block" and self.placement_group:
            raise ValueError(
                "placement_group with capacity-block: blocks are close together by themselves "
                "and are in no group: set placement_group to false"
            )
        if self.capacity == "reservation" and self.placement_group is True:
            raise ValueError(
                "placement_group true with capacity reservation makes a group in which the "
                "reservation is not: name the group that the reservation was made in, or false"
            )
        return self

    @model_validator(mode="after")
    def _one_zone(self) -> "TrainingGroup":
        reasons = [
            name
            for name, on in (
                ("efa", self.efa),
                ("placement_group", bool(self.placement_group)),
                (f"capacity {self.capacity}", self.reservation_id is not None),
            )
            if on
        ]
        if reasons and self.zone is None:
            raise ValueError(f"{reasons[0]} works within one zone: give zone, such as use1-az1")
        return self

    @property
    def reserved(self) -> bool:
        """Whether its nodes are bought before they start, and so limited in number."""
        return self.capacity in ("reservation", "capacity-block")

    @property
    def most_nodes(self) -> int:
        """The most nodes at any time."""
        return self.elastic.max_nodes if self.capacity == "elastic" else self.scaling.max

    @property
    def on_spot(self) -> bool:
        """Whether EC2 may take any of its nodes."""
        elastic = self.capacity == "elastic"
        return "spot" in self.elastic.purchase if elastic else self.capacity == "spot"

    @property
    def disk_speed(self) -> tuple[int, int]:
        """Operations and MiB a second of the root disk."""
        return FAST_DISK if self.parallel_image_pull else BASE_DISK

    @property
    def gpus(self) -> int:
        """GPUs on each node."""
        return self.types()[0].gpus

    def labels(self, name: str) -> dict[str, str]:
        """The nodes' labels, which pods select."""
        labels = {WORKLOAD_TYPE: MODEL_TRAINING, GROUP_LABEL: name}
        if self.gpus:
            labels[f"{GPU}.present"] = "true"
        if self.efa:
            labels[f"{EFA}.present"] = "true"
        return labels

    def taints(self) -> list[tuple[str, str]]:
        """Key and value of its NoSchedule taints, which pods tolerate."""
        return [(WORKLOAD_TYPE, MODEL_TRAINING), *([(GPU, "true")] if self.gpus else [])]


@dataclass(frozen=True)
class TrainingNodes:
    """The training group that hosts a workload."""

    name: str
    group: TrainingGroup


class NodeGroups(Model):
    """The cluster's nodes."""

    system: SystemGroup = SystemGroup()
    """For everything that is not training."""
    training: dict[Name, TrainingGroup] = Field(min_length=1)
    """For training only, by name."""

    @model_validator(mode="after")
    def _interruptions_are_meant(self) -> "NodeGroups":
        spot = [name for name, group in self.training.items() if group.on_spot]
        for name in spot:
            if len(spot) == len(self.training) and not self.training[name].accept_interruptions:
                raise ValueError(
                    f"training.{name} is on spot and no other group is not: training stops "
                    "whenever EC2 takes the nodes; add a group on demand, or say "
                    "accept_interruptions: true"
                )
        return self

    def elastic(self) -> dict[str, TrainingGroup]:
        """The training groups whose nodes Karpenter makes, by name."""
        return {name: g for name, g in self.training.items() if g.capacity == "elastic"}

    def fixed(self) -> dict[str, TrainingGroup]:
        """The training groups that EKS manages, by name."""
        return {name: g for name, g in self.training.items() if g.capacity != "elastic"}

    def each(self) -> Iterator[tuple[str, NodeGroup]]:
        """The place in the settings and the group, for each one."""
        yield "system", self.system
        for name, group in self.training.items():
            yield f"training.{name}", group

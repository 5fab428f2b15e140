"""What Holdfast knows of EC2 instance types: enough to refuse a job that no node could ever hold.

Prices are on demand, in US dollars per hour in us-east-1, as karpenter-provider-aws lists them (its
``pkg/providers/pricing/zz_generated.pricing_aws.go``, made from AWS' own list on 2026-07-20);
`make plan` uses them. Another type needs a line here, with or without a price.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class InstanceType:
    """One instance type. ``efa`` is the number of network cards that speak EFA; a type without
    ``dollars`` is named in the plan as not priced."""

    vcpus: int
    memory_gib: int
    gpus: int
    efa: int
    dollars: float | None = None

    @property
    def allocatable_cpu(self) -> float:
        """Cores that pods can have: the kubelet, the system and agents on each node take some."""
        return self.vcpus - 0.5

    @property
    def allocatable_memory(self) -> int:
        """Bytes that pods can have."""
        return int(self.memory_gib * GIB * 0.92 - GIB)


INSTANCES = {
    "m6i.large": InstanceType(2, 8, 0, 0, 0.096),
    "m6i.xlarge": InstanceType(4, 16, 0, 0, 0.192),
    "m6i.2xlarge": InstanceType(8, 32, 0, 0, 0.384),
    "m7i.large": InstanceType(2, 8, 0, 0, 0.1008),
    "m7i.xlarge": InstanceType(4, 16, 0, 0, 0.2016),
    "m7i.2xlarge": InstanceType(8, 32, 0, 0, 0.4032),
    "m7i.4xlarge": InstanceType(16, 64, 0, 0, 0.8064),
    "c7i.2xlarge": InstanceType(8, 16, 0, 0, 0.357),
    "c7i.4xlarge": InstanceType(16, 32, 0, 0, 0.714),
    "g4dn.xlarge": InstanceType(4, 16, 1, 0, 0.526),
    "g5.xlarge": InstanceType(4, 16, 1, 0, 1.006),
    "g5.2xlarge": InstanceType(8, 32, 1, 0, 1.212),
    "g5.12xlarge": InstanceType(48, 192, 4, 1, 5.672),
    "g5.48xlarge": InstanceType(192, 768, 8, 1, 16.288),
    "g6.xlarge": InstanceType(4, 16, 1, 0, 0.8048),
    "g6.12xlarge": InstanceType(48, 192, 4, 1, 4.6016),
    "g6.48xlarge": InstanceType(192, 768, 8, 1, 13.3504),
    "g6e.xlarge": InstanceType(4, 32, 1, 0, 1.861),
    "g6e.2xlarge": InstanceType(8, 64, 1, 0, 2.24208),
    "g6e.12xlarge": InstanceType(48, 384, 4, 1, 10.49264),
    "g6e.48xlarge": InstanceType(192, 1536, 8, 4, 30.13118),
    "p4d.24xlarge": InstanceType(96, 1152, 8, 4, 21.957642),
    "p4de.24xlarge": InstanceType(96, 1152, 8, 4, 27.44705),
    "p5.4xlarge": InstanceType(16, 256, 1, 1, 6.88),
    "p5.48xlarge": InstanceType(192, 2048, 8, 32, 55.04),
    "p5en.48xlarge": InstanceType(192, 2048, 8, 16, 63.296),
    "p6-b200.48xlarge": InstanceType(192, 2048, 8, 8, 113.9328),
}

EFA_TYPES = tuple(name for name, facts in INSTANCES.items() if facts.efa)

"""What Holdfast knows of EC2 instance types: enough to refuse a job that no node could ever hold.

Sources, both in karpenter-provider-aws at commit 1d927085d (2026-08-21):

- figures: ``website/content/en/preview/reference/instance-types.md``, made from EC2's
  DescribeInstanceTypes;
- prices, on demand in US dollars per hour in us-east-1:
  ``pkg/providers/pricing/zz_generated.pricing_aws.go``, made from AWS' own list on 2026-07-20.

`make plan` uses the prices. Another type needs a line here, with or without a price.
"""

from dataclasses import dataclass

GIB, MIB = 2**30, 2**20

#: Of the memory that EC2 states, what the hypervisor and the kernel take (Karpenter's default of
#: ``vmMemoryOverheadPercent``).
VM_OVERHEAD = 0.075
#: Thousandths that the kubelet keeps of the first core, the second, the third and fourth, and each
#: further one (awslabs/amazon-eks-ami, nodeadm/internal/kubelet/config.go).
RESERVED_CPU = ((1, 0.06), (1, 0.01), (2, 0.005))
RESERVED_CPU_OF_FURTHER = 0.0025
#: MiB that the kubelet keeps, and for each pod that the node may have; and the MiB that must stay
#: free or it evicts pods (the same file).
RESERVED_MEMORY, RESERVED_MEMORY_OF_A_POD, EVICTION = 255, 11, 100
#: What the DaemonSets of a training node ask for together, rounded up (cores, MiB). By the defaults
#: of their charts in August 2026: kube-proxy 100m; aws-node and its agent 50m; ebs-csi-node 30m and
#: 120Mi; fsx-csi-node 30m and 104Mi; eks-node-monitoring-agent 10m and 30Mi; EFA plugin 10m and
#: 20Mi; efs-csi-node, eks-pod-identity-agent, dcgm-server and NVIDIA's plugin nothing.
DAEMONS_CPU, DAEMONS_MEMORY = 0.25, 300


@dataclass(frozen=True)
class InstanceType:
    """One instance type.

    ``efa`` is the number of EFAs that it can have. From ``pods``, which follows from its network
    interfaces, the kubelet computes the memory that it keeps. A type without ``dollars`` is named
    in the plan as not priced. ``first_efa_card`` is the first network card that speaks EFA: on
    p6-b300 the first card has ENA only (EC2 user guide, EFA on accelerated instance types).
    """

    vcpus: int
    memory_gib: int
    gpus: int
    efa: int
    pods: int
    dollars: float | None = None
    first_efa_card: int = 0

    @property
    def allocatable_cpu(self) -> float:
        """Cores that are left for pods: without what the kubelet keeps and DaemonSets ask for."""
        left, kept = float(self.vcpus), 0.0
        for cores, share in RESERVED_CPU:
            kept += min(left, cores) * share
            left -= min(left, cores)
        return round(self.vcpus - kept - left * RESERVED_CPU_OF_FURTHER - DAEMONS_CPU, 2)

    @property
    def allocatable_memory(self) -> int:
        """Bytes that are left for pods, likewise."""
        kept = RESERVED_MEMORY + RESERVED_MEMORY_OF_A_POD * self.pods + EVICTION + DAEMONS_MEMORY
        return int(self.memory_gib * GIB * (1 - VM_OVERHEAD)) - kept * MIB


INSTANCES = {
    "m6i.large": InstanceType(2, 8, 0, 0, 29, 0.096),
    "m6i.xlarge": InstanceType(4, 16, 0, 0, 58, 0.192),
    "m6i.2xlarge": InstanceType(8, 32, 0, 0, 58, 0.384),
    "m7i.large": InstanceType(2, 8, 0, 0, 29, 0.1008),
    "m7i.xlarge": InstanceType(4, 16, 0, 0, 58, 0.2016),
    "m7i.2xlarge": InstanceType(8, 32, 0, 0, 58, 0.4032),
    "m7i.4xlarge": InstanceType(16, 64, 0, 0, 234, 0.8064),
    "c7i.2xlarge": InstanceType(8, 16, 0, 0, 58, 0.357),
    "c7i.4xlarge": InstanceType(16, 32, 0, 0, 234, 0.714),
    "g4dn.xlarge": InstanceType(4, 16, 1, 0, 29, 0.526),
    "g5.xlarge": InstanceType(4, 16, 1, 0, 58, 1.006),
    "g5.2xlarge": InstanceType(8, 32, 1, 0, 58, 1.212),
    "g5.12xlarge": InstanceType(48, 192, 4, 1, 737, 5.672),
    "g5.48xlarge": InstanceType(192, 768, 8, 1, 345, 16.288),
    "g6.xlarge": InstanceType(4, 16, 1, 0, 58, 0.8048),
    "g6.12xlarge": InstanceType(48, 192, 4, 1, 234, 4.6016),
    "g6.48xlarge": InstanceType(192, 768, 8, 1, 737, 13.3504),
    "g6e.xlarge": InstanceType(4, 32, 1, 0, 58, 1.861),
    "g6e.2xlarge": InstanceType(8, 64, 1, 0, 58, 2.24208),
    "g6e.12xlarge": InstanceType(48, 384, 4, 1, 292, 10.49264),
    "g6e.48xlarge": InstanceType(192, 1536, 8, 4, 492, 30.13118),
    "g7e.2xlarge": InstanceType(8, 64, 1, 0, 254, 3.36312),
    "g7e.4xlarge": InstanceType(16, 128, 1, 0, 506, 3.99816),
    "g7e.8xlarge": InstanceType(32, 256, 1, 1, 506, 5.26824),
    "g7e.12xlarge": InstanceType(48, 512, 2, 1, 632, 8.28608),
    "g7e.24xlarge": InstanceType(96, 1024, 4, 2, 632, 16.57216),
    "g7e.48xlarge": InstanceType(192, 2048, 8, 4, 632, 33.14432),
    "p4d.24xlarge": InstanceType(96, 1152, 8, 4, 737, 21.957642),
    "p4de.24xlarge": InstanceType(96, 1152, 8, 4, 737, 27.44705),
    "p5.4xlarge": InstanceType(16, 256, 1, 1, 118, 6.88),
    "p5.48xlarge": InstanceType(192, 2048, 8, 32, 100, 55.04),
    "p5e.48xlarge": InstanceType(192, 2048, 8, 32, 100),
    "p5en.48xlarge": InstanceType(192, 2048, 8, 16, 198, 63.296),
    "p6-b200.48xlarge": InstanceType(192, 2048, 8, 8, 198, 113.9328),
    "p6-b300.48xlarge": InstanceType(192, 4096, 8, 16, 198, 142.416, first_efa_card=1),
}

EFA_TYPES = tuple(name for name, facts in INSTANCES.items() if facts.efa)

#: Families that a stack cannot use, by the beginning of their names, and why.
UNSUPPORTED = {
    "trn": "has Trainium chips, for which PyTorch needs another build, image and device plugin",
    "inf": "has Inferentia chips, which do not train",
    "g5g.": "has Arm processors, for which the images are not built",
    "p6e-": "has Arm processors, for which the images are not built",
    "g7.": "needs a newer driver than EKS' node image has (amazon-eks-ami, doc/usage/g7-ami.md)",
}

"""EKS clusters, whichever way they are declared."""

from typing import Any

from policy.model import Resource, at

COMPONENT = "eks:index:Cluster"
CLUSTER = "aws:eks/cluster:Cluster"

#: What a rule asks for -> where pulumi-eks and pulumi-aws keep it.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "version": (("version",), ("version",)),
    "public": (("endpointPublicAccess",), ("vpcConfig", "endpointPublicAccess")),
    "public_cidrs": (("publicAccessCidrs",), ("vpcConfig", "publicAccessCidrs")),
    "key": (("encryptionConfigKeyArn",), ("encryptionConfig", "provider", "keyArn")),
    "logs": (("enabledClusterLogTypes",), ("enabledClusterLogTypes",)),
    "authentication": (("authenticationMode",), ("accessConfig", "authenticationMode")),
    "support": (("upgradePolicy", "supportType"), ("upgradePolicy", "supportType")),
    "deletion_protection": (("deletionProtection",), ("deletionProtection",)),
}


def is_cluster(resource: Resource) -> bool:
    """Whether it declares a cluster. In the engine the component of pulumi-eks has no inputs: the
    cluster is its child, which is judged instead."""
    return resource.type == CLUSTER or (resource.type == COMPONENT and bool(resource.inputs))


def cluster_value(resource: Resource, name: str) -> Any:
    """One of FIELDS."""
    component, raw = FIELDS[name]
    return at(resource.inputs, *(component if resource.type == COMPONENT else raw))


def node_template(resource: Resource) -> Any:
    """What nodes are made from: a launch template, or what Karpenter asks of EC2; None otherwise.
    Both call disks and the metadata service's options the same."""
    if resource.kind == "EC2NodeClass":
        return at(resource.inputs, "spec")
    template = resource.type == "aws:ec2/launchTemplate:LaunchTemplate"
    return resource.inputs if template else None

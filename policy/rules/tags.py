"""Every resource in AWS says what it belongs to: for bills, clean-up and access rules."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from policy.model import UNKNOWN, Config, Resource, at, mapping, rule

#: Resources that cost money or hold data, and can be tagged.
TAGGED = frozenset(
    {
        "aws:cloudwatch/logGroup:LogGroup",
        "aws:ebs/volume:Volume",
        "aws:ec2/eip:Eip",
        "aws:ec2/launchTemplate:LaunchTemplate",
        "aws:ec2/natGateway:NatGateway",
        "aws:ec2/securityGroup:SecurityGroup",
        "aws:ec2/subnet:Subnet",
        "aws:ec2/vpc:Vpc",
        "aws:ec2/vpcEndpoint:VpcEndpoint",
        "aws:ecr/repository:Repository",
        "aws:efs/fileSystem:FileSystem",
        "aws:eks/addon:Addon",
        "aws:eks/cluster:Cluster",
        "aws:eks/nodeGroup:NodeGroup",
        "aws:fsx/lustreFileSystem:LustreFileSystem",
        "aws:iam/role:Role",
        "aws:kms/key:Key",
        "aws:s3/bucket:Bucket",
    }
)

#: What a node consists of.
LAUNCHED = ("instance", "volume", "network-interface")


@rule(
    "resources-are-tagged",
    "Tag every AWS resource with what it belongs to, best once in the provider's defaultTags.",
    required=["holdfast:project", "holdfast:stack"],
)
def tags(resource: Resource, config: Config) -> Iterator[str]:
    if resource.type not in TAGGED:
        return
    own = at(resource.inputs, "tags")
    everywhere = default_tags(resource.provider)
    if own is UNKNOWN or everywhere is UNKNOWN:
        return
    present = {*mapping(own), *mapping(at(resource.inputs, "tagsAll")), *everywhere}
    missing = [key for key in config["required"] if key not in present]
    if missing:
        yield f"has no tag {', '.join(missing)}: set defaultTags on the provider"


@rule(
    "nodes-are-tagged",
    "Tag instances, disks and network cards of nodes in the launch template: neither the "
    "provider's defaultTags nor the node group's tags reach them.",
    required=["holdfast:project", "holdfast:stack"],
)
def node_tags(resource: Resource, config: Config) -> Iterator[str]:
    if resource.type != "aws:ec2/launchTemplate:LaunchTemplate":
        return
    specifications = at(resource.inputs, "tagSpecifications")
    each = specifications if isinstance(specifications, list) else [specifications]
    given = {at(one, "resourceType"): at(one, "tags") for one in each}
    # What may be any kind may be the one that seems to lack: `up` will tell.
    other = UNKNOWN if UNKNOWN in given else None
    for kind in LAUNCHED:
        tags = given.get(kind, other)
        missing = [key for key in config["required"] if key not in mapping(tags)]
        if tags is not UNKNOWN and missing:
            yield f"{kind} has no tag {', '.join(missing)}: add it to tagSpecifications"


def default_tags(provider: Mapping[str, Any] | None) -> Any:
    """The tags that an AWS provider gives everything; UNKNOWN where they are."""
    default = at(provider, "defaultTags")
    # A provider's own settings travel as JSON.
    if isinstance(default, str):
        default = json.loads(default)
    found = at(default, "tags")
    return UNKNOWN if found is UNKNOWN else mapping(found)

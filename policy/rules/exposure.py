"""Nothing can be reached from the internet but what must be."""

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

from policy.buckets import buckets, parts
from policy.clusters import cluster_value, is_cluster, node_template
from policy.model import UNKNOWN, Config, Resource, at, is_true, items, rule, stack_rule

EVERYONE = ("0.0.0.0/0", "::/0")


@rule(
    "api-server-is-not-open",
    "Reach the cluster's API server from inside the VPC only, or from named address ranges.",
    widest=16,
)
def api_server(resource: Resource, config: Config) -> Iterator[str]:
    if not is_cluster(resource):
        return
    public, ranges = cluster_value(resource, "public"), cluster_value(resource, "public_cidrs")
    # EKS makes the endpoint public, for everyone, unless it is told not to.
    if public is False or public is UNKNOWN or ranges is UNKNOWN:
        return
    if ranges in (None, []):
        yield "the API server is open to the world: make it private, or name ranges"
    for cidr in items(ranges):
        if ip_network(cidr, strict=False).prefixlen < config["widest"]:
            yield f"the API server is open to {cidr}: name your own ranges, or make it private"


@rule(
    "security-groups-name-their-peers",
    "Let no security group take traffic from everyone: name a group, a prefix list or a range.",
)
def security_groups(resource: Resource, _: Config) -> Iterator[str]:
    match resource.type:
        case (
            "aws:ec2/securityGroup:SecurityGroup"
            | "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
        ):
            rules = items(at(resource.inputs, "ingress"))
        case "aws:ec2/securityGroupRule:SecurityGroupRule":
            rules = [resource.inputs] if at(resource.inputs, "type") == "ingress" else []
        case "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule":
            rules = [resource.inputs]
        case _:
            return
    keys = ("cidrBlocks", "ipv6CidrBlocks", "cidrIpv4", "cidrIpv6")
    for each in rules:
        for cidr in (c for key in keys for c in items(at(each, key))):
            if cidr in EVERYONE:
                ports = f"{at(each, 'fromPort')}-{at(each, 'toPort')}"
                yield f"takes traffic to ports {ports} from {cidr}: name who may send it"


@rule(
    "no-public-addresses",
    "Give no node a public address: subnets, launch templates, node classes and instances ask for "
    "none.",
)
def public_addresses(resource: Resource, _: Config) -> Iterator[str]:
    match resource.type:
        case "aws:ec2/subnet:Subnet":
            if is_true_and_known(at(resource.inputs, "mapPublicIpOnLaunch")):
                yield "gives each node a public address: set mapPublicIpOnLaunch to false"
        case "aws:ec2/launchTemplate:LaunchTemplate":
            for card in items(at(resource.inputs, "networkInterfaces")):
                if is_true_and_known(at(card, "associatePublicIpAddress")):
                    yield "gives each node a public address: set associatePublicIpAddress to false"
        case "aws:ec2/instance:Instance":
            if is_true_and_known(at(resource.inputs, "associatePublicIpAddress")):
                yield "has a public address: set associatePublicIpAddress to false"
    if resource.kind == "EC2NodeClass":
        public = at(resource.inputs, "spec", "associatePublicIPAddress")
        if public not in (False, UNKNOWN):
            yield "may give each node a public address: set associatePublicIPAddress to false"


def is_true_and_known(value: Any) -> bool:
    return value is not UNKNOWN and is_true(value)


@stack_rule(
    "buckets-are-private",
    "Block every kind of public access to every bucket, with all four switches.",
)
def private_buckets(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    switches = (
        "blockPublicAcls",
        "blockPublicPolicy",
        "ignorePublicAcls",
        "restrictPublicBuckets",
    )
    for bucket in buckets(resources):
        blocks = parts(resources, "PublicAccessBlock", bucket)
        if not blocks:
            yield bucket, "may be made public: add a BucketPublicAccessBlock"
        for block in blocks:
            off = [name for name in switches if not is_true(at(block.inputs, name))]
            if off:
                yield bucket, f"may be made public: set {', '.join(off)} to true"


@rule(
    "services-stay-inside",
    "Use Services of type ClusterIP. A load balancer or a node port is reachable from outside, and "
    "a load balancer outlives the stack that a controller made it for.",
)
def services(resource: Resource, _: Config) -> Iterator[str]:
    kind = at(resource.inputs, "spec", "type")
    if resource.kind == "Service" and kind in ("LoadBalancer", "NodePort"):
        yield f"is of type {kind}: use ClusterIP, and `kubectl port-forward` to look at it"


@rule(
    "nodes-use-imdsv2",
    "Demand IMDSv2 with a hop limit of 1, so that no pod gets its node's credentials.",
)
def imdsv2(resource: Resource, _: Config) -> Iterator[str]:
    template = node_template(resource)
    if resource.type == "aws:ec2/instance:Instance":
        template = resource.inputs
    if template is None:
        return
    options = at(template, "metadataOptions")
    if options is UNKNOWN:
        return
    if at(options, "httpTokens") not in ("required", UNKNOWN):
        yield "answers IMDSv1: set metadataOptions.httpTokens to required"
    if at(options, "httpPutResponseHopLimit") not in (1, UNKNOWN):
        yield "gives pods the node's credentials: set metadataOptions.httpPutResponseHopLimit to 1"


@rule(
    "no-ssh-keys-on-nodes",
    "Put no SSH key on nodes: EKS opens port 22 to everyone for it. Use Session Manager.",
)
def ssh(resource: Resource, _: Config) -> Iterator[str]:
    where = {
        "aws:eks/nodeGroup:NodeGroup": ("remoteAccess",),
        "aws:ec2/launchTemplate:LaunchTemplate": ("keyName",),
    }
    path = where.get(resource.type)
    if path and at(resource.inputs, *path) not in (None, "", {}, UNKNOWN):
        yield f"has {path[0]}: remove it and use Session Manager"

"""Who may talk to whom: every rule names a group at both ends."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

TCP, UDP, ALL = "tcp", "udp", "-1"


@dataclass(frozen=True)
class Flow:
    """Traffic from one group to another; ports are inclusive."""

    source: str
    target: str
    protocol: str
    first: int
    last: int
    what: str

    @property
    def name(self) -> str:
        ports = "all" if self.protocol == ALL else f"{self.protocol}-{self.first}"
        return f"{self.source}-{self.target}-{ports}"


def _tcp(source: str, target: str, port: int, what: str, last: int | None = None) -> Flow:
    return Flow(source, target, TCP, port, last or port, what)


CONTROL_PLANE = [
    _tcp("nodes", "control-plane", 443, "kubelets and pods to the API server"),
    _tcp("control-plane", "nodes", 443, "API server to aggregated APIs"),
    _tcp("control-plane", "nodes", 4443, "API server to webhooks"),
    _tcp("control-plane", "nodes", 6443, "API server to webhooks"),
    _tcp("control-plane", "nodes", 8443, "API server to webhooks"),
    _tcp("control-plane", "nodes", 9443, "API server to webhooks, also those of Kanister"),
    _tcp("control-plane", "nodes", 10250, "API server to kubelets: logs, exec"),
    _tcp("control-plane", "nodes", 10251, "API server to the metrics server"),
]
NODES = [
    _tcp("nodes", "nodes", 53, "DNS"),
    Flow("nodes", "nodes", UDP, 53, 53, "DNS"),
    _tcp("nodes", "nodes", 1025, "pods to pods: services, rendezvous, gloo, NCCL", 65535),
]
ENDPOINTS = [_tcp("nodes", "endpoints", 443, "nodes to AWS services")]
#: EFA speaks its own protocol, which only a rule for everything lets through, both ways.
EFA = [Flow("efa", "efa", ALL, 0, 0, "EFA between training nodes")]
EFS = [_tcp("nodes", "efs", 2049, "NFS over TLS")]
#: Without a route to the internet this reaches S3 through its gateway endpoint, and nothing else.
OUTWARD = (443, "0.0.0.0/0", "images, AWS services, the backup store")
LUSTRE = [
    _tcp(source, target, first, "Lustre", last)
    for source, target in (("nodes", "lustre"), ("lustre", "lustre"), ("lustre", "nodes"))
    for first, last in ((988, 988), (1018, 1023))
]

DESCRIPTIONS = {
    "control-plane": "Addresses of the API server in the VPC",
    "nodes": "Every node and pod",
    "endpoints": "Private addresses of AWS services",
    "efa": "Elastic Fabric Adapters of training nodes",
    "efs": "Mount targets of EFS file systems",
    "lustre": "FSx for Lustre file systems",
}


class SecurityGroups(pulumi.ComponentResource):
    """The stack's security groups and all of their rules.

    Produces: a SecurityGroup for each name in use, an egress rule at the source and an ingress rule
    at the target of each flow, and the nodes' egress rules to what is not in the stack.
    """

    groups: dict[str, aws.ec2.SecurityGroup]
    """The groups by name."""

    def __init__(
        self,
        name: str,
        vpc_id: pulumi.Input[str],
        flows: list[Flow],
        opts: pulumi.ResourceOptions,
        *,
        outward: list[tuple[int, str, str]],
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            vpc_id: the VPC that they are in.
            flows: what may flow; the groups are those that are named in them.
            opts: the provider.
            outward: what nodes may reach beyond these groups: TCP port, address range, what for.
        """
        super().__init__("holdfast:network:SecurityGroups", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        names = dict.fromkeys(end for flow in flows for end in (flow.source, flow.target))
        self.groups = {
            group: aws.ec2.SecurityGroup(
                f"{name}-{group}",
                vpc_id=vpc_id,
                description=DESCRIPTIONS[group],
                revoke_rules_on_delete=True,
                tags={"Name": f"{name}-{group}"},
                opts=own,
            )
            for group in names
        }
        for flow in flows:
            self._let(name, flow)
        for number, (port, addresses, what) in enumerate(outward):
            aws.vpc.SecurityGroupEgressRule(
                f"{name}-nodes-outward-{number}",
                security_group_id=self.groups["nodes"].id,
                description=what,
                ip_protocol=TCP,
                from_port=port,
                to_port=port,
                cidr_ipv4=addresses,
                opts=own,
            )
        self.register_outputs({})

    def __getitem__(self, name: str) -> aws.ec2.SecurityGroup:
        return self.groups[name]

    def _let(self, name: str, flow: Flow) -> None:
        source, target = self.groups[flow.source], self.groups[flow.target]
        # A rule for every protocol has no ports.
        first, last = (None, None) if flow.protocol == ALL else (flow.first, flow.last)
        own = pulumi.ResourceOptions(parent=self)
        aws.vpc.SecurityGroupEgressRule(
            f"{name}-{flow.name}",
            security_group_id=source.id,
            referenced_security_group_id=target.id,
            ip_protocol=flow.protocol,
            from_port=first,
            to_port=last,
            description=flow.what,
            opts=own,
        )
        aws.vpc.SecurityGroupIngressRule(
            f"{name}-{flow.name}",
            security_group_id=target.id,
            referenced_security_group_id=source.id,
            ip_protocol=flow.protocol,
            from_port=first,
            to_port=last,
            description=flow.what,
            opts=own,
        )

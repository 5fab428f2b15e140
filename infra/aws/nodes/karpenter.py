"""Elastic capacity: Karpenter makes nodes while pods wait for them, and removes empty ones.

Two halves: what Karpenter needs in AWS (a role, an instance profile for its nodes, a queue of
interruption notices), and what is in the cluster (its charts, an EC2NodeClass and a NodePool for
each elastic training group).
"""

from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from infra import versions
from infra.aws.iam import give_pods_role, json_of
from infra.aws.network import NodeNetwork
from infra.aws.nodes.karpenter_rights import karpenter_rights, queue_policy
from infra.aws.nodes.node_groups import NodeRole, placement_group, user_data
from infra.manifests import Manifest, load, merge, register
from infra.options import after
from infra.settings.cluster import ClusterSettings
from infra.settings.eks import AwsSettings
from infra.settings.instances import InstanceType
from infra.settings.node_groups import TrainingGroup

NAMESPACE = "kube-system"
ACCOUNT = "karpenter"
#: Seconds: a notice is of no use once its instance is gone.
NOTICE_KEPT = 300
#: EventBridge's words for what makes Karpenter drain a node.
NOTICES = {
    "health": ("aws.health", "AWS Health Event"),
    "spot": ("aws.ec2", "EC2 Spot Instance Interruption Warning"),
    "rebalance": ("aws.ec2", "EC2 Instance Rebalance Recommendation"),
    "state": ("aws.ec2", "EC2 Instance State-change Notification"),
}


class KarpenterAccess(pulumi.ComponentResource):
    """What Karpenter needs in AWS.

    Produces: an SQS Queue with its QueuePolicy, an EventBridge EventRule and EventTarget for each
    kind of notice, an InstanceProfile for the nodes, a Role and the PodIdentityAssociation of
    Karpenter's service account, a PlacementGroup for each group that asks for one.
    """

    queue: pulumi.Output[str]
    """The name of the queue of interruption notices."""
    profile: pulumi.Output[str]
    """The name of the nodes' instance profile."""
    placement: dict[str, pulumi.Input[str]]
    """The names of the placement groups, by training group."""

    def __init__(
        self,
        name: str,
        groups: dict[str, TrainingGroup],
        cluster: str,
        cloud: AwsSettings,
        nodes: NodeRole,
        key: aws.kms.Key,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            groups: the elastic training groups by name.
            cluster: the cluster's name.
            cloud: account and region.
            nodes: the role of all nodes.
            key: encrypts the nodes' disks.
            opts: the provider, and the cluster.
        """
        super().__init__("holdfast:nodes:KarpenterAccess", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        queue = aws.sqs.Queue(
            f"{name}-notices",
            message_retention_seconds=NOTICE_KEPT,
            sqs_managed_sse_enabled=True,
            opts=own,
        )
        policy = queue.arn.apply(lambda arn: queue_policy(arn, cloud.account))
        allowed = aws.sqs.QueuePolicy(
            f"{name}-notices", queue_url=queue.url, policy=json_of(policy), opts=own
        )
        for notice, (source, detail) in NOTICES.items():
            rule = aws.cloudwatch.EventRule(
                f"{name}-{notice}",
                description=f"{cluster}: {detail}",
                event_pattern=json_of({"source": [source], "detail-type": [detail]}),
                opts=own,
            )
            aws.cloudwatch.EventTarget(
                f"{name}-{notice}",
                rule=rule.name,
                arn=queue.arn,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[allowed]),
            )
        profile = aws.iam.InstanceProfile(
            f"{name}-nodes", role=nodes.name, path=cloud.role_path, opts=own
        )
        rights = pulumi.Output.all(queue.arn, nodes.arn, key.arn).apply(
            lambda arns: karpenter_rights(cluster, cloud, *arns)
        )
        give_pods_role(
            name, cluster, NAMESPACE, ACCOUNT, cloud, self, description="Karpenter", inline=rights
        )
        self.placement = {
            each: together
            for each, group in groups.items()
            if (together := placement_group(each, group, own)) is not None
        }
        self.queue, self.profile = queue.name, profile.name
        self.register_outputs({"queue": self.queue, "profile": self.profile})


class ElasticNodes(pulumi.ComponentResource):
    """Karpenter in the cluster, and what it may make.

    Produces: the helm Releases of Karpenter's kinds and of Karpenter; for each elastic training
    group an EC2NodeClass and a NodePool.

    On destroy a NodePool goes before its EC2NodeClass, which stays until the last of its nodes is
    gone, and Karpenter itself goes last: no instance is left behind.
    """

    def __init__(
        self,
        name: str,
        groups: dict[str, TrainingGroup],
        cluster: ClusterSettings,
        access: KarpenterAccess,
        network: NodeNetwork,
        security_groups: dict[str, aws.ec2.SecurityGroup],
        key: aws.kms.Key,
        tags: dict[str, str],
        opts: pulumi.ResourceOptions,
        *,
        replicas: int,
        isolated: bool,
        longest_grace: int,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            groups: the elastic training groups by name.
            cluster: name and version of the control plane.
            access: what Karpenter has in AWS.
            network: whose private subnets the nodes are in.
            security_groups: ``nodes``, and ``efa`` where a group has EFA.
            key: encrypts the nodes' disks.
            tags: the stack's.
            opts: the Kubernetes provider.
            replicas: pods of Karpenter, each on a node of its own.
            isolated: whether nodes reach no service of AWS but those with an endpoint.
            longest_grace: seconds that the slowest trainer may take to end.
        """
        super().__init__("holdfast:nodes:ElasticNodes", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        kinds = _release(f"{name}-kinds", versions.KARPENTER_KINDS, {}, own)
        settings = {
            "clusterName": cluster.name,
            "eksControlPlane": True,
            "interruptionQueue": access.queue,
            "isolatedVPC": isolated,
        }
        values = merge(load("karpenter-values"), {"replicas": replicas, "settings": settings})
        karpenter = _release(f"{name}-karpenter", versions.KARPENTER, values, after(own, kinds))
        for group_name, group in groups.items():
            ids = [security_groups["nodes"].id]
            if group.efa:
                ids.append(security_groups["efa"].id)
            zones = [group.zone] if group.zone else list(network.private)
            node_class = register(
                f"{name}-{group_name}-class",
                _node_class(
                    group_name,
                    group,
                    versions.MINORS[cluster.version].node_release,
                    access.profile,
                    [network.private[zone].id for zone in zones],
                    ids,
                    key.arn,
                    tags,
                    access.placement.get(group_name),
                ),
                after(own, karpenter),
            )
            register(
                f"{name}-{group_name}-pool",
                _node_pool(group_name, group, zones, longest_grace),
                after(own, node_class),
            )
        self.register_outputs({})


def _release(
    name: str, chart: tuple[str, str], values: Manifest, opts: pulumi.ResourceOptions
) -> k8s.helm.v3.Release:
    address, version = chart
    return k8s.helm.v3.Release(
        name,
        name=address.rpartition("/")[2],
        chart=address,
        version=version,
        namespace=NAMESPACE,
        values=values,
        # The kinds come from a chart of their own, which upgrades them too.
        skip_crds=True,
        atomic=True,
        cleanup_on_fail=True,
        timeout=300,
        opts=opts,
    )


def _node_class(
    name: str,
    group: TrainingGroup,
    release: str,
    profile: pulumi.Input[str],
    subnets: list[pulumi.Output[str]],
    security_groups: list[pulumi.Output[str]],
    key_arn: pulumi.Input[str],
    tags: dict[str, str],
    together: pulumi.Input[str] | None,
) -> Manifest:
    """What EC2 is asked for: as the launch template of a managed group says it."""
    disk: dict[str, Any] = {
        "deviceName": "/dev/xvda",
        "rootVolume": True,
        "ebs": {
            "volumeType": "gp3",
            "volumeSize": f"{group.disk_gib}Gi",
            "encrypted": True,
            "kmsKeyID": key_arn,
            "deleteOnTermination": True,
        },
    }
    if group.parallel_image_pull:
        disk["ebs"]["iops"], disk["ebs"]["throughput"] = group.disk_speed
    spec: dict[str, Any] = {
        "amiSelectorTerms": [{"alias": f"al2023@v{release.rpartition('-')[2]}"}],
        "instanceProfile": profile,
        "subnetSelectorTerms": [{"id": subnet} for subnet in subnets],
        "securityGroupSelectorTerms": [{"id": each} for each in security_groups],
        "blockDeviceMappings": [disk],
        "userData": user_data(group),
        "tags": tags,
    }
    if group.efa:
        spec["networkInterfaces"] = _fabric(group.types()[0])
    if together is not None:
        spec["placementGroupSelector"] = {"name": together}
    return merge(load("node-class"), {"metadata": {"name": name}, "spec": spec})


def _fabric(facts: InstanceType) -> list[dict[str, Any]]:
    """IP on the first card, and EFA on each that has it. Karpenter wants the first to be a plain
    interface."""
    cards = range(facts.first_efa_card, facts.first_efa_card + facts.efa)
    return [
        {"networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "interface"},
        *(
            {"networkCardIndex": card, "deviceIndex": 1, "interfaceType": "efa-only"}
            for card in cards
        ),
    ]


def _node_pool(name: str, group: TrainingGroup, zones: list[str], longest_grace: int) -> Manifest:
    """Which nodes, how many, and when they go."""
    elastic = group.elastic
    wanted = {
        "node.kubernetes.io/instance-type": list(group.instance_types),
        "karpenter.sh/capacity-type": list(elastic.purchase),
        "topology.k8s.aws/zone-id": zones,
    }
    template = {
        "metadata": {"labels": group.labels(name)},
        "spec": {
            "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": name},
            "requirements": [
                {"key": key, "operator": "In", "values": values} for key, values in wanted.items()
            ],
            "taints": [
                {"key": key, "value": value, "effect": "NoSchedule"}
                for key, value in group.taints()
            ],
            # Past this a node goes whatever runs on it: a drain that hangs must not cost for ever.
            "terminationGracePeriod": f"{longest_grace + elastic.idle_minutes * 60}s",
        },
    }
    change = {
        "metadata": {"name": name},
        "spec": {
            "template": template,
            "disruption": {"consolidateAfter": f"{elastic.idle_minutes}m"},
            "limits": {"nodes": str(elastic.max_nodes)},
        },
    }
    return merge(load("node-pool"), change)

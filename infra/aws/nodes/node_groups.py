"""Managed node groups: their role, launch templates and placement.

A launch template here never names an image: EKS picks the AL2023 image of the pinned release, and
merges our part of the node's configuration into its own. With an image id in it, nodes would be
replaced whenever AWS publishes an image.

Instances, their disks and network cards get their tags from the template: neither the provider's
default tags nor those of the node group reach what Auto Scaling starts.
"""

import base64
from typing import Any

import pulumi
import pulumi_aws as aws
import yaml

from infra.aws.iam import Role, managed, service_trust
from infra.aws.network import NodeNetwork
from infra.settings.cluster import ClusterSettings
from infra.settings.eks import AwsSettings
from infra.settings.instances import INSTANCES
from infra.settings.node_groups import GROUP_LABEL, NodeGroup, TrainingGroup

NODE_POLICIES = (
    "AmazonEKSWorkerNodePolicy",
    "AmazonEKS_CNI_Policy",
    "AmazonEC2ContainerRegistryReadOnly",
)
STANDARD_IMAGE, NVIDIA_IMAGE = "AL2023_x86_64_STANDARD", "AL2023_x86_64_NVIDIA"
BOUNDARY = "holdfast-node-config"
#: What EC2 makes from a launch template, in its words.
LAUNCHED = ("instance", "volume", "network-interface")

#: What a process may lock, in bytes: more than any node has. libfabric locks the memory that EFA
#: reads and writes, pods have no IPC_LOCK, and the default is 8 MiB. Not "unlimited" (2**64 - 1):
#: nodeadm merges numbers as floating-point ones, which would make it 2**64, and containerd refuses
#: that (amazon-eks-ami, nodeadm/internal/util/merge.go). A power of two stays what it is.
MEMLOCK = 2**50
#: The limits that nodeadm gives containers by itself. Ours replace the whole list, so they must be
#: in it (amazon-eks-ami, nodeadm/internal/containerd/base-runtime-spec.json, release v20260714).
DEFAULT_LIMITS = [{"type": "RLIMIT_NOFILE", "soft": 65536, "hard": 1048576}]


def node_config(*, efa: bool, parallel_pull: bool) -> dict[str, Any]:
    """The part of the node's configuration that is ours; EKS adds the cluster's.

    Local NVMe disks, where a node has any, become one fast disk for images, pods' scratch and logs.
    With EFA, containers may lock memory.
    """
    spec: dict[str, Any] = {"instance": {"localStorage": {"strategy": "RAID0"}}}
    if efa:
        locked = {"type": "RLIMIT_MEMLOCK", "soft": MEMLOCK, "hard": MEMLOCK}
        limits = {"rlimits": [*DEFAULT_LIMITS, locked]}
        spec["containerd"] = {"baseRuntimeSpec": {"process": limits}}
    if parallel_pull:
        spec["featureGates"] = {"FastImagePull": True}
    return {"apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": spec}


def user_data(group: TrainingGroup) -> str:
    """A part of the node's configuration, as nodeadm reads it."""
    config = node_config(efa=group.efa, parallel_pull=group.parallel_image_pull)
    text = yaml.safe_dump(config, sort_keys=False)
    return (
        "MIME-Version: 1.0\n"
        f'Content-Type: multipart/mixed; boundary="{BOUNDARY}"\n\n'
        f"--{BOUNDARY}\n"
        "Content-Type: application/node.eks.aws\n\n"
        f"{text}\n"
        f"--{BOUNDARY}--\n"
    )


class NodeRole(pulumi.ComponentResource):
    """What every node may do: join, give pods addresses, pull images.

    Produces: a Role with the three policies. Node groups depend on it, so that on destroy it stays
    until the last node is gone.
    """

    arn: pulumi.Output[str]
    """The role's ARN."""
    name: pulumi.Output[str]
    """The role's name."""

    def __init__(
        self, name: str, cluster: str, cloud: AwsSettings, opts: pulumi.ResourceOptions
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            cluster: the cluster's name.
            cloud: account and region.
            opts: the provider, and what must exist before a node can join.
        """
        super().__init__("holdfast:nodes:NodeRole", name, {}, opts)
        role = Role(
            name,
            service_trust("ec2.amazonaws.com"),
            cloud,
            pulumi.ResourceOptions(parent=self),
            description=f"{cluster}: nodes",
            policies=[managed(cloud.partition, policy) for policy in NODE_POLICIES],
        )
        self.arn, self.name = role.arn, role.role.name
        self.register_outputs({"arn": self.arn})


class ManagedNodes(pulumi.ComponentResource):
    """One managed node group.

    Produces: LaunchTemplate, NodeGroup, and a PlacementGroup where it is asked for.
    """

    group: aws.eks.NodeGroup
    """The node group."""

    def __init__(
        self,
        name: str,
        group: NodeGroup,
        cluster: ClusterSettings,
        role: NodeRole,
        network: NodeNetwork,
        security_groups: list[aws.ec2.SecurityGroup],
        key: aws.kms.Key,
        tags: dict[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the group's name in the settings.
            group: its settings.
            cluster: name and version of the control plane.
            role: of the nodes.
            network: whose private subnets they are in.
            security_groups: of each network card.
            key: encrypts their disks.
            tags: the stack's.
            opts: the provider, and what must exist before a node can join.
        """
        super().__init__("holdfast:nodes:ManagedNodes", f"{name}-nodes", {}, opts)
        self._own = pulumi.ResourceOptions(parent=self)
        training = group if isinstance(group, TrainingGroup) else None
        zones = [training.zone] if training and training.zone else list(network.private)
        template = self._template(name, group, cluster.name, security_groups, key, tags)
        self.group = aws.eks.NodeGroup(
            f"{name}-nodes",
            cluster_name=cluster.name,
            node_role_arn=role.arn,
            subnet_ids=[network.private[zone].id for zone in zones],
            ami_type=NVIDIA_IMAGE if training and training.gpus else STANDARD_IMAGE,
            release_version=cluster.node_release,
            version=cluster.nodes,
            capacity_type=_capacity_type(training),
            # A Capacity Block's type must be in the template, and then not here.
            instance_types=None if _in_block(training) else list(group.instance_types),
            launch_template={"id": template.id, "version": template.latest_version.apply(str)},
            scaling_config={
                "min_size": group.scaling.min,
                "desired_size": group.scaling.desired,
                "max_size": group.scaling.max,
            },
            # A training group has few nodes and each carries a run: one at a time.
            update_config={
                "max_unavailable": 1,
                # In a reservation that is used up there is no room for a new node before an old one
                # goes (EKS API reference, NodegroupUpdateConfig).
                "update_strategy": "MINIMAL" if training and training.reserved else None,
            },
            node_repair_config=_repair(training),
            labels=training.labels(name) if training else {GROUP_LABEL: name},
            taints=[
                {"key": key, "value": value, "effect": "NO_SCHEDULE"}
                for key, value in (training.taints() if training else [])
            ],
            opts=pulumi.ResourceOptions(parent=self, depends_on=[role]),
        )
        self.register_outputs({})

    def _template(
        self,
        name: str,
        group: NodeGroup,
        cluster: str,
        security_groups: list[aws.ec2.SecurityGroup],
        key: aws.kms.Key,
        tags: dict[str, str],
    ) -> aws.ec2.LaunchTemplate:
        training = group if isinstance(group, TrainingGroup) else None
        ids = [each.id for each in security_groups]
        efa = training is not None and training.efa
        disk: aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgsDict = {
            "volume_type": "gp3",
            "volume_size": group.disk_gib,
            "encrypted": "true",
            "kms_key_id": key.arn,
            "delete_on_termination": "true",
        }
        if training is not None and training.parallel_image_pull:
            disk["iops"], disk["throughput"] = training.disk_speed
        return aws.ec2.LaunchTemplate(
            f"{name}-nodes",
            description=f"{cluster}: nodes of group {name}",
            update_default_version=True,
            user_data=(
                base64.b64encode(user_data(training).encode()).decode() if training else None
            ),
            instance_type=group.instance_types[0] if _in_block(training) else None,
            block_device_mappings=[{"device_name": "/dev/xvda", "ebs": disk}],
            # Hop limit 1: a pod never gets at the node's credentials.
            metadata_options={
                "http_endpoint": "enabled",
                "http_tokens": "required",
                "http_put_response_hop_limit": 1,
            },
            vpc_security_group_ids=None if efa else ids,
            network_interfaces=_fabric(group.instance_types[0], ids) if efa else None,
            placement=_placement(name, training, self._own),
            capacity_reservation_specification=_reservation(training),
            instance_market_options=_market(training),
            tag_specifications=[
                {"resource_type": kind, "tags": {**tags, "Name": f"{cluster}-{name}"}}
                for kind in LAUNCHED
            ],
            opts=self._own,
        )


def placement_group(
    name: str, group: TrainingGroup, opts: pulumi.ResourceOptions
) -> pulumi.Input[str] | None:
    """The placement group of a training group: the one that is named, or one that is made; None
    where it asks for none."""
    if not group.placement_group:
        return None
    if isinstance(group.placement_group, str):
        return group.placement_group
    return aws.ec2.PlacementGroup(f"{name}-nodes", strategy="cluster", opts=opts).name


def _placement(
    name: str, training: TrainingGroup | None, opts: pulumi.ResourceOptions
) -> aws.ec2.LaunchTemplatePlacementArgsDict | None:
    together = placement_group(name, training, opts) if training is not None else None
    return None if together is None else {"group_name": together}


def _repair(training: TrainingGroup | None) -> aws.eks.NodeGroupNodeRepairConfigArgsDict:
    if training is None or not training.repair:
        return {"enabled": True}
    return {
        "enabled": True,
        "node_repair_config_overrides": [
            {
                "node_monitoring_condition": rule.condition,
                "node_unhealthy_reason": rule.reason,
                "min_repair_wait_time_mins": rule.wait_minutes,
                "repair_action": rule.action,
            }
            for rule in training.repair
        ],
    }


def _capacity_type(training: TrainingGroup | None) -> str:
    match training and training.capacity:
        case "spot":
            return "SPOT"
        case "capacity-block":
            return "CAPACITY_BLOCK"
        case _:
            return "ON_DEMAND"


def _in_block(training: TrainingGroup | None) -> bool:
    return training is not None and training.capacity == "capacity-block"


def _market(
    training: TrainingGroup | None,
) -> aws.ec2.LaunchTemplateInstanceMarketOptionsArgsDict | None:
    return {"market_type": "capacity-block"} if _in_block(training) else None


def _reservation(
    training: TrainingGroup | None,
) -> aws.ec2.LaunchTemplateCapacityReservationSpecificationArgsDict | None:
    if training is None or training.reservation_id is None:
        return None
    return {"capacity_reservation_target": {"capacity_reservation_id": training.reservation_id}}


def _fabric(
    instance_type: str, groups: list[pulumi.Output[str]]
) -> list[aws.ec2.LaunchTemplateNetworkInterfaceArgsDict]:
    """One EFA on each network card that has it; only the first card carries IP too."""
    facts = INSTANCES[instance_type]
    first = "interface" if facts.first_efa_card else "efa"
    return [
        {
            "network_card_index": card,
            "device_index": 0 if card == 0 else 1,
            "interface_type": first if card == 0 else "efa-only",
            "security_groups": groups,
            "delete_on_termination": "true",
        }
        for card in range(facts.first_efa_card + facts.efa)
    ]

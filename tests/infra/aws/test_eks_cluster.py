"""The control plane, its add-ons and its nodes."""

import base64
import email
import json
from datetime import date

import pytest
import yaml

from infra import versions
from infra.plan.graph import Graph
from testkit.eks_factories import (
    EFA_GROUP,
    EFS,
    GPU_GROUP,
    GROUP,
    LUSTRE,
    attached,
    graph,
    policy_of,
    role,
)
from tests.infra.plan.test_graph import everything_before

PINNED = versions.MINORS[versions.KUBERNETES]
CLUSTER, GROUPS = "eks:index:Cluster", "aws:eks/nodeGroup:NodeGroup"
TEMPLATE, ADDON = "aws:ec2/launchTemplate:LaunchTemplate", "aws:eks/addon:Addon"


def test_the_control_plane_is_pinned_encrypted_logged_and_supported(eks: Graph):
    (cluster,) = eks.find(CLUSTER)
    inputs = cluster.inputs

    assert inputs["version"] == versions.KUBERNETES
    assert inputs["upgradePolicy"] == {"supportType": "STANDARD"}
    assert inputs["authenticationMode"] == "API"
    assert inputs["encryptionConfigKeyArn"].endswith("key/keys-cluster")
    assert set(inputs["enabledClusterLogTypes"]) == {
        "api", "audit", "authenticator", "controllerManager", "scheduler",
    }  # fmt: skip
    assert inputs["skipDefaultNodeGroup"] is inputs["skipDefaultSecurityGroups"] is True
    assert inputs["createOidcProvider"] is inputs["bootstrapSelfManagedAddons"] is False
    assert inputs["serviceRole"] == "cluster-control-plane-role-id"
    assert inputs["clusterSecurityGroup"] == "traffic-control-plane-id"
    assert all("-private-" in subnet for subnet in inputs["subnetIds"])


def test_the_api_server_is_public_for_named_addresses_or_not_at_all(dev: Graph, prod: Graph):
    (open_to_some,), (closed,) = dev.find(CLUSTER), prod.find(CLUSTER)

    assert open_to_some.inputs["endpointPublicAccess"] is True
    assert open_to_some.inputs["publicAccessCidrs"] == ["203.0.113.0/24"]
    assert closed.inputs["endpointPublicAccess"] is False
    assert "publicAccessCidrs" not in closed.inputs
    for cluster in (open_to_some, closed):
        assert cluster.inputs["endpointPrivateAccess"] is True


def test_production_cannot_be_deleted_by_mistake(prod: Graph):
    assert prod.find(CLUSTER)[0].inputs["deletionProtection"] is True


def test_the_log_group_is_there_first_with_retention_and_key(eks: Graph):
    (cluster,) = eks.find(CLUSTER)
    (logs,) = eks.find("aws:cloudwatch/logGroup:LogGroup", "cluster-logs")

    assert logs.inputs["name"] == f"/aws/eks/{cluster.inputs['name']}/cluster"
    assert logs.inputs["retentionInDays"] >= 30
    assert logs.inputs["kmsKeyId"]
    assert logs.urn in cluster.options.depends_on


def test_each_role_has_exactly_the_policies_that_it_needs(eks: Graph):
    assert attached(role("cluster-control-plane", eks), eks) == {
        "AmazonEKSClusterPolicy", "AmazonEKSVPCResourceController",
    }  # fmt: skip
    assert attached(role("nodes", eks), eks) == {
        "AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryReadOnly",
    }  # fmt: skip
    assert attached(role("addons-aws-ebs-csi-driver", eks), eks) == {"AmazonEBSCSIDriverPolicyV2"}
    other = [
        r.name
        for r in eks.find("aws:iam/role:Role")
        if attached(r, eks)
        and r.name.removesuffix("-role")
        not in ("cluster-control-plane", "nodes", "addons-aws-ebs-csi-driver")
    ]
    assert other == []


def test_each_role_is_taken_by_the_service_that_it_is_for_and_no_other(eks: Graph):
    services = {
        "cluster-control-plane": "eks.amazonaws.com",
        "nodes": "ec2.amazonaws.com",
        "network-flow": "vpc-flow-logs.amazonaws.com",
    }
    for each in eks.find("aws:iam/role:Role"):
        (statement,) = json.loads(each.inputs["assumeRolePolicy"])["Statement"]
        expected = services.get(each.name.removesuffix("-role"), "pods.eks.amazonaws.com")
        assert statement["Principal"] == {"Service": expected}, each.name
        if expected == "pods.eks.amazonaws.com":
            tags = statement["Condition"]["StringEquals"]
            (cluster,) = eks.find(CLUSTER)
            assert statement["Action"] == ["sts:AssumeRole", "sts:TagSession"]
            assert tags["aws:RequestTag/eks-cluster-arn"].endswith(f"/{cluster.inputs['name']}")
            assert tags["aws:RequestTag/kubernetes-service-account"]
            assert tags["aws:RequestTag/kubernetes-namespace"]


def test_access_entries_give_what_the_settings_say(prod: Graph):
    (ci,) = prod.find("aws:eks/accessPolicyAssociation:AccessPolicyAssociation",
                      "cluster-access-ci")  # fmt: skip
    (people,) = prod.find("aws:eks/accessPolicyAssociation:AccessPolicyAssociation",
                          "cluster-access-researchers")  # fmt: skip

    policy = "arn:aws:eks::aws:cluster-access-policy/"
    assert ci.inputs["policyArn"] == f"{policy}AmazonEKSClusterAdminPolicy"
    assert ci.inputs["accessScope"] == {"type": "cluster"}
    assert people.inputs["policyArn"] == f"{policy}AmazonEKSViewPolicy"
    assert people.inputs["accessScope"] == {"type": "namespace", "namespaces": ["training"]}


def test_a_pipelines_role_can_read_everything_and_change_nothing():
    role = "arn:aws:iam::123456789012:role/holdfast-preview"
    entry = {"principal": role, "policy": "admin-view"}
    (association,) = graph(cluster__access={"preview": entry}).find("AccessPolicyAssociation")

    assert association.inputs["policyArn"].endswith("/AmazonEKSAdminViewPolicy")


def test_every_addon_and_chart_is_pinned(eks: Graph):
    for addon in eks.find(ADDON):
        assert addon.inputs["addonVersion"] == PINNED.addons[addon.inputs["addonName"]]
    for release in eks.find("Release"):
        assert release.inputs["version"]


@pytest.mark.parametrize("name", versions.MINORS)
def test_what_is_pinned_belongs_to_one_minor_version_of_kubernetes(name: str):
    minor = versions.MINORS[name]

    assert minor.node_release.startswith(f"{name}.")
    assert minor.kubectl.startswith(f"{name}.")
    assert minor.addons["kube-proxy"].startswith(f"v{name}.")
    assert set(minor.addons) == set(versions.ADDONS)
    released = date.fromisoformat(minor.node_release.partition("-")[2])
    assert released <= versions.CHECKED < minor.supported_until


def test_minor_versions_are_in_order_and_run_out_in_order():
    ends = [minor.supported_until for minor in versions.MINORS.values()]

    assert ends == sorted(ends)
    assert versions.KUBERNETES in versions.MINORS


def test_addons_come_in_the_order_that_works(eks: Graph):
    groups = {group.urn for group in eks.find(GROUPS)}
    for addon in eks.find(ADDON):
        before = everything_before(eks, addon.urn)
        if addon.inputs["addonName"] in versions.ADDONS_BEFORE_NODES:
            assert not groups & before, addon.name
            assert all(addon.urn in everything_before(eks, group) for group in groups)
        else:
            assert groups <= before, addon.name


@pytest.mark.parametrize(
    ("volume", "drivers"),
    [
        (None, {"aws-ebs-csi-driver"}),
        (EFS, {"aws-ebs-csi-driver", "aws-efs-csi-driver"}),
        (LUSTRE, {"aws-ebs-csi-driver", "aws-fsx-csi-driver"}),
    ],
)
def test_the_drivers_of_the_volumes_in_use_are_there_each_with_an_identity(volume, drivers):
    declared = graph(**({"workloads__gpt__volume": volume} if volume else {}))
    found = {a.inputs["addonName"]: a.inputs for a in declared.find(ADDON)}

    assert {name for name in found if name.endswith("-csi-driver")} == drivers
    for name in drivers:
        identities = found[name]["podIdentityAssociations"]
        (made,) = {identity["roleArn"] for identity in identities}
        own = role(f"addons-{name}", declared)
        assert made.endswith(own.name)
        trusted = json.loads(own.inputs["assumeRolePolicy"])["Statement"][0]["Condition"]
        assert trusted["StringEquals"]["aws:RequestTag/kubernetes-service-account"] == [
            identity["serviceAccount"] for identity in identities
        ]


def test_the_ebs_driver_may_use_the_key_of_the_disks(eks: Graph):
    policy = policy_of(role("addons-aws-ebs-csi-driver", eks), eks)

    assert {s["Resource"].rpartition("/")[2] for s in policy["Statement"]} == {"keys-data"}


def test_nodes_are_private_encrypted_pinned_and_repaired(eks: Graph):
    groups = eks.find(GROUPS)

    assert len(groups) == 2
    for group in groups:
        inputs = group.inputs
        assert all("-private-" in subnet for subnet in inputs["subnetIds"]), group.name
        assert inputs["releaseVersion"] == PINNED.node_release
        assert inputs["version"] == versions.KUBERNETES
        assert inputs["nodeRepairConfig"]["enabled"] is True
        assert inputs["updateConfig"] == {"maxUnavailable": 1}
        assert "diskSize" not in inputs
    for template in eks.find(TEMPLATE):
        (disk,) = template.inputs["blockDeviceMappings"]
        assert "imageId" not in template.inputs
        assert disk["ebs"]["volumeType"] == "gp3"
        assert disk["ebs"]["encrypted"] == "true"
        assert disk["ebs"]["kmsKeyId"].endswith("key/keys-data")
        options = template.inputs["metadataOptions"]
        assert (options["httpTokens"], options["httpPutResponseHopLimit"]) == ("required", 1)


def test_the_system_group_takes_any_pod_in_any_zone(eks: Graph):
    (system,) = eks.find(GROUPS, "system-nodes")

    assert "taints" not in system.inputs or system.inputs["taints"] == []
    assert system.inputs["amiType"] == "AL2023_x86_64_STANDARD"
    assert len(system.inputs["subnetIds"]) == 3


#: Training groups of several sorts beside the default one.
FLEET = {
    "node_groups__training__gpu": {**GPU_GROUP, "zone": "use1-az2"},
    "node_groups__training__fast": {**EFA_GROUP, "instance_types": ["p5en.48xlarge"]},
    "node_groups__training__close": {**GROUP, "placement_group": True},
}


def test_training_groups_are_dedicated_and_sized_as_the_settings_say():
    declared = graph(**FLEET)
    cpu, gpu = (declared.find(GROUPS, f"{name}-nodes")[0].inputs for name in ("cpu", "gpu"))

    assert cpu["scalingConfig"] == {"minSize": 1, "desiredSize": 2, "maxSize": 3}
    assert gpu["scalingConfig"] == {"minSize": 0, "desiredSize": 0, "maxSize": 2}
    assert cpu["amiType"] == "AL2023_x86_64_STANDARD"
    assert gpu["amiType"] == "AL2023_x86_64_NVIDIA"
    assert gpu["subnetIds"] == ["network-private-use1-az2-id"]
    for inputs in (cpu, gpu):
        assert inputs["labels"]["workload-type"] == "model-training"
        assert {"key": "workload-type", "value": "model-training", "effect": "NO_SCHEDULE"} in (
            inputs["taints"]
        )


def test_node_configuration_is_a_part_that_eks_merges_with_its_own(eks: Graph):
    """A whole one, or an image id beside it, would be the node's only configuration."""
    templates = [t for t in eks.find(TEMPLATE) if "userData" in t.inputs]

    assert [t.name for t in templates] == [
        t.name for t in eks.find(TEMPLATE) if t.name != "system-nodes"
    ]
    for template in templates:
        message = email.message_from_bytes(base64.b64decode(template.inputs["userData"]))
        (part,) = [each for each in message.walk() if not each.is_multipart()]
        config = yaml.safe_load(str(part.get_payload()))
        assert part.get_content_type() == "application/node.eks.aws"
        assert config["kind"] == "NodeConfig"
        assert config["spec"]["instance"] == {"localStorage": {"strategy": "RAID0"}}
        assert "cluster" not in config["spec"]


def test_efa_is_on_every_card_and_only_there():
    declared = graph(**FLEET)
    (template,) = declared.find(TEMPLATE, "fast-nodes")
    cards = template.inputs["networkInterfaces"]

    assert [card["networkCardIndex"] for card in cards] == list(range(16))
    assert [card["interfaceType"] for card in cards] == ["efa", *["efa-only"] * 15]
    assert {tuple(card["securityGroups"]) for card in cards} == {
        ("traffic-nodes-id", "traffic-efa-id")
    }
    assert "vpcSecurityGroupIds" not in template.inputs
    assert "placement" not in template.inputs
    (slow,) = declared.find(TEMPLATE, "cpu-nodes")
    assert slow.inputs["vpcSecurityGroupIds"] == ["traffic-nodes-id"]
    assert "networkInterfaces" not in slow.inputs


def test_a_placement_group_comes_without_efa_too():
    declared = graph(**FLEET)
    (template,) = declared.find(TEMPLATE, "close-nodes")
    (together,) = declared.find("aws:ec2/placementGroup:PlacementGroup")

    assert together.inputs["strategy"] == "cluster"
    assert template.inputs["placement"] == {"groupName": together.name}
    assert "networkInterfaces" not in template.inputs


CAPACITIES = {
    "on-demand": "ON_DEMAND",
    "spot": "SPOT",
    "reservation": "ON_DEMAND",
    "capacity-block": "CAPACITY_BLOCK",
}


def h100s(capacity: str) -> dict:
    """A node group that is bought in one way."""
    reserved = capacity in ("reservation", "capacity-block")
    return {
        "instance_types": ["p5.48xlarge"],
        "zone": "use1-az1",
        "capacity": capacity,
        "scaling": {"min": 0, "desired": 0, "max": 2},
        **({"reservation_id": "cr-0123456789abcdef0"} if reserved else {}),
    }


@pytest.mark.parametrize(("capacity", "kind"), CAPACITIES.items())
def test_capacity_is_bought_as_the_settings_say(capacity: str, kind: str):
    reserved = capacity in ("reservation", "capacity-block")
    declared = graph(**{f"node_groups__training__{way}": h100s(way) for way in CAPACITIES})
    (nodes,) = declared.find(GROUPS, f"{capacity}-nodes")
    (template,) = declared.find(TEMPLATE, f"{capacity}-nodes")

    assert nodes.inputs["capacityType"] == kind
    target = template.inputs.get("capacityReservationSpecification", {})
    assert bool(target) == reserved
    in_template = capacity == "capacity-block"
    assert ("instanceTypes" in nodes.inputs) != in_template
    assert ("instanceType" in template.inputs) == in_template
    assert ("instanceMarketOptions" in template.inputs) == in_template


def test_device_plugins_run_where_the_devices_are_and_nowhere_else():
    def plugins(**changes) -> dict:
        found = graph(**changes).find("Release")
        return {r.inputs["chart"]: r.inputs["values"] for r in found if "plugin" in r.name
                or "devices" in r.name}  # fmt: skip

    assert plugins() == {}
    nvidia = plugins(node_groups__training__gpu=GPU_GROUP)
    assert nvidia.keys() == {"nvidia-device-plugin"}
    both = plugins(**FLEET)
    assert both.keys() == {"nvidia-device-plugin", "aws-efa-k8s-device-plugin"}
    for values in both.values():
        assert {t["key"] for t in values["tolerations"]} == {"workload-type", "nvidia.com/gpu"}
        (label,) = values["nodeSelector"]
        (group,) = graph(**FLEET).find(GROUPS, "fast-nodes")
        assert group.inputs["labels"][label] == "true"


def test_agents_of_add_ons_run_on_tainted_nodes_too():
    """Each of these charts leaves a DaemonSet out of nodes with taints unless it is told so: no
    volume is mounted there then, and each GPU node is called broken."""
    declared = graph(**FLEET)
    configured = {
        r.inputs["addonName"]: json.loads(r.inputs.get("configurationValues", "{}"))
        for r in declared.find("aws:eks/addon:Addon")
    }

    assert configured["aws-ebs-csi-driver"]["node"]["tolerateAllTaints"] is True
    agents = configured["eks-node-monitoring-agent"]["dcgmAgent"]
    assert agents["tolerations"] == [{"operator": "Exists"}]


def test_what_others_make_in_aws_has_the_stacks_tags_too(dev: Graph):
    """The provider's default tags reach what the program declares, and nothing that node groups
    and add-ons make of it."""
    (provider,) = dev.find("pulumi:providers:aws")
    tags = json.loads(provider.inputs["defaultTags"])["tags"]
    addons = {
        r.inputs["addonName"]: json.loads(r.inputs.get("configurationValues", "{}"))
        for r in dev.find("aws:eks/addon:Addon")
    }

    assert tags["environment"] == "dev"
    assert tags["holdfast:stack"] == "dev"
    for template in dev.find(TEMPLATE):
        tagged = {t["resourceType"]: t["tags"] for t in template.inputs["tagSpecifications"]}
        assert tagged.keys() == {"instance", "volume", "network-interface"}
        for given in tagged.values():
            assert tags.items() <= given.items()
            assert given["Name"].startswith("holdfast-dev-")
    assert addons["aws-ebs-csi-driver"]["controller"]["extraVolumeTags"] == tags
    assert json.loads(addons["vpc-cni"]["env"]["ADDITIONAL_ENI_TAGS"]) == tags


def test_eks_makes_no_log_group_again_after_destroy_has_removed_it(eks: Graph):
    (cluster,) = eks.find(CLUSTER)
    (statement,) = policy_of(role("cluster-control-plane", eks), eks)["Statement"]

    assert (statement["Effect"], statement["Action"]) == ("Deny", "logs:CreateLogGroup")
    assert statement["Resource"].endswith(f":log-group:/aws/eks/{cluster.inputs['name']}/cluster*")


def test_the_device_plugins_keep_their_charts_own_affinity():
    """A value {} would be merged with the chart's default, and change nothing."""
    (plugin,) = graph(**FLEET).find("Release", "nvidia-device-plugin")

    assert "affinity" not in plugin.inputs["values"]

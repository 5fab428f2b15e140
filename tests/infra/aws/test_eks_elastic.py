"""Elastic capacity: nodes by Karpenter, that come with the work and never go under a trainer."""

import base64
import json
from typing import Any

import pytest

from infra.plan.cost import monthly, total, total_at_most
from infra.plan.graph import Graph
from infra.plan.rights import actions
from policy.check import violations
from testkit.eks_factories import graph, problems

GROUP = "node_groups__training"
GPU: dict[str, Any] = {
    "instance_types": ["p5.48xlarge"],
    "capacity": "elastic",
    "zone": "use1-az1",
    "efa": True,
    "elastic": {"max_nodes": 4, "idle_minutes": 15},
}
CPU: dict[str, Any] = {"instance_types": ["m7i.xlarge"], "zone": "use1-az1", "capacity": "elastic"}
SPOT: dict[str, Any] = {
    **CPU,
    "elastic": {"purchase": ["on-demand", "spot"]},
    "accept_interruptions": True,
}


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{GROUP: {"cpu": CPU, "gpu": GPU}})


def of(declared: Graph, kind: str, name: str) -> dict[str, Any]:
    (resource,) = declared.find(kind, name)
    return resource.inputs["spec"]


def test_a_stack_without_elastic_groups_has_no_karpenter(eks: Graph):
    assert not eks.find("NodePool") and not eks.find("aws:sqs/queue:Queue")
    assert not [r for r in eks.find("Release") if "karpenter" in r.inputs["chart"]]


def test_the_policy_pack_finds_nothing_to_complain_about(declared: Graph):
    assert not violations(declared)


def test_an_elastic_group_is_no_managed_node_group(declared: Graph):
    managed = {g.name for g in declared.find("aws:eks/nodeGroup:NodeGroup")}

    assert managed == {"system-nodes"}
    assert {p.object_name for p in declared.find("NodePool")} == {"cpu", "gpu"}


def test_nodes_carry_what_training_pods_select_and_tolerate(declared: Graph):
    template = of(declared, "NodePool", "gpu")["template"]
    (job,) = declared.find("Job", "gpt")
    pod = job.inputs["spec"]["template"]["spec"]

    assert template["metadata"]["labels"]["workload-type"] == "model-training"
    pool = of(declared, "NodePool", pod["nodeSelector"]["holdfast.dev/node-group"])["template"]
    assert pod["nodeSelector"].items() <= pool["metadata"]["labels"].items()
    tolerated = {(t["key"], t["value"]) for t in pod["tolerations"]}
    assert {(t["key"], t["value"]) for t in pool["spec"]["taints"]} <= tolerated


def test_no_node_goes_under_a_running_trainer_by_karpenters_choice(declared: Graph):
    disruption = of(declared, "NodePool", "gpu")["disruption"]
    (job,) = declared.find("Job", "gpt")

    assert disruption["consolidationPolicy"] == "WhenEmpty"
    assert disruption["consolidateAfter"] == "15m"
    assert {"nodes": "0", "reasons": ["Drifted", "Underutilized"]} in disruption["budgets"]
    assert of(declared, "NodePool", "gpu")["template"]["spec"]["expireAfter"] == "Never"
    annotations = job.inputs["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"karpenter.sh/do-not-disrupt": "true"}


def test_the_protection_of_a_trainers_node_has_a_bound_where_one_is_set():
    bounded = {**CPU, "elastic": {"protect_hours": 72}}
    (job,) = graph(**{GROUP: {"cpu": bounded}}).find("Job", "gpt")

    annotations = job.inputs["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"karpenter.sh/do-not-disrupt": "72h"}


def test_a_fixed_groups_trainers_have_no_such_annotation(dev: Graph):
    for job in dev.find("kubernetes:batch/v1:Job"):
        assert "annotations" not in job.inputs["spec"]["template"]["metadata"]


def test_a_draining_node_waits_for_the_last_save_and_not_for_ever(declared: Graph):
    (job,) = declared.find("Job", "gpt")
    grace = job.inputs["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    bound = of(declared, "NodePool", "gpu")["template"]["spec"]["terminationGracePeriod"]

    assert int(bound.removesuffix("s")) == grace + 15 * 60


def test_nodes_have_pinned_images_encrypted_disks_and_closed_metadata(declared: Graph):
    spec = of(declared, "EC2NodeClass", "gpu")
    (disk,) = spec["blockDeviceMappings"]

    assert spec["amiSelectorTerms"] == [{"alias": "al2023@v20260728"}]
    assert disk["ebs"]["encrypted"] and disk["ebs"]["kmsKeyID"].startswith("arn:aws:kms:")
    assert spec["metadataOptions"]["httpPutResponseHopLimit"] == 1
    assert spec["associatePublicIPAddress"] is False


def test_efa_is_on_every_network_card_and_containers_may_lock_memory(declared: Graph):
    spec = of(declared, "EC2NodeClass", "gpu")
    first, *fabric = spec["networkInterfaces"]

    assert first == {"networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "interface"}
    assert [card["networkCardIndex"] for card in fabric] == list(range(32))
    assert {card["interfaceType"] for card in fabric} == {"efa-only"}
    assert "RLIMIT_MEMLOCK" in spec["userData"]
    assert [term["id"] for term in spec["securityGroupSelectorTerms"]] == [
        "traffic-nodes-id",
        "traffic-efa-id",
    ]
    assert "networkInterfaces" not in of(declared, "EC2NodeClass", "cpu")


@pytest.mark.parametrize("capacity", ["elastic", "on-demand"])
def test_images_are_pulled_in_parallel_where_that_was_asked_for(capacity: str):
    large = {"instance_types": ["m7i.2xlarge"], "zone": "use1-az1", "capacity": capacity}
    fast = graph(**{GROUP: {"cpu": {**large, "parallel_image_pull": True}}})
    plain = graph(**{GROUP: {"cpu": large}})

    def node(declared: Graph) -> tuple[str, dict[str, Any]]:
        if capacity == "elastic":
            spec = of(declared, "EC2NodeClass", "cpu")
            return spec["userData"], spec["blockDeviceMappings"][0]["ebs"]
        (template,) = declared.find("aws:ec2/launchTemplate:LaunchTemplate", "cpu-nodes")
        text = base64.b64decode(template.inputs["userData"]).decode()
        return text, template.inputs["blockDeviceMappings"][0]["ebs"]

    config, disk = node(fast)
    assert "FastImagePull: true" in config
    assert (disk["iops"], disk["throughput"]) == (16_000, 1000)
    config, disk = node(plain)
    assert "FastImagePull" not in config and "iops" not in disk
    assert total_at_most(monthly(fast)) > total_at_most(monthly(plain))


def test_spot_is_taken_only_where_it_was_asked_for():
    def bought(group: dict[str, Any]) -> list[str]:
        pool = of(graph(**{GROUP: {"cpu": group}}), "NodePool", "cpu")
        wanted = {r["key"]: r["values"] for r in pool["template"]["spec"]["requirements"]}
        return wanted["karpenter.sh/capacity-type"]

    assert bought(CPU) == ["on-demand"]
    assert bought(SPOT) == ["on-demand", "spot"]


def test_every_kind_of_notice_reaches_the_queue_and_the_queue_takes_no_others(declared: Graph):
    patterns = [
        json.loads(rule.inputs["eventPattern"])["detail-type"]
        for rule in declared.find("aws:cloudwatch/eventRule:EventRule")
    ]
    (policy,) = declared.find("aws:sqs/queuePolicy:QueuePolicy")
    allow, deny = json.loads(policy.inputs["policy"])["Statement"]

    assert ["EC2 Spot Instance Interruption Warning"] in patterns and len(patterns) == 4
    assert len(declared.find("aws:cloudwatch/eventTarget:EventTarget")) == 4
    assert allow["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    (release,) = declared.find("Release", "karpenter")
    assert release.inputs["values"]["settings"]["interruptionQueue"] == "karpenter-notices"


def test_karpenter_may_touch_the_instances_of_this_cluster_only(declared: Graph):
    (policy,) = [p for p in declared.find("aws:iam/rolePolicy:RolePolicy")
                 if p.name == "karpenter-policy"]  # fmt: skip
    text = policy.inputs["policy"]
    statements = {s.get("Sid"): s for s in json.loads(text)["Statement"]}

    assert len("".join(text.split())) <= 10_240  # IAM's limit for a role's own policies
    for sid in ("RemoveOurs", "NameInstances", "LaunchFromOurTemplates"):
        condition = statements[sid]["Condition"]["StringEquals"]
        assert condition["aws:ResourceTag/kubernetes.io/cluster/test"] == "owned"
    assert statements["GiveNodesTheirRole"]["Resource"].endswith("role/nodes-role")
    anywhere = [s["Action"] for s in statements.values() if s["Resource"] == "*"]
    calls = [c for each in anywhere for c in ([each] if isinstance(each, str) else each)]
    assert all(a.split(":")[1].startswith(("Describe", "Get", "List")) for a in calls)


def test_nodes_are_gone_before_karpenter_is(declared: Graph):
    (pool,) = declared.find("NodePool", "gpu")
    (node_class,) = declared.find("EC2NodeClass", "gpu")
    (release,) = declared.find("Release", "karpenter")

    assert node_class.urn in pool.options.depends_on
    assert release.urn in node_class.options.depends_on


def test_karpenter_runs_on_nodes_that_it_does_not_make(declared: Graph):
    (release,) = declared.find("Release", "karpenter")
    affinity = release.inputs["values"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    assert {"key": "karpenter.sh/nodepool", "operator": "DoesNotExist"} in term["matchExpressions"]
    assert release.inputs["values"]["replicas"] == 1  # the system group may have one node


def test_a_month_costs_from_nothing_to_the_bound(declared: Graph):
    costs = monthly(declared)
    gpu = next(cost for cost in costs if cost.what.startswith("gpu:"))

    assert gpu.what == "gpu: 0 to 4 × p5.48xlarge"
    assert gpu.dollars == 0 and gpu.most == pytest.approx(4 * (55.04 * 730 + 8))
    assert total_at_most(costs) > total(costs)


def test_the_rights_for_up_cover_what_elastic_groups_bring(declared: Graph):
    assert {"sqs:CreateQueue", "events:PutRule", "iam:CreateInstanceProfile"} <= set(
        actions(declared)
    )


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({**CPU, "scaling": {"max": 4}}, "scaling with capacity elastic would not be used"),
        (
            {**CPU, "capacity": "on-demand", "elastic": {}},
            "elastic with capacity on-demand would not be used",
        ),
        ({**SPOT, "accept_interruptions": False}, "training.cpu is on spot"),
        ({**CPU, "parallel_image_pull": True}, "m7i.xlarge is too small for it"),
        ({**CPU, "reservation_id": "cr-0123456789abcdef0"}, "reservation_id with capacity elastic"),
    ],
)
def test_a_wrong_setting_says_what_to_do(group: dict[str, Any], said: str):
    (problem,) = problems(**{GROUP: {"cpu": group}})

    assert said in problem

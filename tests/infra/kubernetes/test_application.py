"""A workload of kind deployment: what is declared for it, and what it may not do."""

import json
from typing import Any

import pytest

from infra.plan.graph import Graph
from testkit.eks_factories import graph as eks_graph
from testkit.factories import APPLICATION, containers, graph, settings
from testkit.factories import problems as problems_of
from tests.infra.kubernetes.test_pods import restricted_violations


@pytest.fixture(scope="module")
def served() -> Graph:
    return graph(workloads__predictor=APPLICATION)


def only(found: list[Any]) -> dict[str, Any]:
    (one,) = found
    return one.inputs


def test_a_workload_that_says_no_kind_is_a_training():
    declared = settings(workloads__predictor=APPLICATION)

    assert list(declared.trainings) == ["gpt"]
    assert list(declared.applications) == ["predictor"]


def test_an_application_is_a_deployment_a_service_and_a_claim(served: Graph):
    deployment = only(served.find("Deployment", "predictor"))
    service = only(served.find("Service", "predictor"))
    claim = only(served.find("PersistentVolumeClaim", "models-pvc"))
    pod = deployment["spec"]["template"]

    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (
        deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    )
    assert pod["metadata"]["labels"]["holdfast.dev/claim"] == "models-pvc"
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "models-pvc"
    assert claim["metadata"]["namespace"] == "training"
    assert served.outputs["applications"] == {"predictor": "predictor"}
    assert served.outputs["training_jobs"] == {"gpt": "gpt"}
    assert served.outputs["services"] == {"gpt": "gpt", "predictor": "predictor"}


def test_the_next_pod_starts_when_the_last_one_is_gone_and_up_never_scales(served: Graph):
    (deployment,) = served.find("Deployment", "predictor")

    assert deployment.inputs["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment.inputs["spec"]["replicas"] == 1
    assert deployment.options.ignore_changes == ("spec.replicas",)


def test_its_volume_is_refilled_and_then_gets_the_model_of_the_settings(served: Graph):
    pod = only(served.find("Deployment", "predictor"))["spec"]["template"]["spec"]
    recover, model = pod["initContainers"]
    (server,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in model["env"]}

    assert recover["command"] == ["holdfast", "pull", "--if-empty"]
    assert model["command"] == ["holdfast", "get", "--on-volume"]
    assert variables["HOLDFAST_MODEL"] == "churn@production"
    assert variables["HOLDFAST_VOLUME"] == "/var/ml_model"
    assert server["command"] == ["python", "-m", "training.serve"]
    # The server runs user code: it gets no way to the store.
    assert {"store"} & {mount["name"] for mount in recover["volumeMounts"]}
    assert not {"store"} & {mount["name"] for mount in server["volumeMounts"]}


def test_without_a_model_its_volume_is_only_refilled():
    declared = graph(workloads__predictor={**APPLICATION, "model": None} | {"run": "mine"})
    pod = only(declared.find("Deployment", "predictor"))["spec"]["template"]["spec"]

    assert [each["name"] for each in pod["initContainers"]] == ["recover"]


def test_its_pods_comply_with_restricted_and_get_no_token(served: Graph):
    pod = only(served.find("Deployment", "predictor"))["spec"]["template"]["spec"]

    assert restricted_violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert all(container["resources"]["limits"]["memory"] for container in containers(pod))


def test_its_configuration_says_what_a_restore_pauses_and_which_blueprint_does_it(served: Graph):
    data = only(served.find("ConfigMap", "holdfast-models-pvc"))["data"]

    assert data["HOLDFAST_WORKLOAD"] == "predictor"
    assert data["HOLDFAST_BLUEPRINT"] == "applications"
    assert data["HOLDFAST_DEPLOYMENT"] == "predictor"
    assert data["HOLDFAST_KIND"] == "model"
    assert "HOLDFAST_JOB" not in data


def test_a_blueprint_is_declared_for_each_kind_that_there_is(served: Graph):
    names = {each.object_name for each in served.find("Blueprint")}
    without = {each.object_name for each in graph().find("Blueprint")}

    assert names == {"checkpoints", "applications"}
    assert without == {"checkpoints"}


def test_kanister_may_scale_this_deployment_and_no_other(served: Graph):
    rules = only(served.find("Role", "holdfast-kanister"))["rules"]
    deployments = [rule for rule in rules if "deployments" in rule["resources"]]

    assert deployments == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["predictor"],
            "verbs": ["get", "patch", "update"],
        }
    ]


def test_kanister_has_rights_on_no_kind_that_a_namespace_does_not_have():
    declared = graph(workloads__predictor={**APPLICATION, "namespace": "serving"})
    kinds = {
        role.inputs["metadata"]["namespace"]: {
            k for r in role.inputs["rules"] for k in r["resources"]
        }
        for role in declared.find("Role")
        if role.object_name == "holdfast-kanister"
    }

    assert kinds == {
        "training": {"pods", "pods/log", "jobs"},
        "serving": {"pods", "pods/log", "deployments", "replicasets"},
    }


def test_each_backup_account_is_held_to_its_own_blueprint_claim_and_owner(served: Graph):
    policy = only(served.find("ValidatingAdmissionPolicy", "holdfast-actionsets"))
    variables = {v["name"]: v["expression"] for v in policy["spec"]["variables"]}
    accounts = json.loads(variables["accounts"])

    assert accounts["training.predictor-backup"] == {
        "blueprint": "applications",
        "kind": "pvc",
        "name": "models-pvc",
        "task": "holdfast-models-pvc",
        "restorer": "holdfast-models-pvc",
        "owner": "deployment",
        "paused": "predictor",
    }
    assert accounts["training.gpt-backup"]["owner"] == "job"


def test_the_backup_account_sees_its_own_deployment_and_changes_none(served: Graph):
    rules = only(served.find("Role", "predictor-backup"))["rules"]

    assert rules[0] == {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "resourceNames": ["predictor"],
        "verbs": ["get"],
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"kind": "cronjob"},
            "workloads.predictor.kind: 'cronjob' is not known: use one of training, deployment, "
            "protected",
        ),
        (
            {"model": "churn@"},
            "workloads.predictor.model: 'churn@' is not a model of the store: write NAME@alias, "
            "NAME:version or NAME",
        ),
        ({"nodes": 2}, "workloads.predictor.nodes: unknown key: did you mean 'model'?"),
    ],
)
def test_what_an_application_cannot_be_is_said_in_one_line(change: dict[str, Any], problem: str):
    assert problems_of(workloads__predictor={**APPLICATION, **change}) == [problem]


def test_on_eks_it_runs_on_the_system_nodes_with_the_rights_of_a_reader():
    volume = {"kind": "ebs", "name": "models", "size": "20Gi", "zone": "use1-az1"}
    declared = eks_graph(workloads__predictor={**APPLICATION, "volume": volume})
    pod = only(declared.find("Deployment", "predictor"))["spec"]["template"]["spec"]
    associated = {
        each.inputs["serviceAccount"]
        for each in declared.find("aws:eks/podIdentityAssociation:PodIdentityAssociation")
    }

    assert "nodeSelector" not in pod
    assert "tolerations" not in pod
    assert {"predictor", "predictor-backup", "holdfast-models-pvc"} <= associated

"""What TrainJobs of someone else's run on, by Kubeflow Trainer 2.3.

The object was held against the CRD of Trainer 2.3.0, unknown fields refused (manifests/base/crds).
Here it is held against Kubernetes' own schema of a Job, and what Trainer's webhook asks for.
"""

from typing import Any

import pytest

from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.kubernetes.preflight import check
from infra.manifests import load
from infra.plan.graph import Graph
from infra.settings import parse
from policy.check import violations
from testkit import factories, schemas
from testkit.factories import BUCKET, FOREIGN, graph
from tests.infra.kubernetes.fake_kubectl import Cluster, thing
from tests.infra.kubernetes.test_pods import restricted_violations
from tests.infra.kubernetes.test_recover import first, said

L = "workloads__llama"
KEYS = {"existing": {**BUCKET["existing"], "credentials_secret": "keys"}}
CRD = "clustertrainingruntimes.trainer.kubeflow.org"


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(backup_store=KEYS, **{L: {**FOREIGN, "service_account": "trainer"}})


def runtime(graph: Graph) -> dict[str, Any]:
    (found,) = [m for m in graph.kubernetes() if m["kind"] == "ClusterTrainingRuntime"]
    return found


def job(graph: Graph) -> dict[str, Any]:
    (found,) = runtime(graph)["spec"]["template"]["spec"]["replicatedJobs"]
    return found


def template(graph: Graph) -> dict[str, Any]:
    return job(graph)["template"]["spec"]["template"]


def node(graph: Graph) -> dict[str, Any]:
    (found,) = template(graph)["spec"]["containers"]
    return found


def test_a_trainjob_names_only_the_runtime_which_the_stack_exports(declared: Graph):
    assert declared.outputs["training_runtimes"] == {"llama": "holdfast-team-a-llama"}
    assert runtime(declared)["metadata"]["name"] == "holdfast-team-a-llama"
    assert runtime(declared)["apiVersion"] == "trainer.kubeflow.org/v1alpha1"


def test_only_trainjobs_get_one():
    found = graph(**{L: {**FOREIGN, "owner": {"kind": "jobset"}}})

    assert not found.find("ClusterTrainingRuntime")
    assert "training_runtimes" not in found.outputs


def test_its_pods_have_all_that_a_pod_template_of_others_gets(declared: Graph):
    part, pod = said(declared), template(declared)["spec"]

    assert first(pod) == first(part["spec"])
    assert [each for each in part["spec"]["volumes"] if each not in pod["volumes"]] == []
    assert template(declared)["metadata"]["labels"] == part["metadata"]["labels"]
    assert pod["serviceAccountName"] == "trainer"
    assert part["spec"]["securityContext"].items() <= pod["securityContext"].items()


def test_user_code_finds_its_volume_and_run_and_has_no_way_to_the_store(declared: Graph):
    container = node(declared)
    values = {each["name"]: each["value"] for each in container["env"]}

    assert (values["HOLDFAST_VOLUME"], values["HOLDFAST_RUN"]) == ("/var/ml_model", "llama-7b")
    assert {"name": "volume", "mountPath": "/var/ml_model"} in container["volumeMounts"]
    assert {"secretRef": {"name": "keys"}} in first(template(declared)["spec"])["envFrom"]
    assert "secretRef" not in str(container["envFrom"])
    assert "store" not in [each["name"] for each in container["volumeMounts"]]


def test_trainer_finds_the_job_and_the_container_that_it_fills_in(declared: Graph):
    """Its webhook: one replica, and a container `node` in the Job that has the label."""
    step = "trainer.kubeflow.org/trainjob-ancestor-step"

    assert job(declared)["template"]["metadata"]["labels"] == {step: "trainer"}
    assert (job(declared)["name"], job(declared)["replicas"]) == ("node", 1)
    assert node(declared)["name"] == "node"


def test_it_is_made_of_fields_that_trainer_and_kubernetes_know(declared: Graph):
    spec = runtime(declared)["spec"]

    assert spec.keys() <= {"mlPolicy", "podGroupPolicy", "template"}
    assert spec["mlPolicy"] == {"numNodes": 1, "torch": {}}
    assert spec["template"].keys() == {"spec"}
    assert spec["template"]["spec"].keys() == {"replicatedJobs"}
    assert job(declared).keys() <= {"dependsOn", "groupName", "name", "replicas", "template"}
    schemas.check({"apiVersion": "batch/v1", "kind": "Job", **job(declared)["template"]})


def test_two_pods_never_write_at_once_and_final_ends_are_final_as_in_our_own_job(declared: Graph):
    theirs, ours = job(declared)["template"]["spec"], load("training-job")["spec"]

    assert theirs["podFailurePolicy"] == ours["podFailurePolicy"]
    assert theirs["podReplacementPolicy"] == ours["podReplacementPolicy"]
    assert template(declared)["spec"]["restartPolicy"] == "Never"


def test_its_pods_are_restricted_and_the_policies_look_at_them(declared: Graph):
    assert restricted_violations(template(declared)["spec"]) == []
    assert not violations(declared)


def test_a_cluster_without_trainer_stops_before_anything_is_made(cluster: Cluster):
    settings = parse(factories.valid(**{L: FOREIGN}))
    there = [
        thing("Namespace", "team-a"),
        thing("PersistentVolumeClaim", "llama-checkpoints", "team-a"),
    ]
    cluster.set(*there)

    with pytest.raises(ClusterError, match=r"llama\.owner\.kind: the cluster knows no TrainJob"):
        check(settings, Kubectl(settings.access))
    cluster.set(*there, thing("CustomResourceDefinition", CRD))
    check(settings, Kubectl(settings.access))

"""A training in a queue of Kueue: what is declared for it, and who may pause it."""

import json
from typing import Any

import pytest

from infra.plan.graph import Graph
from policy.check import violations
from testkit.factories import containers, graph

QUEUED = {"workloads__gpt__queue": "gpus"}


@pytest.fixture(scope="module")
def queued() -> Graph:
    return graph(**QUEUED)


def rules(graph: Graph, name: str) -> list[dict[str, Any]]:
    (role,) = graph.find("Role", name)
    return role.inputs["rules"]


def test_the_job_waits_in_its_queue_and_up_never_starts_it(queued: Graph):
    (job,) = queued.find("Job", "gpt")

    assert job.inputs["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job.inputs["spec"]["suspend"] is True
    assert "spec.suspend" in job.options.ignore_changes
    template = job.inputs["spec"]["template"]["metadata"]["labels"]
    assert not [key for key in template if "kueue" in key]  # Kueue would take the pods for its own


def test_a_training_in_no_queue_is_as_it_was(local: Graph):
    (job,) = local.find("Job", "gpt")

    assert "suspend" not in job.inputs["spec"]
    assert not [key for key in job.inputs["metadata"]["labels"] if "kueue" in key]
    assert not local.find("Blueprint", "topmost")
    assert "kueue" not in json.dumps([role.inputs for role in local.find("Role")])


def test_what_pods_read_names_the_blueprint_and_where_the_search_for_the_owner_begins(
    queued: Graph,
):
    (environment,) = queued.find("ConfigMap", "holdfast-checkpoints-pvc")
    data = environment.inputs["data"]

    assert (data["HOLDFAST_BLUEPRINT"], data["HOLDFAST_PAUSE"]) == ("topmost", "job/gpt")
    assert "HOLDFAST_JOB" not in data


def test_only_the_blueprint_of_its_kind_is_there_with_the_stacks_image_in_every_task(
    queued: Graph,
):
    (blueprint,) = queued.find("Blueprint")
    restore = blueprint.inputs["actions"]["restore"]

    assert blueprint.object_name == "topmost"
    for phase in [*restore["phases"], restore["deferPhase"]]:
        assert phase["args"]["image"] == restore["phases"][0]["args"]["image"]
    pause = next(phase for phase in restore["phases"] if phase["name"] == "pause")
    (container,) = pause["args"]["podOverride"]["containers"]
    assert [mount["name"] for mount in container["volumeMounts"]] == ["tmp"]  # no store


def test_the_task_that_pauses_may_do_that_and_no_more(queued: Graph):
    assert rules(queued, "holdfast-checkpoints-pvc-pause") == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {
            "apiGroups": ["batch"],
            "resources": ["jobs"],
            "resourceNames": ["gpt"],
            "verbs": ["get"],
        },
        {
            "apiGroups": ["kueue.x-k8s.io"],
            "resources": ["workloads"],
            "verbs": ["list", "get", "patch"],
        },
    ]
    (binding,) = queued.find("RoleBinding", "holdfast-checkpoints-pvc-pause")
    assert [s["name"] for s in binding.inputs["subjects"]] == ["holdfast-checkpoints-pvc-pause"]
    assert queued.find("ServiceAccount", "holdfast-checkpoints-pvc-pause")


def test_kanister_gets_no_right_on_what_a_task_pauses(queued: Graph):
    resources = [name for rule in rules(queued, "holdfast-kanister") for name in rule["resources"]]

    assert sorted(set(resources)) == ["pods", "pods/log"]


def test_the_schedule_may_see_the_job_and_its_workload_and_change_neither(queued: Graph):
    seen = {
        name: rule["verbs"] for rule in rules(queued, "gpt-backup") for name in rule["resources"]
    }

    assert seen == {"jobs": ["get"], "workloads": ["list"], "pods": ["list", "delete"]}


def test_the_policy_lets_the_schedule_resume_without_options(queued: Graph):
    (policy,) = queued.find("ValidatingAdmissionPolicy", "holdfast-actionsets")
    accounts = {v["name"]: v["expression"] for v in policy.inputs["spec"]["variables"]}["accounts"]
    held = json.loads(accounts)["training.gpt-backup"]

    assert held["owner"] == "topmost"
    assert held["restorer"] == "holdfast-checkpoints-pvc-pause"  # whose leftover pods it may delete


def test_every_policy_holds(queued: Graph):
    assert not violations(queued)


def test_the_trainer_has_no_part_in_it(queued: Graph):
    (job,) = queued.find("Job", "gpt")
    pod = job.inputs["spec"]["template"]["spec"]

    assert pod["automountServiceAccountToken"] is False
    assert containers(pod)

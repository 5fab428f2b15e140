"""The Blueprint of applications: what it shares with that of trainings, and how it pauses."""

import json
import re
from typing import Any

import pytest
import yaml

from holdfast.control.deployment import REPLICAS_ANNOTATION
from holdfast.control.owner import RESTORE_ANNOTATION
from infra.manifests import BLUEPRINTS
from sandbox.cluster.templates import WAIT_FUNCTIONS, Template, render
from testkit.factories import tasks


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((BLUEPRINTS / f"{name}.yaml").read_text(encoding="utf-8"))


BLUEPRINT, TRAININGS = read("applications"), read("checkpoints")
RESTORE = BLUEPRINT["actions"]["restore"]
PHASES = {phase["name"]: phase for phase in RESTORE["phases"]}
OPTIONS = {"snapshot": "s-1", "deployment": "predictor", "replicas": "3"}
DATA = {"PVC": {"Name": "models-pvc", "Namespace": "training"}, "Options": OPTIONS, "Phases": {}}


def spec_of(phase: dict[str, Any]) -> dict[str, Any]:
    return json.loads(render(phase["args"], DATA)["spec"])


def test_every_task_is_that_of_a_training():
    """The two documents may differ only in what they pause."""
    assert {t["name"]: t for t in tasks(BLUEPRINT)} == {t["name"]: t for t in tasks(TRAININGS)}
    for action in ("backup", "verify", "delete"):
        assert BLUEPRINT["actions"][action] == TRAININGS["actions"][action]


def test_a_restore_stops_the_application_only_when_the_snapshot_is_there():
    names = [*PHASES, RESTORE["deferPhase"]["name"]]

    assert names == [
        "find", "stage", "pause", "wait", "count", "switch", "resume", "resumeAlways",
    ]  # fmt: skip
    assert all(re.fullmatch(r"[A-Za-z]+", name) for name in names)


def test_one_patch_scales_down_and_remembers_for_whom_and_from_where():
    assert spec_of(PHASES["pause"]) == {
        "metadata": {"annotations": {RESTORE_ANNOTATION: "s-1", REPLICAS_ANNOTATION: "3"}},
        "spec": {"replicas": 0},
    }


def test_the_end_of_a_restore_and_the_action_resume_are_one_and_the_same_patch():
    resumed = {
        "metadata": {"annotations": {RESTORE_ANNOTATION: None, REPLICAS_ANNOTATION: None}},
        "spec": {"replicas": 3},
    }
    (go_on,) = BLUEPRINT["actions"]["resume"]["phases"]

    assert spec_of(PHASES["resume"]) == resumed
    assert PHASES["resume"]["args"] == go_on["args"] == RESTORE["deferPhase"]["args"]
    assert ".Phases" not in json.dumps(RESTORE["deferPhase"])


def test_every_phase_that_pauses_or_waits_is_about_the_deployment_of_the_options():
    for name in ("find", "pause", "resume"):
        reference = render(PHASES[name]["args"], DATA)["objectReference"]
        assert reference == {
            "apiVersion": "v1", "group": "apps", "resource": "deployments",
            "name": "predictor", "namespace": "training",
        }  # fmt: skip
    assert render(PHASES["count"]["args"], DATA) == {
        "namespace": "training",
        "kind": "deployment",
        "name": "predictor",
        "replicas": 0,
        "waitForReady": True,
    }


@pytest.mark.parametrize(
    ("status", "may_go_on"),
    [
        ({"replicas": 1, "terminatingReplicas": 0}, False),
        ({"replicas": 1}, False),
        ({"terminatingReplicas": 1}, False),
        ({"replicas": 0, "terminatingReplicas": 2}, False),
        ({"terminatingReplicas": 0}, True),
        ({"replicas": 0}, True),
        ({}, True),
    ],
)
def test_the_switch_waits_until_no_pod_is_left(status: dict[str, int], may_go_on: bool):
    conditions = PHASES["wait"]["args"]["conditions"]["allOf"]
    texts = [
        Template(each["condition"], WAIT_FUNCTIONS).render({"status": status})
        for each in conditions
    ]

    assert (texts == ["true", "true"]) is may_go_on
    assert int(PHASES["wait"]["args"]["timeout"].removesuffix("m")) * 60 > 3600

"""The Blueprint of what is in a queue, or belongs to something that Kanister cannot patch."""

import json
from typing import Any

import pytest
import yaml

from holdfast.control.actionset import SWITCH_SECONDS
from holdfast.control.subject import PAUSE_SUFFIX
from infra.manifests import BLUEPRINTS
from infra.names import pause_account, task_account
from tests.infra.kubernetes.test_pods import restricted_violations

BLUEPRINT = yaml.safe_load((BLUEPRINTS / "topmost.yaml").read_text(encoding="utf-8"))
CHECKPOINTS = yaml.safe_load((BLUEPRINTS / "checkpoints.yaml").read_text(encoding="utf-8"))
ACTIONS = BLUEPRINT["actions"]
RESTORE = ACTIONS["restore"]


def phases(action: dict[str, Any]) -> list[dict[str, Any]]:
    return [*action["phases"], *([action["deferPhase"]] if "deferPhase" in action else [])]


ALL = {phase["name"]: phase for action in ACTIONS.values() for phase in phases(action)}


def test_it_does_all_that_the_one_of_a_job_does():
    assert ACTIONS.keys() == CHECKPOINTS["actions"].keys()
    for action in ("backup", "verify", "delete"):
        assert ACTIONS[action] == CHECKPOINTS["actions"][action]
    ours = {phase["name"]: phase for phase in RESTORE["phases"]}
    theirs = {phase["name"]: phase for phase in CHECKPOINTS["actions"]["restore"]["phases"]}
    for same in ("stage", "switch"):
        assert ours[same] == theirs[same]


def test_a_restore_pauses_only_when_the_snapshot_is_there_and_always_resumes():
    assert [phase["name"] for phase in phases(RESTORE)] == [
        "stage", "pause", "switch", "resume", "resumeAlways",
    ]  # fmt: skip
    assert ".Phases" not in json.dumps(RESTORE["deferPhase"])
    assert ALL["resume"]["args"] == ALL["resumeAlways"]["args"] == ALL["goOn"]["args"]
    assert len(ALL) == sum(len(phases(action)) for action in ACTIONS.values())  # unique names


def test_kanister_itself_patches_and_waits_for_nothing():
    """Its KubeOps sends strategic merge patches, which the API server refuses for JobSets."""
    assert {phase["func"] for phase in ALL.values()} == {"KubeTask"}


@pytest.mark.parametrize("name", ["pause", "resume", "resumeAlways", "goOn"])
def test_a_task_that_pauses_has_a_token_and_no_way_to_the_volume_or_the_store(name: str):
    override = ALL[name]["args"]["podOverride"]

    assert override["automountServiceAccountToken"] is True
    assert override["serviceAccountName"] == "holdfast-{{ .PVC.Name }}-pause"
    assert override["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    assert "holdfast.dev/claim" not in ALL[name]["args"]["podLabels"]  # it attracts no task


@pytest.mark.parametrize("name", sorted(ALL))
def test_only_tasks_that_pause_have_a_token(name: str):
    has_token = ALL[name]["args"]["podOverride"]["automountServiceAccountToken"]

    assert has_token == (name in ("pause", "resume", "resumeAlways", "goOn"))


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_pod_meets_pod_security_restricted(name: str):
    assert restricted_violations(ALL[name]["args"]["podOverride"]) == []


def test_a_switch_of_a_dead_controller_ends_before_anybody_resumes():
    assert ALL["switch"]["args"]["podOverride"]["activeDeadlineSeconds"] == SWITCH_SECONDS


def test_the_account_has_the_name_that_leftover_pods_are_known_by():
    assert pause_account("c") == f"{task_account('c')}{PAUSE_SUFFIX}"

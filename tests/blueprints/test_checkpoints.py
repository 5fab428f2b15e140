"""The Blueprint as Kanister reads it; whether it is right is for a real cluster to say."""

import json
import re
from typing import Any

import pytest
import yaml

from holdfast.control.actionset import SWITCH_SECONDS
from holdfast.control.job import RESTORE_ANNOTATION
from infra.manifests import BLUEPRINTS
from infra.settings.protection import LONGEST_BACKUP
from sandbox.cluster.templates import BLUEPRINT_FUNCTIONS, WAIT_FUNCTIONS, Template, render, strings
from testkit.factories import tasks
from tests.infra.kubernetes.test_pods import restricted_violations

TEXT = (BLUEPRINTS / "checkpoints.yaml").read_text(encoding="utf-8")
BLUEPRINT: dict[str, Any] = yaml.safe_load(TEXT)
ACTIONS = BLUEPRINT["actions"]

#: Arguments that Kanister 0.119 knows for the functions in use; it refuses any other.
ARGUMENTS = {
    "KubeTask": {"image", "command", "namespace", "podOverride", "podAnnotations", "podLabels"},
    "KubeOps": {"operation", "spec", "namespace", "objectReference"},
    "WaitV2": {"timeout", "conditions"},
}
WAIT = (
    '{{ if exists . "status" "active" }}false'
    '{{ else if exists . "status" "terminating" }}{{ eq .status.terminating 0 }}'
    "{{ else }}true{{ end }}"
)


def phases(action: dict[str, Any]) -> list[dict[str, Any]]:
    return [*action["phases"], *([action["deferPhase"]] if "deferPhase" in action else [])]


ALL = [phase for action in ACTIONS.values() for phase in phases(action)]


def outputs(**phases: dict[str, str]) -> dict[str, Any]:
    return {
        "PVC": {"Name": "checkpoints-pvc", "Namespace": "training"},
        "Options": {"snapshot": "s-1", "job": "gpt"},
        "Phases": {name: {"Output": output} for name, output in phases.items()},
    }


def test_a_blueprint_has_actions_at_its_top_level_and_no_spec():
    assert BLUEPRINT.keys() == {"apiVersion", "kind", "metadata", "actions"}
    assert set(ACTIONS) == {"backup", "restore", "resume", "verify", "delete"}


def test_phase_names_are_unique_and_go_identifiers():
    names = [phase["name"] for phase in ALL]

    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name)] == []


def test_every_function_gets_only_arguments_that_it_knows():
    for phase in ALL:
        assert phase["args"].keys() <= ARGUMENTS[phase["func"]], phase["name"]
        assert phase.keys() == {"func", "name", "args"}, phase["name"]


def test_every_template_is_in_the_subset_that_the_sandbox_renders():
    for phase in ALL:
        arguments = phase["args"]
        if phase["func"] == "WaitV2":
            for condition in arguments["conditions"]["allOf"]:
                Template(condition["condition"], WAIT_FUNCTIONS)
                arguments = condition["objectReference"]
        for text in strings(arguments):
            Template(text, BLUEPRINT_FUNCTIONS)


def test_templates_read_outputs_of_phases_that_ran_before_them_only():
    for action in ACTIONS.values():
        done: list[str] = []
        for phase in action["phases"]:
            read = set(re.findall(r"\.Phases\.(\w+)", json.dumps(phase)))
            assert read <= set(done), phase["name"]
            done.append(phase["name"])


def test_the_deferred_phase_reads_no_output_at_all():
    """A phase that failed has no outputs, and one that never started is not even there."""
    assert ".Phases" not in json.dumps(ACTIONS["restore"]["deferPhase"])


def test_a_restore_stops_training_only_when_the_snapshot_is_there():
    assert [phase["name"] for phase in phases(ACTIONS["restore"])] == [
        "find", "stage", "suspend", "wait", "switch", "resume", "resumeAlways",
    ]  # fmt: skip


def test_the_job_is_resumed_whatever_happened_before():
    deferred = ACTIONS["restore"]["deferPhase"]
    resume = ACTIONS["restore"]["phases"][-1]

    assert json.loads(deferred["args"]["spec"])["spec"] == {"suspend": False}
    assert deferred["args"] == resume["args"]


def test_a_job_that_a_restore_suspended_is_marked_until_it_is_resumed():
    """By the same patches: `holdfast backup` resumes a Job that has the mark, and no other."""
    by_name = {phase["name"]: phase for phase in ALL}
    suspend = json.loads(render(by_name["suspend"]["args"], outputs())["spec"])
    resume = json.loads(by_name["resume"]["args"]["spec"])

    assert suspend == {
        "metadata": {"annotations": {RESTORE_ANNOTATION: "s-1"}},
        "spec": {"suspend": True},
    }
    assert resume == {
        "metadata": {"annotations": {RESTORE_ANNOTATION: None}},
        "spec": {"suspend": False},
    }


def test_the_action_resume_does_what_the_end_of_a_restore_does_and_nothing_else():
    (go_on,) = phases(ACTIONS["resume"])

    assert go_on["args"] == ACTIONS["restore"]["deferPhase"]["args"]


def test_a_switch_ends_before_an_orphaned_restore_is_cleared():
    (switch,) = [phase for phase in ALL if phase["name"] == "switch"]

    assert switch["args"]["podOverride"]["activeDeadlineSeconds"] <= SWITCH_SECONDS


def test_a_missing_job_is_found_before_anything_changes():
    """A patch fails on an object that is not there; this one changes nothing on one that is."""
    find = render(ACTIONS["restore"]["phases"][0]["args"], outputs())

    assert find["operation"] == "patch"
    assert find["objectReference"]["name"] == "gpt"
    assert json.loads(find["spec"]) == {"metadata": {"name": "gpt"}}


@pytest.mark.parametrize(
    ("status", "may_go_on"),
    [
        ({"active": 1, "terminating": 0}, "false"),
        ({"active": 1}, "false"),
        ({"terminating": 1}, "false"),
        ({"terminating": 0}, "true"),
        ({}, "true"),
        ({"succeeded": 1, "terminating": 0}, "true"),
    ],
)
def test_the_switch_waits_until_no_pod_is_active_or_terminating(status, may_go_on):
    (wait,) = [phase for phase in ALL if phase["name"] == "wait"]
    (condition,) = wait["args"]["conditions"]["allOf"]

    assert condition["condition"] == WAIT
    assert Template(WAIT, WAIT_FUNCTIONS).render({"status": status}) == may_go_on
    reference = render(condition["objectReference"], outputs())
    assert (reference["name"], reference["namespace"]) == ("gpt", "training")


def test_the_wait_is_longer_than_any_grace_period():
    (wait,) = [phase for phase in ALL if phase["name"] == "wait"]

    assert int(wait["args"]["timeout"].removesuffix("m")) * 60 > 3600


def test_what_the_switch_makes_present_is_what_was_staged():
    (switch,) = [phase for phase in ALL if phase["name"] == "switch"]
    pod = render(switch["args"]["podOverride"], outputs(stage={"stage": "ab12"}))

    assert {"name": "HOLDFAST_STAGE", "value": "ab12"} in pod["containers"][0]["env"]


def test_every_task_complies_with_restricted_and_has_a_deadline():
    found = list(tasks(BLUEPRINT))

    assert len(found) == 5
    for phase in found:
        pod = phase["args"]["podOverride"]
        assert restricted_violations(pod) == [], phase["name"]
        assert 0 < pod["activeDeadlineSeconds"] <= LONGEST_BACKUP, phase["name"]
        assert pod["automountServiceAccountToken"] is False, phase["name"]
        assert [c["name"] for c in pod["containers"]] == ["container"], phase["name"]


def test_a_task_on_the_claim_goes_to_the_trainers_node_or_starts_alone():
    """Required affinity to a label that the task carries itself: else it could never be placed."""
    for phase in tasks(BLUEPRINT):
        arguments = render(phase["args"], outputs(stage={"stage": "x"}))
        pod, labels = arguments["podOverride"], arguments["podLabels"]
        claims = [v for v in pod["volumes"] if "persistentVolumeClaim" in v]
        if not claims:
            assert "affinity" not in pod
            continue
        (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()
        assert term["labelSelector"]["matchLabels"] == {"holdfast.dev/claim": "checkpoints-pvc"}


def test_a_backup_cannot_write_to_the_volume_that_it_reads():
    (push,) = [phase for phase in ALL if phase["name"] == "push"]
    pod = push["args"]["podOverride"]

    assert pod["volumes"][0]["persistentVolumeClaim"]["readOnly"] is True
    assert pod["containers"][0]["volumeMounts"][0]["readOnly"] is True


def test_every_task_gets_its_settings_from_the_claims_config_map():
    for phase in tasks(BLUEPRINT):
        arguments = render(phase["args"], outputs(stage={"stage": "x"}))
        (container,) = arguments["podOverride"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "holdfast-checkpoints-pvc"}}]
        assert arguments["namespace"] == "training"


def test_the_artifact_names_the_snapshot_that_push_reports():
    artifact = ACTIONS["backup"]["outputArtifacts"]["snapshot"]["keyValue"]["id"]

    assert Template(artifact, BLUEPRINT_FUNCTIONS).render(outputs(push={"snapshot": "7"})) == "7"


def test_options_reach_commands_by_environment_never_as_arguments():
    """An option that starts with `-` would be read as one of the command's own."""
    for phase in tasks(BLUEPRINT):
        assert not [word for word in phase["args"]["command"] if "{{" in word]


def test_no_profile_secret_or_address_is_in_the_blueprint():
    assert not re.search(r"\.Profile|\.Secrets|secretRef|s3://|file://", TEXT)

"""The Blueprint of a pipeline: in which order it works, and with which accounts."""

import json
import re
from typing import Any

import yaml

from holdfast.control.deployment import REPLICAS_ANNOTATION
from holdfast.control.owner import RESTORE_ANNOTATION
from infra.manifests import BLUEPRINTS
from infra.settings.protection import LONGEST_BACKUP
from sandbox.cluster.templates import BLUEPRINT_FUNCTIONS, Template, render, strings
from testkit.factories import tasks
from tests.infra.kubernetes.test_pods import restricted_violations

TEXT = (BLUEPRINTS / "pipeline-state.yaml").read_text(encoding="utf-8")
BLUEPRINT: dict[str, Any] = yaml.safe_load(TEXT)
APPLICATIONS = yaml.safe_load((BLUEPRINTS / "applications.yaml").read_text(encoding="utf-8"))
RESTORE = BLUEPRINT["actions"]["restore"]
PHASES = {phase["name"]: phase for phase in RESTORE["phases"]}
TASKS = {task["name"]: task["args"] for task in tasks(BLUEPRINT)}


def data(**options: str) -> dict[str, Any]:
    return {
        "Object": {"metadata": {"name": "holdfast-pipeline", "namespace": "pipeline"}},
        "Options": {"snapshot": "latest", "deployment": "tracking", "replicas": "1", **options},
        "Phases": {"examine": {"Output": {"snapshot": "s-1"}}},
    }


def variables(task: str, **options: str) -> dict[str, Any]:
    (container,) = render(TASKS[task]["podOverride"], data(**options))["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_a_restore_reads_all_of_the_snapshot_before_it_stops_the_server():
    assert [*PHASES, RESTORE["deferPhase"]["name"]] == [
        "find", "examine", "pause", "wait", "count", "pull", "resume", "compare", "resumeAlways",
    ]  # fmt: skip


def test_what_was_examined_is_what_is_restored_and_compared():
    """`latest` may be another one by the time that the server has stopped."""
    assert variables("examine")["HOLDFAST_SNAPSHOT"] == "latest"
    assert variables("pull")["HOLDFAST_SNAPSHOT"] == "s-1"
    assert variables("compare")["HOLDFAST_SNAPSHOT"] == "s-1"


def test_a_database_that_is_not_empty_is_replaced_only_when_told():
    assert variables("pull")["HOLDFAST_REPLACE"] == ""
    assert variables("pull", replace="true")["HOLDFAST_REPLACE"] == "true"


def test_the_server_is_paused_and_resumed_as_an_application_is():
    other = {p["name"]: p for p in APPLICATIONS["actions"]["restore"]["phases"]}
    for name in ("pause", "resume"):
        assert PHASES[name]["args"]["spec"] == other[name]["args"]["spec"]
    conditions = [
        [each["condition"] for each in phases["wait"]["args"]["conditions"]["allOf"]]
        for phases in (PHASES, other)
    ]
    (go_on,) = BLUEPRINT["actions"]["resume"]["phases"]

    assert conditions[0] == conditions[1]
    assert go_on["args"] == RESTORE["deferPhase"]["args"] == PHASES["resume"]["args"]
    assert ".Phases" not in json.dumps(RESTORE["deferPhase"])
    paused = json.loads(render(PHASES["pause"]["args"], data())["spec"])
    assert paused["metadata"]["annotations"] == {
        RESTORE_ANNOTATION: "latest",
        REPLICAS_ANNOTATION: "1",
    }


def test_only_the_task_that_restores_runs_as_the_account_that_may_write_artifacts():
    accounts = {
        name: render(args["podOverride"], data())["serviceAccountName"]
        for name, args in TASKS.items()
    }

    assert accounts.pop("pull") == "holdfast-pipeline-restore"
    assert set(accounts.values()) == {"holdfast-pipeline"}


def test_every_task_complies_with_restricted_has_a_deadline_and_the_databases_peer_label():
    assert set(TASKS) == {"push", "examine", "pull", "compare", "read", "remove"}
    for name, args in TASKS.items():
        pod = args["podOverride"]
        assert restricted_violations(pod) == [], name
        assert 0 < pod["activeDeadlineSeconds"] <= LONGEST_BACKUP, name
        assert pod["automountServiceAccountToken"] is False, name
        assert args["podLabels"]["app.kubernetes.io/component"] == "task", name


def test_passwords_come_by_reference_and_options_by_environment():
    assert variables("push")["PGPASSWORD"] == {
        "secretKeyRef": {"name": "tracking-database", "key": "password"}
    }
    for args in TASKS.values():
        assert not [word for word in args["command"] if "{{" in word]
    assert not re.search(r"\.Profile|\.Secrets|s3://|file://", TEXT)


def test_phase_names_are_unique_and_every_template_is_one_that_the_sandbox_renders():
    actions = BLUEPRINT["actions"].values()
    phases = [p for a in actions for p in [*a["phases"], *filter(None, [a.get("deferPhase")])]]
    names = [phase["name"] for phase in phases]

    assert len(names) == len(set(names))
    for phase in phases:
        if phase["func"] != "WaitV2":
            for text in strings(phase["args"]):
                Template(text, BLUEPRINT_FUNCTIONS)

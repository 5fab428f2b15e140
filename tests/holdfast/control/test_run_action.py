"""The ActionSet client against a scripted API (a protocol test double: see actionset_api)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.control.actionset import Action, ActionSets
from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.control.run_action import ActionFailed, Orphaned, Timeouts, clean_up, run_action
from holdfast.errors import UsageError
from testkit.actionset_api import ActionSetApi, complete, failed, running, serve

BACKUP = Action("backup", workload="gpt", namespace="training", claim="checkpoints-pvc")
RESTORE = Action(
    "restore",
    workload="gpt",
    namespace="training",
    claim="checkpoints-pvc",
    options={"snapshot": "latest", "job": "gpt"},
)
QUICK = Timeouts(timeout=60, first_status=30, launch=0.05, poll=0.001)


@pytest.fixture
def api() -> Iterator[ActionSetApi]:
    with serve() as double:
        yield double


def run(api: ActionSetApi, action: Action = BACKUP, timeouts: Timeouts = QUICK, **more: object):
    actionsets = ActionSets(KubernetesAPI(api.url), "kanister")
    said: list[str] = []
    return run_action(actionsets, action, timeouts=timeouts, say=said.append), said


def test_a_backup_is_one_action_on_the_claim_with_string_options_and_two_labels(api):
    api.scripts = [[None, running(), complete(snapshot="s1")]]
    done, said = run(api)
    created = api.objects[done.name]
    assert created["metadata"]["labels"] == {
        "holdfast.dev/workload": "gpt",
        "holdfast.dev/action": "backup",
    }
    due = datetime.fromisoformat(created["metadata"]["annotations"]["holdfast.dev/deadline"])
    assert due.utcoffset() == timedelta(0)
    assert 55 <= (due - datetime.now(UTC)).total_seconds() <= 61
    assert created["spec"]["actions"] == [
        {
            "name": "backup",
            "blueprint": "checkpoints",
            "object": {"kind": "pvc", "name": "checkpoints-pvc", "namespace": "training"},
            "options": {},
        }
    ]
    assert done.name.startswith("gpt-backup-2")
    assert done.outputs == {"snapshot": "s1"}
    assert done.artifacts == {"checkpoint": {"snapshot": "s1"}}
    assert any("running: upload" in line for line in said)


def test_outputs_are_not_readable_before_the_state_is_complete(api):
    api.add("a", running())
    actionsets = ActionSets(KubernetesAPI(api.url), "kanister")
    assert actionsets.get("a").outputs == {}
    assert actionsets.get("a").artifacts == {}


def test_what_kubeops_says_about_the_job_is_no_output(api):
    status = cast(dict[str, Any], complete(generation="2"))
    patched = {"apiVersion": "v1", "group": "batch", "resource": "jobs", "name": "gpt", "kind": ""}
    status["actions"][0]["phases"].append(
        {"name": "resume", "state": "complete", "output": patched}
    )
    api.add("a", status)
    assert ActionSets(KubernetesAPI(api.url), "kanister").get("a").outputs == {"generation": "2"}


def test_a_failed_action_raises_kanisters_message_on_one_line(api):
    api.scripts = [[running(), failed("push: exit code 1\nbucket is\tmissing")]]
    with pytest.raises(ActionFailed, match="push: exit code 1 bucket is missing"):
        run(api)
    assert api.deleted == []


def test_a_failed_restore_is_reported_only_after_its_defer_phase_has_ended(api):
    during = failed("pull failed", defer="pending", phase="resume")
    api.scripts = [[failed("pull failed", defer="pending"), *[during] * 20]]
    api.scripts[0].append(failed("pull failed", defer="complete", phase="resume"))
    with pytest.raises(ActionFailed, match="pull failed"):
        run(api, RESTORE, Timeouts(timeout=60, launch=30, poll=0.001))
    assert len([r for r in api.requests if r[0] == "GET" and "restore" in r[1]]) == 22


def test_a_failed_launch_does_not_wait_for_a_defer_phase_that_never_starts(api):
    api.scripts = [[failed("claim not found", defer="pending")]]
    with pytest.raises(ActionFailed, match="claim not found"):
        run(api, RESTORE)


def test_a_defer_phase_that_outlives_the_deadline_is_named_and_not_deleted(api):
    api.scripts = [[failed("pull failed", defer="pending", phase="resume")]]
    with pytest.raises(ActionFailed, match=r"clean-up phase 'resume' has not ended.*suspended"):
        run(api, RESTORE, Timeouts(timeout=1, poll=0.01))
    assert api.deleted == []


def test_an_actionset_that_a_restarted_controller_forgot_is_deleted_and_issued_once_more(api):
    api.scripts = [[running()], [running(), complete(snapshot="s2")]]
    done, said = run(api, timeouts=Timeouts(timeout=1.2, poll=0.01))
    first, second = api.created
    assert first != second == done.name
    assert api.deleted == [first]
    assert done.outputs["snapshot"] == "s2"
    assert any("orphaned" in line and first in line for line in said)


def test_being_orphaned_twice_is_an_error_and_leaves_nothing_behind(api):
    with pytest.raises(Orphaned, match=r"no status after .* is Kanister's controller running"):
        run(api, timeouts=Timeouts(timeout=60, first_status=0.05, poll=0.001))
    assert len(api.created) == 2
    assert api.objects == {}


def test_a_restore_that_is_orphaned_twice_stays_for_the_next_backup_to_judge(api):
    """It may have suspended the Job, and its deadline says when that may be undone."""
    api.scripts = [[running("stage")], [running("wait")]]
    with pytest.raises(Orphaned, match="'wait'"):
        run(api, RESTORE, Timeouts(timeout=1.2, poll=0.01))
    first, second = api.created
    assert api.deleted == [first]
    assert list(api.objects) == [second]


def test_an_adopted_actionset_has_its_own_deadline(api):
    api.add("gpt-backup-old", running(), age=90, due=60)
    api.pending["gpt-backup-old"] = [running(), complete(snapshot="s1")]
    done, _ = run(api)
    assert done.name == "gpt-backup-old"
    assert api.deleted == []


def test_work_that_is_all_done_is_not_repeated_when_only_the_final_status_is_missing(api):
    status = complete(snapshot="s1")
    assert status is not None
    api.scripts = [[status | {"state": "running"}]]
    done, _ = run(api, timeouts=Timeouts(timeout=1, poll=0.01))
    assert api.created == [done.name]
    assert done.outputs == {"snapshot": "s1"}


def test_an_unfinished_backup_is_waited_for_instead_of_doubled(api):
    api.add("gpt-backup-old", running(), age=5)
    api.pending["gpt-backup-old"] = [running(), complete(snapshot="s1")]
    done, said = run(api)
    assert done.name == "gpt-backup-old"
    assert api.created == []
    assert any("under way already" in line for line in said)


def test_an_unfinished_backup_past_its_deadline_is_replaced(api):
    api.add("gpt-backup-old", running(), age=3600)
    api.scripts = [[complete(snapshot="s2")]]
    done, _ = run(api)
    assert api.deleted == ["gpt-backup-old"]
    assert done.name in api.created


def test_another_restore_under_way_is_not_taken_for_ours(api):
    api.add("gpt-restore-old", running("stage"), action="restore", snapshot="s0", job="gpt")
    with pytest.raises(ActionFailed, match="under way as ActionSet gpt-restore-old"):
        run(api, RESTORE)
    assert api.created == []


def test_a_restore_waits_for_the_clean_up_of_a_failed_one(api):
    api.add("gpt-restore-old", failed("x", defer="pending", phase="resume"), action="restore")
    api.pending["gpt-restore-old"] = [failed("x", defer="complete", phase="resume")]
    api.scripts = [[complete(generation="2")]]
    done, said = run(api, RESTORE)
    assert done.outputs == {"generation": "2"}
    posted = api.requests.index(next(r for r in api.requests if r[0] == "POST"))
    assert ("GET", api.requests[1][1]) in api.requests[:posted]
    assert any("clean-up of failed ActionSet gpt-restore-old" in line for line in said)


def test_a_create_whose_answer_was_lost_makes_no_twin(api):
    api.faults = [("POST", 0, "")]
    api.scripts = [[complete(snapshot="s1")]]
    api.faults.insert(0, ("GET", 0, ""))  # and the list before it is asked again
    done, _ = run(api)
    assert api.created == [done.name]


def test_an_api_server_that_restarts_while_we_wait_is_waited_for(api):
    api.scripts = [[complete(snapshot="s1")]]
    api.faults = [("POST", 503, "apiserver is starting"), ("GET", 404, "not yet")]
    done, _ = run(api)
    assert done.outputs == {"snapshot": "s1"}


def test_a_refusal_by_the_admission_policy_is_passed_on_with_what_to_do(api):
    api.faults = [("POST", 403, "ValidatingAdmissionPolicy 'holdfast' denied: podOverride")]
    with pytest.raises(KubernetesError, match=r"denied: podOverride.*admission policy"):
        run(api)


def test_a_missing_crd_asks_whether_kanister_is_installed(api):
    actionsets = ActionSets(KubernetesAPI(api.url), "elsewhere")
    with pytest.raises(KubernetesError, match="is Kanister installed"):
        run_action(actionsets, BACKUP, timeouts=QUICK, say=lambda line: None)


def test_clean_up_keeps_the_newest_and_never_touches_what_may_still_run(api):
    for n in range(5):
        api.add(f"done-{n}", complete(snapshot=f"s{n}"), age=100 + n)
    api.add("failed-old", failed("x"), age=200)
    api.add("running-old", running(), age=300)
    api.add("deferring", failed("x", defer="pending", phase="resume"), age=30)
    actionsets = ActionSets(KubernetesAPI(api.url), "kanister")
    gone = clean_up(actionsets, "gpt", timeouts=QUICK, keep=3)
    assert sorted(gone) == sorted(api.deleted) == ["done-3", "done-4", "failed-old"]


def test_the_token_is_read_again_for_each_request_and_never_sent_to_a_given_url(
    api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import ssl

    (tmp_path / "ca.crt").write_text(
        ssl.DER_cert_to_PEM_cert(ssl.create_default_context().get_ca_certs(binary_form=True)[0])
    )
    host, port = api.url.removeprefix("http://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    inside = KubernetesAPI(service_account=tmp_path)
    assert inside.url == f"https://{host}:{port}"
    inside.url = api.url  # the double speaks plain HTTP
    for token in ("first", "second"):
        (tmp_path / "token").write_text(token + "\n")
        ActionSets(inside, "kanister").of_workload("gpt")
    ActionSets(KubernetesAPI(api.url), "kanister").of_workload("gpt")
    sent = [headers.get("Authorization") for headers in api.headers]
    assert sent == ["Bearer first", "Bearer second", None]


def test_outside_a_cluster_the_remedy_is_kubectl_proxy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="kubectl proxy"):
        KubernetesAPI()


def test_a_name_that_kubernetes_would_refuse_is_refused_first():
    with pytest.raises(UsageError, match="invalid claim 'My_Claim': expected a Kubernetes name"):
        Action("backup", workload="gpt", namespace="training", claim="My_Claim")

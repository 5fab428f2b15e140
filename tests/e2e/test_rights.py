"""What the API server refuses: the admission policies' CEL, and rights that nobody has."""

import json
from typing import Any

import pytest

from tests.e2e import kube
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.e2e
BACKUP = "--as=system:serviceaccount:training:gpt-backup"
OPERATOR = "--as=system:serviceaccount:kanister:kanister-kanister-operator"


def _actionset(**changed: Any) -> str:
    action = {
        "name": "backup",
        "blueprint": "checkpoints",
        "object": {"kind": "pvc", "name": "checkpoints-pvc", "namespace": kube.NAMESPACE},
        **changed,
    }
    return _document([{name: value for name, value in action.items() if value is not None}])


def _document(actions: list[Any]) -> str:
    return json.dumps({
        "apiVersion": "cr.kanister.io/v1alpha1",
        "kind": "ActionSet",
        "metadata": {"generateName": "try-", "namespace": kube.KANISTER},
        "spec": {"actions": actions},
    })  # fmt: skip


def _create(document: str, account: str = BACKUP) -> Any:
    return kube.attempt("create", "--dry-run=server", "--filename=-", account, given=document)


@pytest.mark.parametrize(
    "good",
    [
        _actionset(),
        _actionset(options={}),
        _actionset(name="verify", options={"snapshot": "latest"}),
        _actionset(name="resume", options={"job": "gpt"}),
    ],
    ids=["backup", "backup-without-options", "verify", "resume"],
)
def test_the_backup_account_may_ask_for_what_a_schedule_needs(stack: Stack, good: str) -> None:
    done = _create(good)
    assert done.returncode == 0, done.stderr


_OTHER = {"kind": "pvc", "name": "other", "namespace": kube.NAMESPACE}
_ELSEWHERE = {"kind": "pvc", "name": "checkpoints-pvc", "namespace": "default"}
_SECRET = {"s": {"kind": "Secret", "name": "store", "namespace": kube.NAMESPACE}}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (_document([]), "exactly one action"),
        (_document(json.loads(_actionset())["spec"]["actions"] * 2), "exactly one action"),
        (_actionset(name="restore"), "only backup, verify and resume"),
        (_actionset(name="delete"), "only backup, verify and resume"),
        (_actionset(blueprint="evil"), "only backup, verify and resume"),
        (_actionset(object=_OTHER), "only the workload's own claim"),
        (_actionset(object=_ELSEWHERE), "only the workload's own claim"),
        (_actionset(object=None), "only the workload's own claim"),
        (_actionset(podOverride={"hostNetwork": True}), "no podOverride"),
        (_actionset(profile={"name": "p", "namespace": "kanister"}), "no podOverride, profile"),
        (_actionset(secrets=_SECRET), "no podOverride, profile, secrets"),
        (_actionset(configMaps=_SECRET), "no podOverride, profile, secrets"),
        (_actionset(artifacts={"a": {"keyValue": {"k": "v"}}}), "no podOverride"),
        (_actionset(podLabels={"a": "b"}), "no podOverride"),
        (_actionset(podAnnotations={"a": "b"}), "no podOverride"),
        (_actionset(options={"image": "evil"}), "the only option is snapshot"),
        (_actionset(name="resume"), "resume names the workload's own Job"),
        (
            _actionset(name="resume", options={"job": "other"}),
            "resume names the workload's own Job",
        ),
    ],
)
def test_what_a_schedule_does_not_need_is_refused(stack: Stack, bad: str, why: str) -> None:
    done = _create(bad)
    assert done.returncode != 0
    assert why in done.stderr


def test_no_other_account_of_the_namespace_may_create_actionsets(stack: Stack) -> None:
    for account in ("gpt", "default", "holdfast-checkpoints-pvc"):
        done = _create(_actionset(), f"--as=system:serviceaccount:training:{account}")
        assert "forbidden" in done.stderr.lower()


def test_the_backup_account_deletes_pods_of_tasks_and_no_trainer(training: Stack) -> None:
    task = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "left", "namespace": kube.NAMESPACE,
                     "labels": {"createdBy": "kanister"}},
        "spec": {
            "serviceAccountName": "holdfast-checkpoints-pvc",
            "nodeSelector": {"nowhere": "true"},
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "image": "holdfast-tools:dev", "securityContext": {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}],
        },
    }  # fmt: skip
    kube.apply(task)
    trainer = kube.pods()[0]["metadata"]["name"]
    try:
        delete = ("delete", "pod", "--dry-run=server", f"--namespace={kube.NAMESPACE}", BACKUP)
        assert kube.attempt(*delete, "left").returncode == 0
        refused = kube.attempt(*delete, trainer)
        assert "only the pods of Kanister's tasks" in refused.stderr
    finally:
        kube.attempt("delete", "pod", "left", f"--namespace={kube.NAMESPACE}", "--grace-period=0",
                     "--force")  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "what", "namespace"),
    [
        ("get", "secrets", kube.NAMESPACE),
        ("create", "pods --subresource=exec", kube.NAMESPACE),
        ("delete", "jobs", kube.NAMESPACE),
        ("create", "pods", "default"),
        ("create", "pods", "holdfast-system"),
    ],
)
def test_the_operator_may_not(stack: Stack, verb: str, what: str, namespace: str) -> None:
    asked = kube.attempt("auth", "can-i", verb, *what.split(), f"--namespace={namespace}", OPERATOR)
    assert asked.stdout.strip() == "no"

"""Each right that the stack gives is needed: taken away, something that worked is refused.

The list is the graph's own, so a new right without a drill fails here. A drill is the real
operation, done by the account that has the right.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from testkit.factories import of_stack
from tests.e2e import kube, trainer

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("training")]
OPERATOR = "system:serviceaccount:kanister:kanister-kanister-operator"
_HERE = f"--namespace={kube.NAMESPACE}"
_KANISTER = f"--namespace={kube.KANISTER}"
_STRANDED = "gpt-backup-stranded"
_LEFT = "kanister-job-left"
#: Seconds that an operation without its right may take until it says so.
_LIMIT = 60


@dataclass(frozen=True)
class Grant:
    """One verb on one resource, of one Role."""

    namespace: str
    role: str
    account: str
    group: str
    resource: str
    verb: str
    name: str
    """Of the one object that it is about; empty where it is about all."""

    def __str__(self) -> str:
        who = self.account.rpartition(":")[2]
        return f"{who}-{self.verb}-{self.resource}-in-{self.namespace}".replace("/", "-")


def grants() -> list[Grant]:
    """What the Roles of the stack `local` give, verb by verb."""
    objects = of_stack("local").kubernetes()
    bound = {
        (each["metadata"].get("namespace"), each["roleRef"]["name"]): each["subjects"]
        for each in objects
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding")
    }
    found = []
    for role in (each for each in objects if each["kind"] in ("Role", "ClusterRole")):
        namespace, name = role["metadata"].get("namespace", ""), role["metadata"]["name"]
        (subject,) = bound[(namespace, name)]
        account = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
        found += [
            Grant(namespace, name, account, group, resource, verb, of)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for of in rule.get("resourceNames", [""])
        ]
    return found


GRANTS = grants()


@pytest.mark.e2e_long
@pytest.mark.parametrize("grant", GRANTS, ids=str)
def test_without_this_right_something_that_worked_is_refused(grant: Grant) -> None:
    drill = _drill(grant)
    with _taken_away(grant):
        broken = drill()
    assert broken, f"nobody needs {grant}: remove it from the stack"


@pytest.mark.e2e_long
@pytest.mark.parametrize("name", ["a-tidy-backup", "a-restore-left-behind"])
def test_with_all_rights_nothing_of_it_is_broken(name: str) -> None:
    drill = {"a-tidy-backup": _tidy_backup, "a-restore-left-behind": _clear_a_restore}[name]
    assert drill() == []


@pytest.mark.parametrize("account", ["gpt", "holdfast-checkpoints-pvc", "default"])
def test_accounts_that_run_user_code_or_tasks_have_none_of_these_rights(account: str) -> None:
    name = f"system:serviceaccount:{kube.NAMESPACE}:{account}"
    allowed = [str(grant) for grant in GRANTS if _may(grant, name)]
    assert not allowed


def _drill(grant: Grant) -> Callable[[], list[str]]:
    """What the account needs this right for."""
    match grant.account, grant.resource:
        case trainer.BACKUP_ACCOUNT, "actionsets" | "pods":
            return _tidy_backup
        case trainer.BACKUP_ACCOUNT, "jobs":
            return _clear_a_restore
        case (account, "pods" | "pods/log") if account == OPERATOR:
            return _tidy_backup
        case (account, "jobs") if account == OPERATOR:
            return _restore
    raise AssertionError(f"no drill for {grant}: add one, or do not give the right")


def _tidy_backup() -> list[str]:
    """A backup that finds one which a killed controller left, and its pod; what went wrong."""
    _strand_a_backup()
    try:
        done = trainer.backup(timeout=_LIMIT)
        broken = [] if done.returncode == 0 else [done.stderr]
        if kube.get("actionset", _STRANDED, kube.KANISTER) is not None:
            broken.append("the stranded ActionSet is still there")
        broken += [f"pod {name} is still there" for name in _task_pods()]
        # Kanister only logs that it may not delete its pod, and the backup sweeps up behind it.
        broken += [f"pod {name} was left behind" for name in _swept(done.stderr) if name != _LEFT]
        return broken
    finally:
        _sweep()


def _clear_a_restore() -> list[str]:
    """A backup that finds the Job as a restore left it whose controller was killed."""
    mark = {"metadata": {"annotations": {"holdfast.dev/restore": "latest"}}}
    trainer.suspend()
    kube.kubectl("patch", "job", trainer.JOB, _HERE, "--type=merge", f"--patch={json.dumps(mark)}")
    try:
        done = trainer.backup()
        broken = [] if done.returncode == 0 else [done.stderr]
        job = kube.get("job", trainer.JOB)
        if job["spec"].get("suspend"):
            broken.append("the Job is still suspended")
        return broken
    finally:
        _sweep()


def _restore() -> list[str]:
    try:
        done = trainer.restore(timeout=_LIMIT)
        return [] if done.returncode == 0 else [done.stderr]
    finally:
        _sweep()


def _sweep() -> None:
    """What a drill without its right leaves, a person clears."""
    unfinished = [
        each["metadata"]["name"]
        for each in kube.get("actionsets", namespace=kube.KANISTER)
        if each.get("status", {}).get("state") not in ("complete", "failed")
    ]
    for name in unfinished:
        kube.attempt("delete", "actionset", name, _KANISTER)
    for name in _task_pods():
        kube.attempt("delete", "pod", name, _HERE, "--grace-period=0", "--force")
    resumed = {"metadata": {"annotations": {"holdfast.dev/restore": None}},
               "spec": {"suspend": False}}  # fmt: skip
    kube.kubectl("patch", "job", trainer.JOB, _HERE, "--type=merge",
                 f"--patch={json.dumps(resumed)}")  # fmt: skip
    trainer.saves(1)


def _task_pods() -> list[str]:
    return [each["metadata"]["name"] for each in kube.pods(trainer.TASKS)]


def _swept(said: str) -> list[str]:
    lines = [line.partition("deleted pods that Kanister left behind: ")[2]
             for line in said.splitlines()]  # fmt: skip
    return [name for line in lines if line for name in line.split(", ")]


def _strand_a_backup() -> None:
    """What a killed controller and a killed client leave: an ActionSet that says `running` for
    ever, past its deadline, and the pod of its task."""
    deadline = datetime.now(UTC) - timedelta(minutes=1)
    kube.apply({
        "apiVersion": "cr.kanister.io/v1alpha1",
        "kind": "ActionSet",
        "metadata": {
            "name": _STRANDED,
            "namespace": kube.KANISTER,
            "labels": {"holdfast.dev/workload": trainer.JOB, "holdfast.dev/action": "backup"},
            "annotations": {"holdfast.dev/deadline": deadline.isoformat(timespec="seconds")},
        },
        "spec": {"actions": [{
            "name": "backup", "blueprint": "checkpoints",
            "object": {"kind": "pvc", "name": trainer.CLAIM, "namespace": kube.NAMESPACE},
        }]},
        "status": {
            "state": "running",
            "progress": {"runningPhase": "push"},
            "actions": [{"name": "backup", "phases": [{"name": "push", "state": "running"}]}],
        },
    })  # fmt: skip
    kube.apply(left_over_pod(_LEFT))


def left_over_pod(name: str) -> dict[str, Any]:
    """A pod as Kanister makes them for a task on the claim; this one waits for a node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": kube.NAMESPACE,
                     "labels": {"createdBy": "kanister"}},
        "spec": {
            "serviceAccountName": f"holdfast-{trainer.CLAIM}",
            "nodeSelector": {"nowhere": "true"},
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "container", "image": "holdfast-tools:dev", "securityContext": {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}],
        },
    }  # fmt: skip


@contextmanager
def _taken_away(grant: Grant) -> Iterator[None]:
    """The Role without this one verb, from when the API server knows of it."""
    role = kube.get("role", grant.role, grant.namespace)
    assert _may(grant), f"{grant} is in the graph and not in the cluster"
    _set_rules(grant, [_without(grant, rule) for rule in role["rules"]])
    try:
        kube.wait(f"{grant} is taken away", lambda: not _may(grant), 20)
        yield
    finally:
        _set_rules(grant, role["rules"])
        kube.wait(f"{grant} is given again", lambda: _may(grant), 20)


def _without(grant: Grant, rule: dict[str, Any]) -> dict[str, Any]:
    about = rule["apiGroups"] == [grant.group] and rule["resources"] == [grant.resource]
    if not (about and rule.get("resourceNames", [""]) == [grant.name]):
        return rule
    # A rule without verbs is not valid.
    return {**rule, "verbs": [verb for verb in rule["verbs"] if verb != grant.verb] or ["watch"]}


def _set_rules(grant: Grant, rules: list[dict[str, Any]]) -> None:
    patch = json.dumps([{"op": "replace", "path": "/rules", "value": rules}])
    kube.kubectl("patch", "role", grant.role, f"--namespace={grant.namespace}", "--type=json",
                 f"--patch={patch}")  # fmt: skip


def _may(grant: Grant, account: str = "") -> bool:
    resource, _, subresource = grant.resource.partition("/")
    what = f"{resource}.{grant.group}" if grant.group else resource
    what += f"/{grant.name}" if grant.name else ""
    done = kube.attempt("auth", "can-i", grant.verb, what,
                        f"--namespace={grant.namespace}", f"--as={account or grant.account}",
                        *([f"--subresource={subresource}"] if subresource else []))  # fmt: skip
    return done.stdout.strip() == "yes"

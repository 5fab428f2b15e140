"""The cluster as the tests see it: kubectl, bounded waits, and what explains a failure."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster import processes
from cluster.context import identity, kubeconfig
from cluster.errors import ClusterProblem
from cluster.places import KUBECONFIG, PROJECT, tools_first
from tests.e2e import recovery

NAMESPACE = "training"
KANISTER = "kanister"
TRAINER = "app.kubernetes.io/component=trainer"
_POLL_SECONDS = 0.3
T = TypeVar("T")


def environment() -> dict[str, str]:
    return {**tools_first(), "KUBECONFIG": kubeconfig()}


def is_ours() -> bool:
    """Whether the node of the tests is this machine: `make cluster` runs one here, and they aim at
    it and not at another cluster beside it."""
    try:
        return _is_ours()
    except ClusterProblem:
        return False


@functools.cache
def _is_ours() -> bool:
    """Once, as a test may have stopped the node since; an error is no answer, and is not kept."""
    if processes.running("containerd") is None:
        return False
    ours = {**tools_first(), "KUBECONFIG": str(KUBECONFIG)}
    return kubeconfig() == str(KUBECONFIG) or identity(environment()) == identity(ours)


def attempt(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """One kubectl command, however it ends."""
    return subprocess.run(
        ["kubectl", *arguments],
        env=environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=180,
    )


def kubectl(*arguments: str, given: str | None = None) -> str:
    """One kubectl command that must succeed."""
    done = attempt(*arguments, given=given)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


def apply(manifest: Any) -> None:
    """Create the object, or make it what the manifest says."""
    kubectl("apply", "--filename=-", given=json.dumps(manifest))


def get(kind: str, name: str = "", namespace: str = NAMESPACE, selector: str = "") -> Any:
    """An object, or a list's items; None if there is no such object."""
    options = [f"--selector={selector}"] if selector else []
    words = [kind, name] if name else [kind]
    done = attempt("get", *words, f"--namespace={namespace}", "--output=json", *options)
    if done.returncode:
        if "NotFound" in done.stderr:
            return None
        raise AssertionError(done.stderr)
    found = json.loads(done.stdout)
    return found if name else found["items"]


def pods(selector: str = TRAINER, namespace: str = NAMESPACE) -> list[Any]:
    return [
        pod
        for pod in get("pods", namespace=namespace, selector=selector)
        if "deletionTimestamp" not in pod["metadata"]
    ]


def wait(what: str, condition: Callable[[], T | None], seconds: float = 120) -> T:
    """The first answer that is true, within a bound; else the events and logs that explain it."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s\n{explanation()}")
        time.sleep(_POLL_SECONDS)


@contextmanager
def timed(event: str, lost: str = "nothing") -> Iterator[recovery.Row]:
    """Note for docs/recovery.md what happened, what was lost and how long it took until training
    went on. What was lost may be said at the end: `row.lost = "20 steps"`."""
    row = recovery.begin(event, lost)
    began = time.monotonic()
    yield row
    row.seconds = time.monotonic() - began


def explanation() -> str:
    """Pods, events and the last lines of every log in the namespaces of trainings and Kanister."""
    trainings = attempt("get", "pods", "--all-namespaces", f"--selector={TRAINER}",
                        "--output=jsonpath={.items[*].metadata.namespace}").stdout  # fmt: skip
    parts = []
    for namespace in sorted({NAMESPACE, KANISTER, *trainings.split()}):
        where = f"--namespace={namespace}"
        for command in (
            ("get", "pods,jobs,actionsets,pvc", where, "--output=wide"),
            ("get", "events", where, "--sort-by=.lastTimestamp"),
        ):
            shown = attempt(*command).stdout.splitlines()[-25:]
            parts.append("\n".join([f"--- kubectl {' '.join(command)}", *shown]))
        for name in attempt("get", "pods", where, "--output=name").stdout.split():
            log = attempt("logs", name, where, "--all-containers", "--tail=12").stdout
            parts.append(f"--- log of {name}\n{log}")
    return "\n".join(parts)


def training_log(tail: int = 400) -> str:
    """The newest trainer's log; empty while there is none."""
    found = sorted(get("pods", selector=TRAINER), key=lambda p: p["metadata"]["creationTimestamp"])
    if not found:
        return ""
    name = found[-1]["metadata"]["name"]
    return attempt("logs", name, f"--namespace={NAMESPACE}", "--container=trainer",
                   f"--tail={tail}").stdout  # fmt: skip


def holdfast(*arguments: str, account: str = "") -> subprocess.CompletedProcess[str]:
    """The `holdfast` command of this checkout, which reaches the cluster by `kubectl proxy`; with
    the rights of that account, if one is named."""
    command = ["kubectl", "proxy", "--port=0", *([f"--as={account}"] if account else [])]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().split()[-1]
        try:
            return subprocess.run(
                [str(PROJECT / ".venv" / "bin" / "holdfast"), *arguments],
                env={**os.environ, "HOLDFAST_KUBERNETES_API": f"http://{address}"},
                capture_output=True,
                text=True,
                timeout=400,
            )
        finally:
            proxy.terminate()

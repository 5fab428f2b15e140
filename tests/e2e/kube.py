"""The cluster as the tests see it: kubectl, bounded waits, and what explains a failure."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster import processes
from cluster.context import identity, kubeconfig
from cluster.errors import ClusterProblem
from cluster.places import KUBECONFIG, LOGS, PROJECT, tools_first
from tests.e2e import recovery

NAMESPACE = "training"
KANISTER = "kanister"
TRAINER = "app.kubernetes.io/component=trainer"
_POLL_SECONDS = 0.3
#: What explains a failure: lines of each answer, seconds for each answer and for all logs.
_EXPLAIN_LINES = 100
_ANSWER_SECONDS, _EXPLAIN_SECONDS = 20, 120
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


def attempt(
    *arguments: str, given: str | None = None, seconds: float = 180
) -> subprocess.CompletedProcess[str]:
    """One kubectl command, however it ends."""
    return subprocess.run(
        ["kubectl", *arguments],
        env=environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=seconds,
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
    """Pods, Jobs, claims, ActionSets and events of all namespaces, and the last lines of every log:
    of containers, also before they started again, and of the node where it is this machine."""
    everywhere = "--all-namespaces"
    parts = [
        _shown("get", "pods,jobs,pvc", everywhere, "--output=wide"),
        _shown("get", "actionsets", everywhere),  # alone: without Kanister there is no such kind
        _shown("get", "events", everywhere, "--sort-by=.lastTimestamp"),
    ]
    until = time.monotonic() + _EXPLAIN_SECONDS
    for pod, namespace, containers in _restarts():
        if time.monotonic() > until:
            parts.append(f"--- no more logs: {_EXPLAIN_SECONDS} s are over")
            break
        place = (pod, f"--namespace={namespace}")
        parts.append(_shown("logs", *place, "--all-containers", "--tail=12"))
        parts += [
            _shown("logs", *place, f"--container={name}", "--previous", "--tail=12")
            for name, restarts in containers.items()
            if restarts
        ]
    if is_ours():
        parts += [f"--- {log}\n{_end_of(log)}" for log in sorted(LOGS.glob("*.log"))]
    return "\n".join(parts)


def _shown(*arguments: str) -> str:
    """A command and the last lines that it prints, or why it has no answer: what explains a failure
    is asked for where anything may be broken, and must not hide it."""
    said = _answer(*arguments)
    text = said if isinstance(said, str) else said.stdout + said.stderr
    return "\n".join([f"--- kubectl {' '.join(arguments)}", *text.splitlines()[-_EXPLAIN_LINES:]])


def _answer(*arguments: str) -> subprocess.CompletedProcess[str] | str:
    try:
        return attempt(*arguments, "--request-timeout=10s", seconds=_ANSWER_SECONDS)
    except (subprocess.TimeoutExpired, OSError, ClusterProblem) as error:
        return str(error)


def _restarts() -> Iterator[tuple[str, str, dict[str, int]]]:
    """Each pod with its namespace, and how often each container started again."""
    found = _answer("get", "pods", "--all-namespaces", "--output=json")
    if isinstance(found, str) or found.returncode:
        return  # said by the same question above
    for pod in json.loads(found.stdout)["items"]:
        status = pod["status"]
        states = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        restarts = {each["name"]: each["restartCount"] for each in states}
        yield pod["metadata"]["name"], pod["metadata"]["namespace"], restarts


def _end_of(log: Path) -> str:
    """The last lines of a log that may be very long."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-25:])


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

"""The node as a machine, where it is this one: its kubelet dies, its power is cut, it boots."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster import node, processes
from tests.e2e import kube
from tests.e2e.kube import is_ours

#: What pods of other tests need.
_DEPLOYMENTS = (
    ("kube-system", "coredns"),
    ("local-path-storage", "local-path-provisioner"),
    ("holdfast-s3", "s3"),
    (kube.KANISTER, "kanister-kanister-operator"),
)


#: Of tests that stop processes of the node. Text, which pytest evaluates in the test's module when
#: the test begins: who only collects tests asks no cluster. Such a module imports `machine`.
needs_node = pytest.mark.skipif(
    "not machine.is_ours()",
    reason="the node is not this machine: only `make cluster` starts one here",
)


def kill_container(pod: str, container: str = "trainer") -> None:
    """SIGKILL to the first process of a container, as the kernel's out-of-memory killer does it."""
    if not is_ours():  # from within, to all that the user of the container may kill
        place = (pod, f"--namespace={kube.NAMESPACE}", f"--container={container}")
        kube.attempt("exec", *place, "--", "sh", "-c", "kill -KILL -1")
        return
    states = kube.get("pod", pod)["status"]["containerStatuses"]
    identity = next(each["containerID"] for each in states if each["name"] == container)
    command = node.ctr("tasks", "kill", "--signal=SIGKILL", identity.rpartition("/")[2])
    subprocess.run(command, check=True, capture_output=True)


def kill_kubelet() -> None:
    processes.stop("kubelet", kill=True)


def boot() -> None:
    """Start what does not run, until the node is Ready."""
    node.start_runtime()
    node.start_kubelet()
    kube.wait("the node is Ready", lambda: ready() == "True", 120)


def ready() -> str:
    """What the node's condition Ready is: True, False or Unknown."""
    states = kube.get("node", node.NODE)["status"]["conditions"]
    return next(each["status"] for each in states if each["type"] == "Ready")


@contextmanager
def away() -> Iterator[None]:
    """The power is cut, and comes back at the end; the control plane is elsewhere. What other
    tests need runs again then."""
    node.cut_power()
    try:
        yield
    finally:
        boot()
        untaint()
        for namespace, deployment in _DEPLOYMENTS:
            kube.kubectl("rollout", "status", f"deployment/{deployment}",
                         f"--namespace={namespace}", "--timeout=180s")  # fmt: skip


def taint() -> None:
    """Say that the node is off, as docs/recover.md does."""
    kube.kubectl("taint", "nodes", node.NODE, f"{_OFF}=nodeshutdown:NoExecute")


def untaint() -> None:
    kube.attempt("taint", "nodes", node.NODE, f"{_OFF}-")


_OFF = "node.kubernetes.io/out-of-service"

"""The node as a machine, where it is this one: its kubelet dies, its containers are killed."""

import subprocess

import pytest

from cluster import node, processes
from tests.e2e import kube


def is_ours() -> bool:
    """Whether `make cluster` started the node on this machine."""
    return processes.running("containerd") is not None


#: Of tests that stop processes of the node.
needs_node = pytest.mark.skipif(
    not is_ours(), reason="the node is not this machine: only `make cluster` starts one here"
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

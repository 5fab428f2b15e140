"""What must hold in the cluster before a resource is created."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pulumi

from infra.settings import EksAccess, KubernetesSettings

POLL_SECONDS = 2.0
#: Beyond the pods' own grace: for the kubelet to report, and the collector to remove them.
MARGIN_SECONDS = 120.0
REQUEST_SECONDS = 20


class HookError(Exception):
    """A resource cannot be created yet; the message says why, and what to do."""


def wait_until_gone(
    cluster: KubernetesSettings | EksAccess,
    namespace: str,
    job: str,
    selector: str,
    grace_seconds: float,
) -> Callable[[pulumi.ResourceHookArgs], None]:
    """A ``before_create`` hook that returns once the Job and all its pods are gone.

    A Job's template cannot be changed, so a change deletes the old Job and creates a new one of
    the same name. Created too early, it fails on the name; created while the old pod still saves,
    it is a second writer on the volume. In a preview the hook only checks that it could ask: that
    kubectl is missing must be known before the old Job is deleted.
    """

    def hook(args: pulumi.ResourceHookArgs) -> None:
        if pulumi.runtime.is_dry_run():
            _check(cluster, namespace, job, selector)
            return
        deadline = time.monotonic() + grace_seconds + MARGIN_SECONDS
        with _reached(cluster) as flags:
            while left := _left(flags, namespace, job, selector):
                if time.monotonic() > deadline:
                    raise HookError(
                        f"{', '.join(left)} in namespace {namespace} were not gone within "
                        f"{grace_seconds + MARGIN_SECONDS:.0f} s: a pod on a lost node stays "
                        "until its Node object is deleted: delete it, then run pulumi up again"
                    )
                time.sleep(POLL_SECONDS)

    return hook


def _check(
    cluster: KubernetesSettings | EksAccess, namespace: str, job: str, selector: str
) -> None:
    """That the cluster could be asked; one of the stack's own may not be there yet."""
    if isinstance(cluster, EksAccess):
        for program in ("aws", "kubectl"):
            _find(program)
        return
    with _reached(cluster) as flags:
        _left(flags, namespace, job, selector)


@contextmanager
def _reached(cluster: KubernetesSettings | EksAccess) -> Iterator[list[str]]:
    """The flags with which kubectl reaches the cluster."""
    if isinstance(cluster, KubernetesSettings):
        flags = {"context": cluster.context, "kubeconfig": cluster.kubeconfig}
        yield [f"--{name}={value}" for name, value in flags.items() if value]
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        kubeconfig = f"--kubeconfig={Path(folder) / 'kubeconfig'}"
        command = ["eks", "update-kubeconfig", f"--name={cluster.name}"]
        _run("aws", [*command, f"--region={cluster.region}", kubeconfig], "reach the cluster")
        yield [kubeconfig]


def _left(flags: list[str], namespace: str, job: str, selector: str) -> list[str]:
    found = _get(flags, namespace, f"job/{job}")
    return [*found, *_get(flags, namespace, "pods", f"--selector={selector}")]


def _get(flags: list[str], namespace: str, *what: str) -> list[str]:
    """Names of objects, by kubectl: it knows every way in that a kubeconfig can name."""
    options = [
        f"--namespace={namespace}",
        "--ignore-not-found",
        "--output=name",
        f"--request-timeout={REQUEST_SECONDS}s",
        *flags,
    ]
    return _run("kubectl", ["get", *what, *options], f"list {what[0]} in {namespace}").split()


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise HookError(
            f"{program} is not on the PATH: install it; replacing a training Job needs it "
            "to see that the old one is gone"
        )
    return path


def _run(program: str, arguments: list[str], purpose: str) -> str:
    command = [_find(program), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = " ".join(result.stderr.split())
        raise HookError(
            f"{program} cannot {purpose} ({reason}): "
            "check the context and your rights, then run pulumi up again"
        )
    return result.stdout

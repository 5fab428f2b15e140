"""What must be true at the moment that a resource is created, asked of the cluster itself."""

import shutil
import subprocess
import time
from collections.abc import Callable

import pulumi

from infra.settings import KubernetesSettings

POLL_SECONDS = 2.0
#: Beyond the pods' own grace: for the kubelet to report, and the collector to remove them.
MARGIN_SECONDS = 120.0
REQUEST_SECONDS = 20


class HookError(Exception):
    """A resource cannot be created yet; the message says what stands in the way and what to do."""


def wait_until_gone(
    cluster: KubernetesSettings, namespace: str, job: str, selector: str, grace_seconds: float
) -> Callable[[pulumi.ResourceHookArgs], None]:
    """A ``before_create`` hook that returns when neither the Job nor a pod of it is left.

    A Job's template cannot be changed, so a change deletes the old Job and creates a new one of
    the same name. Created too early, it fails on the name; created while the old pod still saves,
    it is a second writer on the volume. In a preview the hook only checks that it could ask: a
    missing kubectl must not come to light when the old Job is already deleted.
    """

    def hook(args: pulumi.ResourceHookArgs) -> None:
        if pulumi.runtime.is_dry_run():
            _left(cluster, namespace, job, selector)
            return
        deadline = time.monotonic() + grace_seconds + MARGIN_SECONDS
        while left := _left(cluster, namespace, job, selector):
            if time.monotonic() > deadline:
                raise HookError(
                    f"{', '.join(left)} in namespace {namespace} did not go within "
                    f"{grace_seconds + MARGIN_SECONDS:.0f} s: a pod on a lost node goes when its "
                    "Node object is deleted; then run pulumi up again"
                )
            time.sleep(POLL_SECONDS)

    return hook


def _left(cluster: KubernetesSettings, namespace: str, job: str, selector: str) -> list[str]:
    found = _get(cluster, namespace, f"job/{job}")
    return [*found, *_get(cluster, namespace, "pods", f"--selector={selector}")]


def _get(cluster: KubernetesSettings, namespace: str, *what: str) -> list[str]:
    """Names of objects, by kubectl: it knows every way in that a kubeconfig can name."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise HookError(
            "kubectl is not on the PATH: install it; replacing a training Job needs it "
            "to see that the old one is gone"
        )
    command = [
        kubectl,
        "get",
        *what,
        f"--namespace={namespace}",
        "--ignore-not-found",
        "--output=name",
        f"--request-timeout={REQUEST_SECONDS}s",
    ]
    if cluster.context:
        command.append(f"--context={cluster.context}")
    if cluster.kubeconfig:
        command.append(f"--kubeconfig={cluster.kubeconfig}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = " ".join(result.stderr.split())
        raise HookError(
            f"kubectl cannot list {what[0]} in {namespace} ({reason}): "
            "check the context and your rights, then run pulumi up again"
        )
    return result.stdout.split()

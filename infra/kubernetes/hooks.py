"""What must hold in the cluster before a resource is created: the one before it is gone."""

import time
from collections.abc import Callable

import pulumi

from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.manifests import Manifest

POLL_SECONDS = 2.0
#: Beyond the pods' own grace: for the kubelet to report, and the collector to remove them.
MARGIN_SECONDS = 120.0

Hook = Callable[[pulumi.ResourceHookArgs], None]


def job_is_gone(
    cluster: Kubectl, namespace: str, job: str, selector: str, grace_seconds: float
) -> Hook:
    """A ``before_create`` hook that returns once the Job and all its pods are gone.

    A Job's template cannot be changed, so a change deletes the old Job and creates a new one of
    the same name. Created too early, it fails on the name; created while the old pod still saves,
    it is a second writer on the volume.
    """

    def left() -> list[str]:
        return [
            *cluster.names(f"job/{job}", namespace),
            *cluster.names("pods", namespace, f"--selector={selector}"),
        ]

    def hook(_: pulumi.ResourceHookArgs) -> None:
        remedy = "a pod on a lost node stays until its Node object is deleted: delete it"
        _wait(left, namespace, grace_seconds, remedy)

    return hook


def claim_is_free(
    cluster: Kubectl, namespace: str, claim: str, volume: str, grace_seconds: float
) -> Hook:
    """A ``before_create`` hook that returns once the claim before is gone, and its volume can be
    claimed again: Kubernetes gives a volume to no one while it names a claim that is gone."""

    def left() -> list[str]:
        found = cluster.objects("persistentvolumeclaim", names=[claim], namespace=namespace)
        if not any(is_leaving(each) for each in found):
            return []
        pods = [f"pod/{pod}" for pod in cluster.pods_with(claim, namespace)]
        return [f"persistentvolumeclaim/{claim}", *pods]

    def hook(_: pulumi.ResourceHookArgs) -> None:
        _wait(left, namespace, grace_seconds, "pods keep a claim: delete those that are listed")
        for each in cluster.objects("persistentvolume", names=[volume]):
            if claimant(each) == (namespace, claim) and each["spec"]["claimRef"].get("uid"):
                cluster.release(volume)

    return hook


def is_leaving(manifest: Manifest) -> bool:
    """Whether an object is being deleted, and only stays while something needs it."""
    return "deletionTimestamp" in manifest["metadata"]


def claimant(volume: Manifest) -> tuple[str | None, str | None]:
    """Namespace and name of the claim that a PersistentVolume is for."""
    reference = volume["spec"].get("claimRef", {})
    return reference.get("namespace"), reference.get("name")


def _wait(left: Callable[[], list[str]], namespace: str, grace_seconds: float, remedy: str) -> None:
    deadline = time.monotonic() + grace_seconds + MARGIN_SECONDS
    while remaining := left():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{', '.join(remaining)} in namespace {namespace} were not gone within "
                f"{grace_seconds + MARGIN_SECONDS:.0f} s: {remedy}, then run pulumi up again"
            )
        time.sleep(POLL_SECONDS)

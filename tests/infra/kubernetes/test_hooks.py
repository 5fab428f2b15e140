"""The hooks against a kubectl that plays a cluster."""

from typing import Any

import pulumi
import pytest

from infra.kubernetes import hooks
from infra.kubernetes.hooks import Hook, claim_is_free, job_is_gone
from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.settings import KubernetesSettings
from tests.infra.kubernetes.fake_kubectl import Cluster, Manifest, thing

POD = thing("Pod", "gpt-x1", "training", labels={"a": "b"}, spec={})
JOB = thing("Job", "gpt", "training")
CLAIM = thing("PersistentVolumeClaim", "checkpoints-pvc", "training")
HOLDER = thing(
    "Pod", "kanister-job-1", "training",
    spec={"volumes": [{"persistentVolumeClaim": {"claimName": "checkpoints-pvc"}}]},
)  # fmt: skip


def volume(uid: str | None, **fields: Any) -> Manifest:
    """The PersistentVolume of the claim; ``uid`` is that of the claim it was bound to."""
    reference = {
        "namespace": "training",
        "name": "checkpoints-pvc",
        **({"uid": uid} if uid else {}),
    }
    spec = {"claimRef": reference, "capacity": {"storage": "10Gi"}}
    return thing("PersistentVolume", "checkpoints-vol", spec=spec, **fields)


def job_hook(settings: KubernetesSettings | None = None, grace: float = 0) -> Hook:
    kubectl = Kubectl(settings or KubernetesSettings())
    return job_is_gone(kubectl, "training", "gpt", "a=b", grace)


def claim_hook() -> Hook:
    kubectl = Kubectl(KubernetesSettings())
    return claim_is_free(kubectl, "training", "checkpoints-pvc", "checkpoints-vol", 0)


def run(hook: Hook) -> None:
    hook(pulumi.ResourceHookArgs(urn="u", id="i", name="n", type="t"))


def time_flies(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr(hooks.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(hooks.time, "sleep", lambda _: None)


def test_a_job_that_is_not_there_is_created_at_once(cluster: Cluster):
    run(job_hook())

    assert len(cluster.calls) == 2


def test_the_next_job_waits_until_neither_the_old_one_nor_a_pod_is_left(cluster, monkeypatch):
    steps = iter([[JOB, POD], [POD], []])
    cluster.set(JOB, POD)
    monkeypatch.setattr(hooks.time, "sleep", lambda _: cluster.set(*next(steps)))

    run(job_hook())

    assert next(steps, "all seen") == "all seen"
    assert len(cluster.calls) == 8


def test_an_old_pod_that_never_goes_stops_the_update_with_what_to_do(cluster, monkeypatch):
    cluster.set(POD)
    time_flies(monkeypatch)

    with pytest.raises(
        ClusterError, match=r"pod/gpt-x1 in namespace training were not gone within 420 s"
    ):
        run(job_hook(grace=300))


def test_a_cluster_that_does_not_answer_is_not_a_job_that_is_gone(cluster):
    cluster.refuse("Unable to connect: no route")

    with pytest.raises(ClusterError, match=r"cannot list job/gpt in training \(Unable to connect"):
        run(job_hook())


def test_the_question_goes_to_the_stacks_own_cluster(cluster):
    run(job_hook(KubernetesSettings(context="kind", kubeconfig="/home/me/kube")))

    for call in cluster.calls:
        assert "--context=kind" in call
        assert "--kubeconfig=/home/me/kube" in call
        assert "--namespace=training" in call
    assert "--selector=a=b" in cluster.calls[1]


def test_a_missing_kubectl_is_said_before_anything_is_created(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ClusterError, match="kubectl is not on the PATH: install it"):
        run(job_hook())


def test_a_volume_that_names_a_claim_which_is_gone_is_released_to_the_next_one(cluster):
    cluster.set(volume("uid-of-a-claim-that-is-gone"))

    run(claim_hook())

    (released,) = cluster.objects
    assert released["spec"]["claimRef"] == {"namespace": "training", "name": "checkpoints-pvc"}
    assert released["spec"]["capacity"] == {"storage": "10Gi"}


@pytest.mark.parametrize("reference", [{"namespace": "other", "name": "checkpoints-pvc"}, {}])
def test_a_volume_of_another_claim_stays_theirs(cluster, reference):
    theirs = volume("u")
    theirs["spec"]["claimRef"] = {**reference, "uid": "u"}
    cluster.set(theirs)

    run(claim_hook())

    assert cluster.objects == [theirs]


def test_the_next_claim_waits_until_the_old_one_is_gone_and_only_then_takes_the_volume(
    cluster, monkeypatch
):
    leaving = {**CLAIM, "metadata": {**CLAIM["metadata"], "deletionTimestamp": "now"}}
    cluster.set(leaving, HOLDER, volume("uid-of-checkpoints-pvc"))
    monkeypatch.setattr(
        hooks.time, "sleep", lambda _: cluster.set(volume("uid-of-checkpoints-pvc"))
    )

    run(claim_hook())

    (released,) = cluster.objects
    assert "uid" not in released["spec"]["claimRef"]


def test_a_claim_that_a_leftover_pod_keeps_names_the_pod(cluster, monkeypatch):
    leaving = {**CLAIM, "metadata": {**CLAIM["metadata"], "deletionTimestamp": "now"}}
    cluster.set(leaving, HOLDER, volume("uid-of-checkpoints-pvc"))
    time_flies(monkeypatch)

    with pytest.raises(
        ClusterError,
        match=r"persistentvolumeclaim/checkpoints-pvc, pod/kanister-job-1 in namespace training "
        r"were not gone .*: pods keep a claim: delete those that are listed",
    ):
        run(claim_hook())
    assert cluster.objects[-1]["spec"]["claimRef"]["uid"]

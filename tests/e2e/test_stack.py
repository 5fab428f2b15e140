"""The stack by the real engine: no change twice, volumes that grow, go and come back."""

from dataclasses import dataclass

import pytest

from tests.e2e import kube, trainer
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.e2e
CLAIM = "checkpoints-pvc"


def test_a_second_preview_changes_nothing_also_after_a_look_at_the_cluster(training: Stack) -> None:
    assert set(training.engine().preview()) == {"same"}
    assert set(training.engine().preview(refresh=True)) <= {"same", "refresh"}


def test_a_volume_grows_and_the_training_goes_on_with_its_data(training: Stack) -> None:
    before = Life.present()
    with kube.timed("a volume grows by `up`, until the trainer saves again"):
        training.up(size="2Gi")
        resumed = before.next_resumes()

    before.left_its_data(resumed)
    claim = kube.get("pvc", CLAIM)
    assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert claim["status"]["capacity"]["storage"] == "2Gi"
    assert set(training.engine(size="2Gi").preview()) == {"same"}


def test_a_deleted_claim_comes_back_with_its_data(training: Stack) -> None:
    before = Life.present()
    kube.kubectl("delete", "pvc", CLAIM, f"--namespace={kube.NAMESPACE}", "--wait=false")
    kube.kubectl("delete", "job", "gpt", f"--namespace={kube.NAMESPACE}", "--wait=true")
    kube.wait("the claim is gone", lambda: kube.get("pvc", CLAIM) is None)

    with kube.timed("a claim that someone deleted: `up --refresh`, until the trainer saves again"):
        engine = training.engine()
        engine.refresh()
        engine.up()
        resumed = before.next_resumes()

    before.left_its_data(resumed)


def test_destroy_ends_with_a_pod_that_is_left_over_and_up_brings_the_data_back(
    training: Stack,
) -> None:
    before = Life.present()
    _leave_a_pod()
    with kube.timed("`destroy` of the stack, with a pod of a task that was left over"):
        training.engine().destroy()
    assert kube.get("namespace", kube.NAMESPACE) is None

    with kube.timed("`up` after `destroy`, until the trainer has gone on from its volume"):
        training.up()
        resumed = before.next_resumes()

    before.left_its_data(resumed)


@dataclass(frozen=True)
class Life:
    """The trainer before something is done to its stack, and what it had saved by then: it may save
    more until it ends."""

    pod: str
    saved: int

    @classmethod
    def present(cls) -> "Life":
        return cls(trainer.pod(), trainer.saved())

    def next_resumes(self) -> int:
        """The step from which a trainer in another pod went on, once it has saved."""
        kube.wait("another trainer", lambda: trainer.pod() not in ("", self.pod), 240)
        return trainer.resumed()

    def left_its_data(self, resumed: int) -> None:
        """The trainer that resumed from this step had them from its volume. A volume that was lost
        and refilled from the store lets it resume too."""
        found = trainer.recovered()
        assert "use: go on from step-" in found, found
        assert "pulled" not in found, found
        assert resumed >= self.saved > 0


def _leave_a_pod() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kanister-job-left", "namespace": kube.NAMESPACE,
                     "labels": {"createdBy": "kanister", "holdfast.dev/claim": CLAIM}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": f"holdfast-{CLAIM}",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "container", "image": "holdfast-tools:dev", "command": ["sleep", "3600"],
                "securityContext": {"allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
            }],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": CLAIM}}],
        },
    }  # fmt: skip
    kube.apply(pod)
    kube.wait(
        "the left-over pod runs",
        lambda: kube.get("pod", "kanister-job-left")["status"].get("phase") == "Running",
    )

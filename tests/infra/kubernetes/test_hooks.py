"""The hook against a fake kubectl: a script on the PATH that answers from a file."""

import stat
from pathlib import Path

import pulumi
import pytest

from infra.kubernetes import hooks
from infra.kubernetes.hooks import HookError, wait_until_gone
from infra.settings import KubernetesSettings

SCRIPT = """#!/bin/sh
echo "$@" >> {calls}
read -r left < {left} || true
if [ "$left" = refuse ]; then echo "Unable to connect: no route" >&2; exit 1; fi
case "$*" in
  *job/*) case "$left" in *job*) echo job.batch/gpt;; esac;;
  *) case "$left" in *pod*) echo pod/gpt-x1;; esac;;
esac
"""


class Cluster:
    """What the script says is left, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._left, self._calls = directory / "left", directory / "calls"
        self.waits: list[float] = []
        script = directory / "kubectl"
        script.write_text(SCRIPT.format(calls=self._calls, left=self._left))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.left("")

    def left(self, what: str) -> None:
        self._left.write_text(f"{what}\n")

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Cluster(tmp_path)


def run(cluster: KubernetesSettings | None = None, grace: float = 0) -> None:
    hook = wait_until_gone(cluster or KubernetesSettings(), "training", "gpt", "a=b", grace)
    hook(pulumi.ResourceHookArgs(urn="u", id="i", name="n", type="t"))


def test_a_job_that_is_not_there_is_created_at_once(cluster: Cluster):
    run()

    assert len(cluster.calls) == 2


def test_the_next_job_waits_until_neither_the_old_one_nor_a_pod_is_left(cluster, monkeypatch):
    steps = iter(["job pod", "pod", ""])
    cluster.left("job pod")
    monkeypatch.setattr(hooks.time, "sleep", lambda _: cluster.left(next(steps)))

    run()

    assert next(steps, "all seen") == "all seen"
    assert len(cluster.calls) == 8


def test_an_old_pod_that_never_goes_stops_the_update_with_what_to_do(cluster, monkeypatch):
    cluster.left("pod")
    now = iter(range(0, 1000, 100))
    monkeypatch.setattr(hooks.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(hooks.time, "sleep", lambda _: None)

    with pytest.raises(
        HookError, match=r"pod/gpt-x1 in namespace training were not gone within 420 s"
    ):
        run(grace=300)


def test_a_cluster_that_does_not_answer_is_not_a_job_that_is_gone(cluster):
    cluster.left("refuse")

    with pytest.raises(HookError, match=r"cannot list job/gpt in training \(Unable to connect"):
        run()


def test_a_preview_asks_once_and_waits_for_nothing(cluster, monkeypatch):
    cluster.left("job pod")
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: True)

    run()

    assert len(cluster.calls) == 2


def test_the_hook_asks_the_stacks_own_cluster(cluster):
    run(KubernetesSettings(context="kind", kubeconfig="/home/me/kube"))

    for call in cluster.calls:
        assert "--context=kind" in call
        assert "--kubeconfig=/home/me/kube" in call
        assert "--namespace=training" in call
    assert "pods --selector=a=b" in cluster.calls[1]


def test_a_missing_kubectl_is_said_before_anything_is_created(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HookError, match="kubectl is not on the PATH: install it"):
        run()

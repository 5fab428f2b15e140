"""What explains a failure on the cluster is found wherever it broke, and hides no failure."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import kube


class Kubectl:
    """Answers as a cluster with two pods does, one of whose containers started again."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, *arguments: str, **_: Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(" ".join(arguments))
        if "--output=json" in arguments:
            pods = [_pod("coredns-1", "kube-system", 0), _pod("gpt-1", "training", 2)]
            return subprocess.CompletedProcess(arguments, 0, json.dumps({"items": pods}), "")
        if arguments[:2] == ("get", "actionsets"):
            return subprocess.CompletedProcess(arguments, 1, "", "no resource type actionsets")
        return subprocess.CompletedProcess(arguments, 0, f"answer {len(self.asked)}", "")


def _pod(name: str, namespace: str, restarts: int) -> dict[str, Any]:
    states = [{"name": "recover", "restartCount": restarts}]
    return {
        "metadata": {"name": name, "namespace": namespace},
        "status": {"initContainerStatuses": states, "containerStatuses": []},
    }


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    found = Kubectl()
    monkeypatch.setattr(kube, "attempt", found)
    monkeypatch.setattr(kube, "is_ours", lambda: False)
    return found


def test_logs_of_all_namespaces_are_shown_and_of_what_started_again_those_before(
    kubectl: Kubectl,
) -> None:
    kube.explanation()

    assert all(each.endswith(" --request-timeout=10s") for each in kubectl.asked)
    logs = [each.split(" --")[:3] for each in kubectl.asked if each.startswith("logs")]
    assert logs == [
        ["logs coredns-1", "namespace=kube-system", "all-containers"],
        ["logs gpt-1", "namespace=training", "all-containers"],
        ["logs gpt-1", "namespace=training", "container=recover"],
    ]
    assert [each for each in kubectl.asked if "--previous" in each] == [kubectl.asked[-1]]


def test_without_kanister_all_else_is_shown(kubectl: Kubectl) -> None:
    shown = kube.explanation()

    assert "no resource type actionsets" in shown
    assert "--- kubectl get pods,jobs,pvc --all-namespaces --output=wide\nanswer 1" in shown


def test_a_server_that_hangs_is_said(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*arguments: str, seconds: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(["kubectl", *arguments], seconds)

    monkeypatch.setattr(kube, "attempt", hang)

    assert "timed out after 20 seconds" in kube.explanation()


def test_the_ends_of_the_nodes_logs_are_shown_where_it_is_this_machine(
    kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kubelet.log").write_text("begin\n" + "x" * 100_000 + "\nthe disk is full\n")
    monkeypatch.setattr(kube, "LOGS", tmp_path)
    assert "the disk is full" not in kube.explanation()
    monkeypatch.setattr(kube, "is_ours", lambda: True)

    shown = kube.explanation()

    assert "kubelet.log" in shown
    assert "the disk is full" in shown
    assert len(shown) < 20_000

"""Commands reach the cluster that is meant, and the state of one that is gone is dropped."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import cli, context, engine, processes
from cluster.errors import ClusterProblem

LOCAL = {"holdfast:target": "kubernetes"}
Answer = Callable[[list[str]], tuple[int, str, str]]


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Answer], None]:
    """Lets a test say what kubectl answers."""
    monkeypatch.setattr(context, "BUILT", tmp_path)
    monkeypatch.setattr(context, "KUBECONFIG", tmp_path / "kubeconfig")
    monkeypatch.setattr(engine, "KUBECONFIG", tmp_path / "kubeconfig")
    (tmp_path / "kubeconfig").touch()
    for name in (context.CONTEXT, "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    context.only.cache_clear()

    def answers(answer: Answer) -> None:
        monkeypatch.setattr(
            context,
            "_kubectl",
            lambda arguments, _: subprocess.CompletedProcess(arguments, *answer(arguments)),
        )

    return answers


def test_a_named_context_gets_a_kubeconfig_of_its_own(
    kubectl: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubectl(lambda arguments: (0, f"only {arguments[-1]}", ""))
    monkeypatch.setenv(context.CONTEXT, "arn:aws:eks/one")

    file = Path(context.kubeconfig())

    assert file.parent == tmp_path / "contexts"
    assert file.read_text() == "only --context=arn:aws:eks/one"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_context_that_is_not_there_is_refused_with_those_that_are(
    kubectl: Callable[[Answer], None],
) -> None:
    kubectl(lambda a: (0, "kind-kind\nminikube\n", "") if "get-contexts" in a else (1, "", "no"))

    with pytest.raises(ClusterProblem, match="no context nope: there is kind-kind, minikube"):
        context.only("nope")


def test_no_cluster_is_said_with_what_to_do(kubectl: Callable[[Answer], None]) -> None:
    kubectl(lambda _: (1, "", "E1126 memcache.go\nThe connection was refused"))

    with pytest.raises(ClusterProblem, match=r"The connection was refused\): start one by `make"):
        context.identity({"KUBECONFIG": "/k"})


def test_the_state_of_a_cluster_that_was_removed_is_forgotten(
    kubectl: Callable[[Answer], None], tmp_path: Path
) -> None:
    folder = tmp_path / "stacks" / "local"
    kubectl(lambda _: (0, "first", ""))
    engine._forget_what_went_with_its_cluster(folder, LOCAL)
    (folder / "state").touch()

    engine._forget_what_went_with_its_cluster(folder, LOCAL)
    assert (folder / "state").exists()
    kubectl(lambda _: (0, "second", ""))
    engine._forget_what_went_with_its_cluster(folder, LOCAL)

    assert not (folder / "state").exists()
    assert json.loads((folder / "cluster.json").read_text())["cluster"] == "second"


def test_the_state_of_someone_elses_cluster_is_kept_and_named(
    kubectl: Callable[[Answer], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stacks" / "local"
    monkeypatch.setenv("KUBECONFIG", "/theirs")
    kubectl(lambda _: (0, "theirs", ""))
    engine._forget_what_went_with_its_cluster(folder, LOCAL)
    (folder / "state").touch()
    monkeypatch.delenv("KUBECONFIG")
    kubectl(lambda _: (0, "ours", ""))

    with pytest.raises(ClusterProblem, match="'local' is of another cluster"):
        engine._forget_what_went_with_its_cluster(folder, LOCAL)

    assert (folder / "state").exists()


def test_a_stack_that_needs_another_provider_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ClusterProblem, match="'prod' is for target eks"):
        engine._settings("prod")
    with pytest.raises(ClusterProblem, match=r"no stack 'prd': .* but .*dev, local"):
        engine._settings("prd")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "STATE", tmp_path)
    return tmp_path


def test_a_clone_does_not_start_over_the_cluster_of_another(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other := state / "other").mkdir()
    (other / "kubeconfig").touch()
    (state / "clone").write_text(str(other))
    monkeypatch.setattr(processes, "running", lambda name: name == "kubelet")

    with pytest.raises(ClusterProblem, match=r"another clone runs .*/other\)"), cli._alone():
        pass
    assert (other / "kubeconfig").exists()
    with cli._alone(also_of_others=True):
        pass
    assert not (other / "kubeconfig").exists(), "it is of a cluster that has ended"


def test_a_clone_takes_over_what_a_stopped_cluster_left(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "clone").write_text("/other/.cache/cluster")
    monkeypatch.setattr(processes, "running", lambda name: None)

    with cli._alone():
        assert (state / "clone").read_text() == str(cli.BUILT.resolve())

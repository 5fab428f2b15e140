"""What the tests on a cluster do to a machine, they do only to the node that they aim at."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from cluster.errors import ClusterProblem
from tests.e2e import kube, machine

OURS = "/ours/kubeconfig"
Scene = Callable[..., None]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Lets a test say what runs on this machine, and which cluster each kubeconfig reaches."""
    kube._is_ours.cache_clear()

    def set_up(aim: str, uids: dict[str, str], runtime: object = object()) -> None:
        def identity(environment: dict[str, str]) -> str:
            try:
                return uids[environment["KUBECONFIG"]]
            except KeyError:
                raise ClusterProblem("no cluster answers") from None

        monkeypatch.setattr(kube, "KUBECONFIG", OURS)
        monkeypatch.setattr(kube, "kubeconfig", lambda: aim)
        monkeypatch.setattr(kube, "identity", identity)
        monkeypatch.setattr(kube.processes, "running", lambda name: runtime)

    yield set_up
    kube._is_ours.cache_clear()


def test_the_node_is_not_this_machine_where_the_tests_aim_at_another_cluster(scene: Scene) -> None:
    scene("/kind", {"/kind": "theirs", OURS: "ours"})

    assert not machine.is_ours()


def test_the_node_is_this_machine_by_whatever_kubeconfig_the_tests_reach_it(scene: Scene) -> None:
    scene("/a-context-of-it", {"/a-context-of-it": "ours", OURS: "ours"})

    assert machine.is_ours()


def test_the_kubeconfig_of_make_cluster_needs_no_question(scene: Scene) -> None:
    scene(OURS, {})

    assert machine.is_ours()


def test_the_node_is_not_this_machine_where_make_cluster_runs_none(scene: Scene) -> None:
    scene(OURS, {OURS: "ours"}, runtime=None)

    assert not machine.is_ours()


def test_a_cluster_that_does_not_answer_is_asked_again(scene: Scene) -> None:
    scene("/kind", {"/kind": "same"})
    assert not machine.is_ours()
    scene("/kind", {"/kind": "same", OURS: "same"})

    assert machine.is_ours()


def test_collection_asks_no_cluster() -> None:
    (condition,) = machine.needs_node.mark.args

    assert isinstance(condition, str)
    assert eval(condition, {"machine": SimpleNamespace(is_ours=lambda: False)})

"""Feature gates: what a cluster is started with, its parts get whenever they start."""

from pathlib import Path

import pytest

from cluster import gates
from cluster.errors import ClusterProblem


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "RECORD", tmp_path / "state" / "feature-gates")


def start(monkeypatch: pytest.MonkeyPatch, wanted: str, *, running: bool = False) -> None:
    monkeypatch.setenv(gates.VARIABLE, wanted)
    gates.choose(running=running)


def test_a_cluster_has_no_gates_of_its_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, "")

    assert (gates.flags(), gates.as_settings()) == ([], {})


def test_a_part_that_starts_later_gets_the_gates_of_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(monkeypatch, "One=true,Other=false")
    monkeypatch.delenv(gates.VARIABLE)
    gates.choose(running=True)

    assert gates.flags() == ["--feature-gates=One=true,Other=false"]
    assert gates.as_settings() == {"One": True, "Other": False}


def test_the_next_cluster_does_not_get_the_gates_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(monkeypatch, "One=true")
    start(monkeypatch, "")

    assert gates.flags() == []


def test_a_running_cluster_gets_no_other_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, "One=true")

    with pytest.raises(ClusterProblem, match=r"runs with One=true.*make cluster-down first"):
        start(monkeypatch, "Other=true", running=True)


@pytest.mark.parametrize("wrong", ["One", "One=yes", "One=true,", "One=true Other=true"])
def test_what_is_no_list_of_gates_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    with pytest.raises(ClusterProblem, match="is no list of gates"):
        start(monkeypatch, wrong)

"""An upgrade of Kubernetes by the difference of two plans, and what `make versions` says."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from infra import versions
from infra.newer_versions import order, report
from infra.plan.graph import Graph
from testkit.eks_factories import GPU_GROUP, graph

FLEET = {"node_groups__training__gpu": GPU_GROUP}
GUIDE = Path(__file__).parents[3] / "docs" / "upgrade.md"


def difference(before: Graph, after: Graph) -> dict[str, set[str]]:
    """Changed inputs by resource; a resource that is in one plan only would be here whole."""
    old, new = ({r.urn: r for r in each.resources} for each in (before, after))
    assert old.keys() == new.keys()
    return {
        f"{r.type.rpartition(':')[2]} {r.name}": {
            key
            for key in r.inputs.keys() | new[urn].inputs.keys()
            if r.inputs.get(key) != new[urn].inputs.get(key)
        }
        for urn, r in old.items()
        if r.inputs != new[urn].inputs
    }


OLD = {**FLEET, "cluster__version": "1.35"}
CONTROL_PLANE = {**FLEET, "cluster__version": "1.36", "cluster__node_version": "1.35"}
NEW = {**FLEET, "cluster__version": "1.36"}


def test_the_first_half_of_an_upgrade_touches_no_node_and_no_training():
    assert difference(graph(**OLD), graph(**CONTROL_PLANE)) == {
        "Cluster cluster": {"version"},
        "Addon base-addons-kube-proxy": {"addonVersion"},
        "Addon addons-coredns": {"addonVersion"},
    }


def test_the_second_half_changes_nodes_in_place_and_nothing_else():
    changed = difference(graph(**CONTROL_PLANE), graph(**NEW))

    assert changed == {
        f"NodeGroup {name}-nodes": {"version", "releaseVersion"}
        for name in ("system", "cpu", "gpu")
    }


def test_the_guide_names_the_ends_of_support():
    text = GUIDE.read_text()

    for name, minor in versions.MINORS.items():
        assert f"{name} on {minor.supported_until}" in text


def lines(today: date, offered: str | OSError) -> list[str]:
    def ask(*_: str) -> list[str]:
        if isinstance(offered, OSError):
            raise offered
        return ["v0.0.1", offered, "v99.0.0-rc.1"]

    return list(report(today, ask, ask))


def test_a_newer_version_is_named_beside_the_pin():
    found = "\n".join(lines(versions.CHECKED, "v98.0.0-eksbuild.1"))

    for addon, pinned in versions.MINORS["1.36"].addons.items():
        assert f"  {addon} {pinned}: v98.0.0-eksbuild.1 is newer\n" in found
    assert f"kanister-operator {versions.KANISTER[2]}: v98.0.0-eksbuild.1 is newer" in found
    assert "rc.1" not in found


def test_what_cannot_be_asked_is_said_and_not_called_newest():
    found = "\n".join(lines(versions.CHECKED, OSError("no route to host")))

    assert "coredns v1.14.3-eksbuild.16: not asked (no route to host)" in found
    assert ": newest" not in found


@pytest.mark.parametrize(("before", "word"), [(10, "upgrade now"), (200, "no hurry")])
def test_the_end_of_support_is_told_in_time(before: int, word: str):
    end = versions.MINORS["1.35"].supported_until
    (line,) = [
        line for line in lines(end - timedelta(days=before), "v0.0.1")
        if line.startswith("Kubernetes 1.35")
    ]  # fmt: skip

    assert line == (f"Kubernetes 1.35: standard support ends on {end}, in {before} days: {word}")


def test_versions_are_compared_as_numbers():
    assert order("v1.9.0-eksbuild.2") < order("v1.10.0-eksbuild.1") < order("v1.10.0-eksbuild.12")

"""The pack over every stack of the repository, as `preview` and as `up` would show it."""

import pytest

from infra.manifests import PROJECT_DIRECTORY
from infra.plan.graph import collect
from infra.settings import load
from policy.check import violations
from testkit.factories import of_stack

STACKS = sorted(path.name.split(".")[1] for path in PROJECT_DIRECTORY.glob("Pulumi.*.yaml"))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("preview", [False, True], ids=["up", "preview"])
def test_every_stack_keeps_every_rule(stack: str, preview: bool) -> None:
    found = violations(of_stack(stack, preview))

    assert not found, "\n".join(str(violation) for violation in found)


def test_a_stack_that_breaks_a_rule_is_reported() -> None:
    graph = collect(load("local"), "local")
    volume = next(iter(graph.find("PersistentVolume")))
    volume.inputs["spec"]["persistentVolumeReclaimPolicy"] = "Delete"

    (found,) = violations(graph)

    assert str(found) == (
        f"mandatory volumes-keep-their-data: {volume.name}: "
        "has reclaim policy Delete: set it to Retain"
    )


def test_a_rules_values_can_be_replaced() -> None:
    found = violations(of_stack("local"), config={"no-host-paths": {"namespaces": {}}})

    assert {violation.rule for violation in found} == {"no-host-paths"}

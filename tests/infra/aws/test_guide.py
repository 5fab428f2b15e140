"""The guide to EKS names what the stacks really have."""

from pathlib import Path

from infra.plan import rights
from infra.plan.graph import Graph

GUIDE = (Path(__file__).parents[3] / "docs/eks.md").read_text()


def test_the_guide_says_what_each_export_is_for(eks: Graph):
    assert not [name for name in eks.outputs if f"`{name}`" not in GUIDE]


def test_the_guide_says_why_each_service_is_needed(eks: Graph):
    services = {action.partition(":")[0] for action in rights.actions(eks)}

    assert not [service for service in services if f"`{service}`" not in GUIDE]

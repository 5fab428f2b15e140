"""What holds for any settings: valid ones make a graph that keeps every rule, and invalid ones stop
with one line before the first resource.

Few examples, the same ones each time. HOLDFAST_EXAMPLES=500 looks further.
"""

import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from infra.plan.graph import Graph, collect
from infra.settings import SettingsError, parse
from infra.stack import build
from policy.check import violations
from testkit import eks_factories, factories
from tests.infra.settings.settings_strategies import (
    Document,
    eks_documents,
    kubernetes_documents,
    mistakes,
)

LINE = re.compile(r"[\w.()-]+: [^\n]+: [^\n]+")


def examples(count: int) -> profile:
    """Always the same examples, as many as this or as the environment says."""
    return profile(
        max_examples=int(os.environ.get("HOLDFAST_EXAMPLES", count)),
        derandomize="HOLDFAST_EXAMPLES" not in os.environ,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def urns(graph: Graph) -> list[str]:
    return [resource.urn for resource in graph.resources]


def keeps_every_rule(document: Document) -> None:
    stack = parse(document)
    up, preview = collect(stack, "any"), collect(stack, "any", preview=True)

    assert urns(preview) == urns(up)
    assert [str(found) for found in violations(up)] == []
    assert [str(found) for found in violations(preview)] == []


@pytest.mark.slow
@examples(6)
@given(kubernetes_documents())
def test_any_valid_settings_of_a_cluster_keep_every_rule(document: Document):
    keeps_every_rule(document)


@pytest.mark.slow
@examples(3)
@given(eks_documents())
def test_any_valid_settings_of_an_eks_stack_keep_every_rule(document: Document):
    keeps_every_rule(document)


@examples(6)
@given(st.one_of(kubernetes_documents(), eks_documents()))
def test_any_one_mistake_is_said_in_one_line_that_names_what_the_rule_and_the_remedy(
    document: Document,
):
    for path, value, wrong in mistakes(document):
        with pytest.raises(SettingsError) as stopped:
            parse(wrong)
        (line,) = stopped.value.problems
        assert LINE.fullmatch(line), (path, line)
        assert path[-1] in line or str(value) in line, (path, line)


@pytest.mark.parametrize("document", [factories.VALID, eks_factories.VALID],
                         ids=["kubernetes", "eks"])  # fmt: skip
def test_a_mistake_stops_the_program_before_its_first_resource(document: Document):
    made: list[str] = []

    def make(kind: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        made.append(name)
        return name, {}

    for path, _, wrong in mistakes(document):
        with pytest.raises(SettingsError):
            collect(
                parse(document), "any", program=lambda _, wrong=wrong: build(parse(wrong)),
                create=make,
            )  # fmt: skip
        assert made == [], path

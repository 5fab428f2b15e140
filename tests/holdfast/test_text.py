"""Figures as people read them."""

import pytest

from holdfast.text import counted, plural


@pytest.mark.parametrize(
    ("count", "nouns", "told"),
    [
        (1, "aliases", "1 alias"),
        (2, "aliases", "2 aliases"),
        (1, "model versions", "1 model version"),
        (0, "runs", "0 runs"),
    ],
)
def test_one_of_something_is_not_told_in_the_plural(count: int, nouns: str, told: str) -> None:
    assert counted(count, nouns) == told


def test_a_noun_becomes_a_plural_where_there_are_several() -> None:
    assert (plural(1, "run"), plural(2, "run"), plural(2, "alias")) == (
        "1 run",
        "2 runs",
        "2 aliases",
    )

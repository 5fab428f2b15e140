import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.postgresql import database, postgresql
from tests.training.lab import Lab
from training.outcome import Outcome

__all__ = ["database", "postgresql"]


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """The entry point pins variables of its own process; here it must not outlive the tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    words = ["hold", "fast", "rope", "knot", "sail", "mast", "keel", "tide"]
    chosen = random.Random(7).choices(words, k=8000)
    (folder / "words.txt").write_text(" ".join(chosen))
    return folder


@pytest.fixture
def lab(tmp_path: Path, corpus: Path) -> Lab:
    return Lab(tmp_path / "lab", corpus)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Lab:
    """A training that nobody disturbed: the measure for all the others."""
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), corpus)
    assert lab.train() is Outcome.DONE
    assert sorted(lab.contents()) == [4, 8, 12]
    return lab

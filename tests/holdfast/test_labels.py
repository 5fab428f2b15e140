"""The labels that Holdfast reads, and which bundle is the newest."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bundle import BundleWriter, commit_directory
from holdfast.copies.push import push
from holdfast.errors import CommitRefused
from holdfast.labels import is_healthy, label_problems, made_in, newness, step_of
from holdfast.manifest import MAX_INTEGER
from testkit.stores import WORKLOAD


def newest_first(bundles):
    return [name for name, _ in sorted(bundles, key=lambda b: newness(*b), reverse=True)]


@given(st.lists(st.integers(0, MAX_INTEGER), unique=True))
def test_steps_are_ordered_as_numbers_at_any_size(steps):
    found = newest_first([(f"step-{step:08d}", {"step": step}) for step in steps])
    assert found == [f"step-{step:08d}" for step in sorted(steps, reverse=True)]


@pytest.mark.parametrize(
    "newest_to_oldest",
    [
        [("step-100000000", {"step": 100_000_000}), ("step-99999999", {"step": 99_999_999})],
        [("a", {"step": 2}), ("z", {"step": 1})],  # the label, not the name
        [("epoch-10", {}), ("epoch-9", {}), ("epoch-9-b", {})][:2],
        [("v1.10.2", {}), ("v1.9.30", {}), ("v1.9.4", {})],
        [("b-1", {}), ("a-2", {})],
        [("step-00000001", {"step": 1}), ("final", {}), ("epoch-10", {})],
        [("step-100000000", {}), ("step-00000007", {"step": 7}), ("step-5", {})],
        [("b", {"step": 5}), ("a", {"step": 5})],
        [("epoch-010", {}), ("epoch-10", {}), ("epoch-009", {})][1:],
        [("step-00000002", {"step": "two"}), ("step-00000001", {"step": 1})],
    ],
)
def test_the_step_decides_and_without_one_the_name_with_its_numbers(newest_to_oldest):
    shuffled = random.Random(7).sample(newest_to_oldest, len(newest_to_oldest))
    assert newest_first(shuffled) == [name for name, _ in newest_to_oldest]


def test_no_two_names_are_equally_new():
    names = ["epoch-10", "epoch-010", "epoch-0010", "epoch-1-0", "epoch-", "10", "010", "\udce9"]
    assert len({newness(name, {}) for name in names}) == len(names)


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"run": "a", "generation": 1, "step": 0, "world_size": 1, "healthy": 0},
        {"run": "0-z", "generation": MAX_INTEGER, "step": MAX_INTEGER, "healthy": 1},
        {"dataset": "v3", "note": "run=OTHER RUN", "code": -7},
    ],
)
def test_labels_that_every_verb_can_use_are_accepted(labels):
    assert label_problems(labels) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("run", value) for value in ("OTHER RUN", "", "a/b", "..", "-a", "a" * 64, "a\n", 7)],
        *[("generation", value) for value in ("seven", "7", 0, -1, MAX_INTEGER + 1)],
        *[("step", value) for value in ("two", "", -1, MAX_INTEGER + 1)],
        *[("world_size", value) for value in ("all", 0, -4)],
        *[("healthy", value) for value in ("yes", 2, -1)],
    ],
)
def test_a_label_that_a_later_verb_cannot_use_is_refused_by_commit(tmp_path, key, value):
    (problem,) = label_problems({key: value, "other": "x"})
    assert problem.startswith(f"invalid label {key}={value!r}: use ")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").touch()
    with pytest.raises(CommitRefused, match=f"invalid label {key}="):
        commit_directory(tmp_path / "source", tmp_path / "out", "x", "files", {key: value})
    assert not (tmp_path / "out").exists()
    with BundleWriter(tmp_path / "out", "x", "files") as writer:
        (writer.path / "f").touch()
        with pytest.raises(CommitRefused, match=f"invalid label {key}="):
            writer.commit({key: value})


def test_a_reader_takes_a_value_that_no_verb_can_use_as_missing():
    odd = {"run": "OTHER RUN", "generation": "seven", "step": -1, "healthy": 3}
    assert made_in(odd, "run-a", 4) == ("run-a", 4)
    assert made_in({"run": "run-b", "generation": 2}, "run-a", 4) == ("run-b", 2)
    assert step_of("epoch-3", odd) is None
    assert is_healthy(odd) is None


def test_the_newest_step_is_pushed_and_kept_whatever_its_number_of_digits(
    volume, write_bundle, catalog, store_directory
):
    for step in (99_999_999, 100_000_000):
        write_bundle(volume.generation_path(1), step)
    newest = volume.newest_valid(quarantine=False)
    assert newest is not None
    assert newest.step == 100_000_000
    assert push(volume, catalog, WORKLOAD).bundles[0].name == "step-100000000"
    assert [path.name for path in volume.keep(1)] == ["step-99999999"]


def test_keep_k_never_removes_the_last_good_bundle(volume, write_bundle):
    marks = {100: 1, 200: 1, 300: 0, 400: 0, 500: 0}
    for step, mark in marks.items():
        write_bundle(volume.generation_path(1), step, labels={"healthy": mark})
    volume.keep(2)
    assert [bundle.step for bundle in volume.bundles()] == [500, 400, 200]
    volume.keep(1)
    assert [bundle.step for bundle in volume.bundles()] == [500, 200]
    write_bundle(volume.generation_path(1), 600, labels={"healthy": 1})
    volume.keep(1)
    assert [bundle.step for bundle in volume.bundles()] == [600]


def test_where_no_bundle_is_marked_good_the_last_that_is_not_marked_bad_stays(volume, write_bundle):
    for step, labels in {100: {}, 200: {}, 300: {"healthy": 0}}.items():
        write_bundle(volume.generation_path(1), step, labels=labels)
    volume.keep(1)
    assert [bundle.step for bundle in volume.bundles()] == [300, 200]


def test_a_good_bundle_that_is_damaged_is_not_the_last_good_one(volume, write_bundle):
    for step, mark in {100: 1, 200: 1, 300: 0}.items():
        write_bundle(volume.generation_path(1), step, labels={"healthy": mark})
    (volume.generation_path(1) / "step-00000200" / ".metadata").unlink()
    volume.keep(1)
    assert [bundle.step for bundle in volume.bundles()] == [300, 200, 100]

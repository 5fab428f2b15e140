"""Our own reader gives what docs/format/vectors says that every reader must give."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import verify
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import InvalidBundle, InvalidManifest, Mismatch, OwnerMismatch
from holdfast.labels import label_problems, newness
from holdfast.manifest import Manifest, component_problem, name_problem
from holdfast.store import open_store
from holdfast.store.snapshot import Catalog, PassedOver, Snapshot
from holdfast.volume import Volume
from testkit.vector_stores import NEWEST, RUN, WORKLOAD, StoreCase, documents, stores
from testkit.vectors import ORDERS, Case, bundles, manifests
from testkit.write_vectors import ROOT, files

NAME = "step-00000100"


def test_the_vectors_are_those_that_the_script_writes() -> None:
    made = files()
    there = {str(path.relative_to(ROOT)): path for path in ROOT.rglob("*") if path.is_file()}
    del there["README.md"]
    assert sorted(there) == sorted(made)
    changed = [name for name, path in there.items() if path.read_bytes() != made[name]]
    assert changed == []


@pytest.mark.parametrize("case", list(manifests()), ids=lambda case: case.name)
def test_each_manifest_is_read_or_refused_as_its_vector_says(case: Case) -> None:
    data = (ROOT / "manifests" / f"{case.name}.json").read_bytes()
    if case.valid:
        assert Manifest.parse(data).to_bytes() == data
        return
    with pytest.raises(InvalidManifest, match=re.escape(case.says) or None):
        Manifest.parse(data)


@pytest.mark.parametrize("case", list(bundles()), ids=lambda case: case.name)
def test_each_bundle_is_valid_or_not_as_its_vector_says(case: Case) -> None:
    path = ROOT / "bundles" / case.name / NAME
    if case.valid:
        assert verify(path).name == NAME
        return
    with pytest.raises(InvalidBundle, match=re.escape(case.says) or None):
        verify(path)


def empty_directory(path: Path) -> None:
    (path / "void").mkdir()


def link(path: Path) -> None:
    (path / ".metadata").rename(path.parent / "elsewhere")
    (path / ".metadata").symlink_to("../elsewhere")


def linked_directory(path: Path) -> None:
    (path / "rng").rename(path.parent / "elsewhere")
    (path / "rng").symlink_to("../elsewhere")


def pipe(path: Path) -> None:
    (path / "empty").unlink()
    os.mkfifo(path / "empty")


@pytest.mark.parametrize("change", [empty_directory, link, linked_directory, pipe])
def test_a_bundle_with_what_git_cannot_hold_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / NAME
    shutil.copytree(ROOT / "bundles/whole" / NAME, path)
    assert verify(path).name == NAME
    change(path)
    with pytest.raises(InvalidBundle):
        verify(path)


def test_a_link_to_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(ROOT / "bundles/whole" / NAME)
    with pytest.raises(InvalidBundle):
        verify(tmp_path / NAME)


def test_names_are_valid_or_not_as_their_vector_says(tmp_path: Path) -> None:
    names = json.loads((ROOT / "names.json").read_text())
    for what, problem in (("workload or run", component_problem), ("bundle", name_problem)):
        assert [name for name in names[what]["valid"] if problem(name)] == []
        assert [name for name in names[what]["invalid"] if not problem(name)] == []
    for name in names["generation"]["valid"] + names["generation"]["invalid"]:
        (tmp_path / "run" / name).mkdir(parents=True, exist_ok=True)
    numbers = sorted(int(name.removeprefix("gen-")) for name in names["generation"]["valid"])
    assert Volume(tmp_path, "run").generations() == numbers


def test_a_writer_accepts_and_refuses_labels_as_their_vector_says() -> None:
    labels = json.loads((ROOT / "labels.json").read_text())
    assert [found for found in labels["accepted"] if label_problems(found)] == []
    assert [found for found in labels["refused"] if not label_problems(found)] == []


@pytest.mark.parametrize("title", ORDERS)
def test_bundles_are_ordered_as_their_vector_says(title: str) -> None:
    right = json.loads((ROOT / "order.json").read_text())[title]
    shuffled = random.Random(1).sample(right, len(right))
    shuffled.sort(key=lambda found: newness(found["name"], found["labels"]), reverse=True)
    assert shuffled == right


@pytest.mark.parametrize("case", list(documents()), ids=lambda case: case.name)
def test_each_snapshot_is_read_or_refused_as_its_vector_says(case: Case) -> None:
    data = (ROOT / "snapshots" / f"{case.name}.json").read_bytes()
    if case.valid:
        assert Snapshot.parse(data, NEWEST).to_bytes() == data
        return
    with pytest.raises(Mismatch, match=re.escape(case.says)):
        Snapshot.parse(data, NEWEST)


@pytest.mark.parametrize("case", list(stores()), ids=lambda case: case.name)
def test_each_store_gives_what_its_vector_says(case: StoreCase) -> None:
    catalog = Catalog(open_store((ROOT / "stores" / case.name).as_uri()))
    if case.owner is None:
        with pytest.raises(OwnerMismatch):
            catalog.check_owner()
    else:
        catalog.check_owner()
        Catalog(catalog.store, case.owner).check_owner()
    found = list(catalog.candidates(WORKLOAD, RUN))
    newest = next((n for n, one in enumerate(found) if isinstance(one, Snapshot)), len(found))
    snapshots = [one for one in found if isinstance(one, Snapshot)]
    assert (snapshots[0].id if snapshots else None) == case.latest
    passed_over = [one.snapshot for one in found[:newest] if isinstance(one, PassedOver)]
    assert tuple(passed_over) == case.passed_over
    damaged = catalog.listing(WORKLOAD, RUN).damaged
    assert damaged.keys() == case.damaged.keys()
    for name, (_, says) in case.damaged.items():
        assert says in damaged[name]
    bad = {}
    for snapshot in snapshots:
        result = verify_snapshot(catalog, snapshot, record=False)
        if not result.ok:
            bad[snapshot.id] = "; ".join(result.problems)
    assert bad.keys() == case.bad.keys()
    for name, (_, says) in case.bad.items():
        assert says in bad[name]
    assert {name: record.ok for name, record in catalog.verifications(WORKLOAD).items()} == dict(
        case.verified
    )
    assert tuple(sorted(catalog.pins(WORKLOAD))) == case.pins

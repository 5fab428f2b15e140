"""The order of writes, syncs and names, and kills between them, as the kernel sees them.

A kill keeps the page cache, so it cannot show a missing fsync: the recorded trace does. Everything
here needs strace, and says so where there is none.

Shown to fail: without each single fsync of `durable.py`, `BundleWriter.commit`, `transfer.py`,
`pull.py` and `store/directory.py` that names depend on, the trace has a problem.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.store import open_store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER, WORKLOAD
from tests.holdfast.faults import test_kill_everywhere as scenes
from tests.holdfast.faults.killing import Place
from tests.holdfast.faults.syscalls import Disk, killed_at, trace


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "place")
    made.store.parents[1].mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("prepare", "act", "names"),
    [
        ("nothing", "save", ["gen-0001/step-00000200"]),
        ("two", "keep", []),
        ("damaged", "look", ["step-00000200-"]),
        ("two", "push_all", ["weights", "rng/0", ".json", "/snapshots/gpt/"]),
        ("lost", "pull", ["gen-0001/step-00000200"]),
        ("pushed", "restore", ["/.stage-", "/gen-0002"]),
        ("restored", "undo", ["/.stage-", "/gen-0003"]),
        ("old", "prune_to_one", ["tombstones"]),
        ("buried", "prune_to_one", ["tombstones"]),
    ],
)
def test_nothing_gets_its_name_before_all_of_it_is_on_the_disk(
    place: Place, prepare: str, act: str, names: list[str]
) -> None:
    getattr(scenes, prepare)(place)

    disk = Disk(place.root).replay(trace(act, place.root))

    assert disk.problems == []
    for name in names:
        assert any(name in str(path) for path in disk.published), disk.published


@pytest.mark.parametrize(
    ("scene", "call", "number"),
    [
        ("save", "write", 2),
        ("save", "fsync", 3),
        ("save", "rename", 1),
        ("keep", "unlinkat", 2),
        ("push", "link", 3),
        ("push", "rename", 1),
        ("pull", "write", 1),
        ("pull", "fsync", 6),
        ("restore", "rename", 3),
        ("undo", "linkat", 4),
        ("delete", "unlink", 3),
    ],
)
def test_killed_inside_a_system_call_nothing_half_done_counts_and_the_next_run_goes_on(
    place: Place, tmp_path: Path, scene: str, call: str, number: int
) -> None:
    """Shown to fail: with `shutil.rmtree` for `remove_tree` in `Volume.keep`, and with a pull that
    writes straight into the bundle's own directory."""
    chosen = scenes.SCENES[scene]
    chosen.prepare(place)
    expected = scenes.undisturbed(place, chosen, tmp_path)

    killed_at(call, number, chosen.work.__name__, place.root)

    scenes.go_on(place, chosen, expected)


PUSH_TO_S3 = """
import sys
from pathlib import Path
from holdfast.copies.push import push
from holdfast.store.snapshot import Catalog
from holdfast.store import open_store
from holdfast.volume import Volume
push(Volume(Path(sys.argv[2]), "run-a"), Catalog(open_store(sys.argv[1]), "project/stack"), "gpt")
"""


@pytest.mark.s3
@pytest.mark.parametrize("number", [3, 12])
def test_killed_while_the_s3_client_sends_no_half_object_is_named_and_the_next_push_goes_on(
    volume: Volume, save: Callable[..., Bundle], s3_url: str, number: int
) -> None:
    """The client is Rust: only the kernel sees what it sends. A multipart upload is cut in the
    middle. Shown to fail: with a push that takes any object, whatever its size, for there."""
    save(100, large=b"l" * (9 << 20))

    killed_at("writev", number, s3_url, volume.root, PUSH_TO_S3)

    catalog = Catalog(open_store(s3_url), OWNER)
    for snapshot in catalog.snapshots(WORKLOAD):
        assert verify_snapshot(catalog, snapshot, record=False).ok
    push(volume, catalog, WORKLOAD, patience=0)
    (snapshot,) = catalog.snapshots(WORKLOAD)
    assert verify_snapshot(catalog, snapshot, record=False).ok

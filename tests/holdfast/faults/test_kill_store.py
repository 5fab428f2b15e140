"""kill -9 at every named moment of a push, pull, restore and prune; then the next one goes on."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.prune import prune
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.defaults import Select
from holdfast.errors import Mismatch
from holdfast.recovery.recover import Action, Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch, switch_to_generation
from holdfast.store import open_store
from holdfast.store.base import Store
from holdfast.store.documents import BundleRef, bundle_path
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import GRACE, OWNER, WORKLOAD, age, keys
from tests.holdfast.test_prune import LATER, ONE

SETUP = """
import sys
from pathlib import Path
from holdfast.copies.prune import prune
from holdfast.recovery.refill import pull_if_empty
from holdfast.copies.push import push
from holdfast.recovery.recover import Start
from holdfast.recovery.restore import stage, switch, switch_to_generation
from holdfast.store.snapshot import Catalog
from holdfast.store import open_store
from holdfast.volume import Volume
from tests.holdfast.test_prune import GRACE, ONE
volume = Volume(Path(sys.argv[1]), "run-a")
catalog = Catalog(open_store(sys.argv[2]), "project/stack")
"""
KILLED = -9


@pytest.fixture
def killed(volume: Volume, run_python: Callable) -> Callable[[str, str, str], str]:
    """`killed(code, failpoint, url)` runs the code until it dies there; returns what it printed."""

    def run(code: str, failpoint: str, url: str) -> str:
        done = run_python(SETUP + code, volume.root, url, failpoint=f"{failpoint}=kill")
        assert done.returncode == KILLED, done.stdout + done.stderr
        return done.stdout.strip()

    return run


def assert_whole(catalog: Catalog) -> None:
    """Whatever snapshot is in the store can be restored, byte for byte."""
    listing = catalog.listing(WORKLOAD)
    assert listing.damaged == {}
    for snapshot in listing.snapshots:
        assert verify_snapshot(catalog, snapshot, record=False).ok


@pytest.mark.parametrize(
    ("moment", "snapshots"),
    [
        ("push.file-uploaded", 0),
        ("push.file-uploaded@3", 0),
        ("push.manifest-uploaded", 0),
        ("push.before-snapshot", 0),
        ("push.after-snapshot", 1),
    ],
)
def test_a_killed_push_leaves_no_half_snapshot_and_the_next_goes_on(
    volume: Volume,
    store: Store,
    save: Callable[..., Bundle],
    killed: Callable,
    moment: str,
    snapshots: int,
) -> None:
    bundle = save(100, third=b"3" * 9_000_000)
    catalog = Catalog(store, OWNER)

    killed("push(volume, catalog, 'gpt')", moment, store.url)

    assert len(catalog.snapshots(WORKLOAD)) == snapshots
    assert_whole(catalog)
    report = push(volume, catalog, WORKLOAD, patience=0)
    assert len(catalog.snapshots(WORKLOAD)) == 1
    assert report.copied_files < len(bundle.manifest.files)  # what had arrived is not sent again
    assert_whole(catalog)


@pytest.mark.parametrize(
    "moment",
    ["pull.file-written", "pull.file-written@2", "pull.before-rename", "pull.after-rename"],
)
def test_a_killed_pull_leaves_no_half_bundle_and_the_next_goes_on(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], killed: Callable, moment: str
) -> None:
    saved = save(100)
    push(volume, catalog, WORKLOAD)
    volume.root.rename(volume.root.with_name("lost"))

    killed("pull_if_empty(volume, catalog, 'gpt', Start.AUTO)", moment, catalog.store.url)

    for bundle in volume.bundles():
        assert verify(bundle.path)
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.REQUIRE)
    assert decision.decision is (Action.USE if moment == "pull.after-rename" else Action.PULLED)
    assert verify(volume.generation_path(1) / saved.name).manifest == saved.manifest
    assert not list(volume.run_path.glob(".pull-*"))


@pytest.fixture
def url(volume: Volume, catalog: Catalog, save: Callable[..., Bundle]) -> str:
    """A run with steps 100 and 200, each with a snapshot in a directory store."""
    for step in (100, 200):
        save(step)
        push(volume, catalog, WORKLOAD)
    return catalog.store.url


STAGE_AND_SWITCH = """
made = stage(volume, catalog, catalog.snapshots("gpt")[-1])
print(made.id, flush=True)
switch(volume, made.id)
"""


@pytest.mark.parametrize(
    ("moment", "present"),
    [
        ("pull.file-written", 1),
        ("pull.before-rename", 1),
        ("pull.after-rename", 1),
        ("stage.before-rename", 1),
        ("stage.after-rename", 1),
        ("switch.before-rename", 1),
        ("switch.after-rename", 2),
    ],
)
def test_a_killed_restore_leaves_the_old_present_or_the_new_one(
    volume: Volume, catalog: Catalog, url: str, killed: Callable, moment: str, present: int
) -> None:
    stage_id = killed(STAGE_AND_SWITCH, moment, url)

    assert volume.present() == present
    newest = volume.newest_valid(quarantine=False)
    assert newest is not None
    assert newest.name == ("step-00000200" if present == 1 else "step-00000100")
    if stage_id:  # the caller knew it: trying the switch again is enough
        assert switch(volume, stage_id) == 2
    else:
        assert switch(volume, stage(volume, catalog, catalog.snapshots(WORKLOAD)[-1]).id) == 2
    assert [bundle.name for bundle in volume.bundles()] == ["step-00000100"]
    assert [bundle.name for bundle in volume.bundles(1)] == ["step-00000200", "step-00000100"]
    assert volume.generations() == [1, 2]


@pytest.mark.parametrize(
    ("moment", "present"),
    [("stage.before-rename", 2), ("switch.before-rename", 2), ("switch.after-rename", 3)],
)
def test_a_killed_undo_leaves_the_old_present_or_the_new_one(
    volume: Volume, catalog: Catalog, url: str, killed: Callable, moment: str, present: int
) -> None:
    switch(volume, stage(volume, catalog, catalog.snapshots(WORKLOAD)[-1]).id)

    killed("switch_to_generation(volume, 1)", moment, url)

    assert volume.present() == present
    for number in volume.generations():
        for bundle in volume.bundles(number):
            assert verify(bundle.path)
    if present == 2:
        assert switch_to_generation(volume, 1) == 3
    assert [bundle.name for bundle in volume.bundles()] == ["step-00000200", "step-00000100"]


@pytest.mark.parametrize(
    "moment",
    [
        "prune.snapshot-dropped",
        "prune.tombstoned",
        "prune.manifest-deleted",
        "prune.data-deleted",
    ],
)
def test_a_killed_prune_breaks_no_snapshot_and_the_next_goes_on(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    killed: Callable,
    store_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    for step in (100, 200, 300):
        save(step)
    with monkeypatch.context() as earlier:
        earlier.setattr(catalog.store, "now", lambda: datetime.now(UTC) - 3 * GRACE)
        push(volume, catalog, WORKLOAD, select=Select.ALL)
    age(store_directory, 3 * GRACE)
    if moment in ("prune.manifest-deleted", "prune.data-deleted"):
        prune(catalog, WORKLOAD, ONE, grace=GRACE)
        age(store_directory, LATER)

    killed("prune(catalog, 'gpt', ONE, grace=GRACE)", moment, catalog.store.url)

    fresh = Catalog(open_store(catalog.store.url), OWNER)
    assert_whole(fresh)
    for _ in range(2):
        prune(fresh, WORKLOAD, ONE, grace=GRACE, patience=0)
        age(store_directory, LATER)
    assert [s.bundles[0].name for s in fresh.snapshots(WORKLOAD)] == ["step-00000300"]
    assert {key.split("/")[4] for key in keys(fresh.store, "data")} == {"step-00000300"}
    assert_whole(fresh)


def test_a_half_pushed_bundle_is_no_snapshot_even_if_someone_looks_for_it(
    volume: Volume, store: Store, save: Callable[..., Bundle], killed: Callable
) -> None:
    save(100)
    killed("push(volume, catalog, 'gpt')", "push.file-uploaded", store.url)
    catalog = Catalog(store, OWNER)

    assert catalog.snapshots(WORKLOAD) == []
    with pytest.raises(Mismatch, match="missing"):
        catalog.manifest(push_ref(volume))


def push_ref(volume: Volume) -> BundleRef:
    manifest = volume.bundles()[0].manifest
    return BundleRef.at(bundle_path(WORKLOAD, volume.run, 1, manifest), manifest)

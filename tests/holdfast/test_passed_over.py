"""Nothing newer is passed over in silence: damaged, missing, or lost with the whole store."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle
from holdfast.copies.prune import delete_snapshot, prune
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.copies.remembered import FILE, recall, rolled_back
from holdfast.durable import write_durably
from holdfast.errors import IncompleteListing, RecoveryStopped
from holdfast.recovery.recover import Action, Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage
from holdfast.retention import Policy
from holdfast.store import sequence
from holdfast.store.lock import store_lock
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import GRACE, OWNER, WORKLOAD, age

ONE = Policy(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0)


@pytest.fixture
def pushed(volume: Volume, catalog: Catalog, save: Callable[..., Bundle]) -> tuple[str, str, str]:
    """The IDs of three snapshots, of steps 100 to 300."""
    ids = []
    for step in (100, 200, 300):
        save(step)
        ids.append(push(volume, catalog, WORKLOAD).snapshot)
    return ids[0], ids[1], ids[2]


def fresh(catalog: Catalog) -> Catalog:
    return Catalog(catalog.store, OWNER)


def key(snapshot: str) -> str:
    return f"snapshots/{WORKLOAD}/{snapshot}.json"


def spoil(catalog: Catalog, snapshot: str) -> None:
    catalog.store.put_small(key(snapshot), b"{")


def lose(catalog: Catalog, snapshot: str) -> None:
    catalog.store.delete([key(snapshot)])


@pytest.mark.parametrize("how", [spoil, lose])
def test_whoever_asks_for_the_latest_learns_what_was_passed_over(
    volume: Volume,
    catalog: Catalog,
    pushed: tuple[str, str, str],
    tmp_path: Path,
    how: Callable[[Catalog, str], None],
) -> None:
    how(catalog, pushed[2])

    choice = fresh(catalog).choose(WORKLOAD, volume.run, "latest")

    assert choice.snapshot.id == pushed[1]
    (one,) = choice.passed_over
    assert pushed[2].startswith(one.snapshot)
    assert "damaged" in one.reason or "missing" in one.reason
    empty = Volume(tmp_path / "empty", volume.run)
    decision = pull_if_empty(empty, fresh(catalog), WORKLOAD, Start.AUTO)
    assert (decision.decision, decision.bundle) == (Action.PULLED, "step-00000200")
    assert decision.passed_over == choice.passed_over
    assert one.snapshot in decision.reason
    listing = fresh(catalog).listing(WORKLOAD)
    assert [*listing.damaged, *(one.snapshot for one in listing.missing)] == [one.snapshot]


def test_what_was_made_after_the_moment_that_is_asked_for_is_not_passed_over(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str]
) -> None:
    snapshots = {s.id: s for s in catalog.snapshots(WORKLOAD)}
    spoil(catalog, pushed[2])
    later = f"{pushed[2][:11]}20991231T000000Z{pushed[2][27:]}"
    lose(catalog, pushed[2])
    spoil(catalog, later)

    before = snapshots[pushed[1]].created.isoformat()
    choice = fresh(catalog).choose(WORKLOAD, volume.run, f"before={before}")

    assert choice.passed_over == ()
    assert choice.snapshot.created == snapshots[pushed[1]].created


def test_a_push_makes_a_new_snapshot_when_the_newest_is_damaged_or_missing(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str], save: Callable[..., Bundle]
) -> None:
    for how in (spoil, lose):
        newest = catalog.choose(WORKLOAD, volume.run, "latest").snapshot
        how(catalog, newest.id)
        report = push(volume, fresh(catalog), WORKLOAD)
        assert report.created == (report.snapshot,) and report.copied_files == 0
        assert report.bundles[0].name == "step-00000300"
        assert fresh(catalog).choose(WORKLOAD, volume.run, "latest").passed_over == ()


def test_a_number_whose_push_is_still_at_work_is_not_missing(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str]
) -> None:
    with store_lock(catalog.store, WORKLOAD):
        catalog.claim_sequence(WORKLOAD, volume.run)
        assert catalog.choose(WORKLOAD, volume.run, "latest").passed_over == ()

    (one,) = catalog.choose(WORKLOAD, volume.run, "latest").passed_over
    assert one.snapshot == "0000000004"


def test_a_snapshot_that_was_deleted_on_purpose_is_not_missing(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str]
) -> None:
    delete_snapshot(catalog, WORKLOAD, pushed[2])

    choice = fresh(catalog).choose(WORKLOAD, volume.run, "latest")
    assert (choice.snapshot.id, choice.passed_over) == (pushed[1], ())


def test_prune_and_delete_refuse_while_the_newest_is_missing_and_the_loss_can_be_accepted(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str], store_directory: Path
) -> None:
    lose(catalog, pushed[2])
    age(store_directory, 3 * GRACE)
    before = {info.key for info in catalog.store.list("data")}

    for refused in (
        lambda: prune(fresh(catalog), WORKLOAD, ONE, grace=GRACE),
        lambda: prune(fresh(catalog), WORKLOAD, ONE, grace=GRACE, dry_run=True),
        lambda: delete_snapshot(fresh(catalog), WORKLOAD, pushed[0]),
    ):
        with pytest.raises(IncompleteListing, match=r"0000000003.*`holdfast push`"):
            refused()
    assert len(catalog.written(WORKLOAD)) == 2
    assert {info.key for info in catalog.store.list("data")} == before

    delete_snapshot(fresh(catalog), WORKLOAD, "0000000003")
    assert prune(fresh(catalog), WORKLOAD, ONE, grace=GRACE).dropped == [pushed[0]]


def test_a_listing_that_is_cut_off_is_noticed_by_the_next_number(
    volume: Volume,
    catalog: Catalog,
    pushed: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = catalog.store.list
    monkeypatch.setattr(catalog.store, "list", lambda prefix="": iter([*whole(prefix)][:2]))

    choice = fresh(catalog).choose(WORKLOAD, volume.run, "latest")

    assert choice.snapshot.id == pushed[1]
    assert "does not list it" in choice.passed_over[0].reason
    with pytest.raises(IncompleteListing, match="incomplete"):
        prune(fresh(catalog), WORKLOAD, ONE, grace=GRACE)
    with pytest.raises(IncompleteListing, match="incomplete"):
        delete_snapshot(fresh(catalog), WORKLOAD, pushed[0])


def test_a_run_that_lost_all_its_snapshots_does_not_begin_at_step_zero_but_a_new_one_does(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str], tmp_path: Path
) -> None:
    lose(catalog, pushed[0])
    spoil(catalog, pushed[1])
    lose(catalog, pushed[2])

    empty = Volume(tmp_path / "empty", volume.run)
    with pytest.raises(RecoveryStopped, match=r"lost all snapshots.*0000000003.*holdfast delete"):
        pull_if_empty(empty, fresh(catalog), WORKLOAD, Start.AUTO)
    new = Volume(tmp_path / "empty", "run-b")
    assert pull_if_empty(new, fresh(catalog), WORKLOAD, Start.AUTO).decision is Action.FRESH


# What the volume remembers ------------------------------------------------------------------


def set_back(store: Path, to: Path) -> None:
    shutil.rmtree(store)
    shutil.copytree(to, store)


@pytest.fixture
def earlier(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    tmp_path: Path,
) -> str:
    """A store that was set back: the ID of the snapshot that it lost."""
    save(100)
    push(volume, catalog, WORKLOAD)
    shutil.copytree(store_directory, tmp_path / "earlier")
    save(200)
    lost = push(volume, catalog, WORKLOAD).snapshot
    set_back(store_directory, tmp_path / "earlier")
    return lost


def test_a_store_that_was_set_back_is_noticed_from_what_the_volume_remembers(
    volume: Volume, catalog: Catalog, earlier: str, save: Callable[..., Bundle]
) -> None:
    def noticed() -> list[str]:
        known = fresh(catalog)
        found = rolled_back(volume, known, WORKLOAD, known.index(WORKLOAD))
        return [one.snapshot for one in found]

    assert noticed() == [earlier]
    decision = pull_if_empty(volume, fresh(catalog), WORKLOAD, Start.AUTO)
    assert decision.decision is Action.USE
    assert [one.snapshot for one in decision.passed_over] == [earlier]
    push(volume, fresh(catalog), WORKLOAD)  # takes the number of the lost one again
    assert noticed() == [earlier], "another snapshot has its number now"
    (volume.run_path / FILE).unlink()
    assert noticed() == []


def test_what_was_remembered_last_is_the_greatest(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str], tmp_path: Path
) -> None:
    assert recall(volume, catalog, WORKLOAD) == (pushed[2], "")
    stage(volume, catalog, catalog.read(WORKLOAD, pushed[0]))
    assert recall(volume, catalog, WORKLOAD) == (pushed[2], "")

    other = Volume(tmp_path / "other", volume.run)
    pull_if_empty(other, catalog, WORKLOAD, Start.AUTO)
    assert recall(other, catalog, WORKLOAD) == (pushed[2], "")
    record = json.loads((other.run_path / FILE).read_bytes())
    assert record == {
        "format": 1,
        "run": volume.run,
        "snapshot": pushed[2],
        "store": catalog.store.url,
        "workload": WORKLOAD,
    }


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"format":1,"run":"run-a","snapshot":"x","store":"s","workload":"gpt"}', "is damaged"),
        (
            b'{"format":1,"run":"run-a","snapshot":"0000000009-20260821T101500Z-00000000",'
            b'"store":"s3://other","workload":"gpt"}',
            "is ignored: it is of workload 'gpt', run 'run-a', in s3://other",
        ),
    ],
)
def test_a_damaged_or_foreign_record_is_ignored_with_a_word(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str], content: bytes, word: str
) -> None:
    write_durably(volume.run_path / FILE, content)

    snapshot, said = recall(volume, catalog, WORKLOAD)

    assert snapshot is None and word in said
    assert rolled_back(volume, catalog, WORKLOAD, catalog.index(WORKLOAD)) == []
    pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)
    assert recall(volume, catalog, WORKLOAD) == (pushed[2], "")


def test_a_pipe_in_place_of_the_record_keeps_nobody_waiting(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str]
) -> None:
    (volume.run_path / FILE).unlink()
    os.mkfifo(volume.run_path / FILE)

    assert recall(volume, catalog, WORKLOAD) == (None, "")


def test_an_emptied_store_and_volume_do_not_lead_to_step_zero_while_the_volume_remembers(
    volume: Volume, catalog: Catalog, earlier: str, store_directory: Path
) -> None:
    shutil.rmtree(store_directory)
    shutil.rmtree(volume.generation_path(1))

    with pytest.raises(RecoveryStopped, match=f"lost all snapshots.*{earlier}"):
        pull_if_empty(volume, fresh(catalog), WORKLOAD, Start.AUTO)
    (volume.run_path / FILE).unlink()
    decision = pull_if_empty(volume, fresh(catalog), WORKLOAD, Start.AUTO)
    assert decision.decision is Action.FRESH


def test_a_volume_that_cannot_be_written_to_remembers_nothing_and_pushes_all_the_same(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(30, "Read-only file system", str(path))

    save(100)
    monkeypatch.setattr("holdfast.durable.create_file", refuse)

    assert push(volume, catalog, WORKLOAD).snapshot
    assert recall(volume, catalog, WORKLOAD) == (None, "")


def test_a_pull_by_id_passes_nothing_over(
    volume: Volume, catalog: Catalog, pushed: tuple[str, str, str], tmp_path: Path
) -> None:
    spoil(catalog, pushed[2])
    choice = fresh(catalog).choose(WORKLOAD, volume.run, pushed[0])

    assert choice.passed_over == ()
    assert [b.name for b in pull(choice.snapshot, catalog, tmp_path / "x")] == ["step-00000100"]


def test_the_claim_of_a_number_says_whose_push_took_it(volume: Volume, catalog: Catalog) -> None:
    number = catalog.claim_sequence(WORKLOAD, volume.run)

    assert sequence.run_of(catalog.store, WORKLOAD, number) == volume.run
    assert sequence.run_of(catalog.store, WORKLOAD, number + 1) is None
    catalog.store.put_small(sequence.key(WORKLOAD, number + 1), b'{"claim":"of an earlier one"}')
    assert sequence.run_of(catalog.store, WORKLOAD, number + 1) is None

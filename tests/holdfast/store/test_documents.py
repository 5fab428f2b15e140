"""Documents are bound to where they lie, and their fields to the manifests that they name."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.bundle import Bundle
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import Mismatch, NoSpace, OwnerMismatch, StoreError, UsageError
from holdfast.manifest import FileEntry, Manifest, canonical, sha256
from holdfast.recovery.recover import Action, Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage
from holdfast.store.directory import DirectoryStore
from holdfast.store.documents import (
    MAX_SEQUENCE,
    BundleRef,
    Snapshot,
    Verification,
    bundle_path,
    is_copy,
)
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import WORKLOAD
from tests.holdfast.store.test_snapshot import made

Change = Callable[[dict[str, Any]], None]


def altered(snapshot: Snapshot, change: Change) -> bytes:
    """A document that is right in itself, its digest included, but for the change."""
    fields = json.loads(snapshot.to_bytes())
    del fields["digest"]
    change(fields)
    return canonical({**fields, "digest": sha256(canonical(fields))})


def in_entry(**fields: Any) -> Change:
    return lambda document: document["bundles"][0].update(fields)


def moved(part: int, name: str) -> Change:
    """An entry whose path has another workload (1), run (2) or generation (3)."""

    def change(document: dict[str, Any]) -> None:
        entry = document["bundles"][0]
        for key in ("manifest", "data"):
            parts = entry[key].split("/")
            entry[key] = "/".join([*parts[:part], name, *parts[part + 1 :]])

    return change


def copied(suffix: str) -> Change:
    """The entry of a later copy, which has a suffix."""

    def change(document: dict[str, Any]) -> None:
        entry = document["bundles"][0]
        entry["data"] += suffix
        entry["manifest"] = entry["manifest"].replace(".json", f"{suffix}.json")

    return change


def twice(document: dict[str, Any]) -> None:
    document["bundles"] *= 2


def foreign_twice(document: dict[str, Any]) -> None:
    moved(1, "other")(document)
    document["bundles"] *= 2


CHANGES: dict[str, Change] = {
    "another workload": lambda document: document.update(workload="other"),
    "another sequence": lambda document: document.update(sequence=8),
    "a sequence out of range": lambda document: document.update(sequence=MAX_SEQUENCE + 1),
    "another time than its id": lambda document: document.update(created="2026-08-21T10:15:01Z"),
    "a run that leads elsewhere": lambda document: document.update(run=".."),
    "a generation out of range": lambda document: document.update(generation=2**60),
    "a bundle twice": twice,
    "data of no workload": moved(1, "Other"),
    "another workload's bundle twice": foreign_twice,
    "empty labels": lambda document: document.update(labels={}),
    "data of another run": moved(2, "run-b"),
    "data of another generation": moved(3, "gen-0002"),
    "a path that leads out": moved(2, ".."),
    "a copy without a number": copied("-x"),
    "another name than its path": in_entry(name="step-00000200"),
    "another digest than its path": in_entry(digest="1" * 64),
    "a label of another run": in_entry(labels={"run": "run-b", "generation": 1}),
    "a label of another generation": in_entry(labels={"run": "run-a", "generation": 2}),
    "a size beyond all numbers": in_entry(size=2**60),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_snapshot_that_contradicts_its_place_or_itself_is_damaged(change: Change) -> None:
    snapshot = made()
    try:
        data = altered(snapshot, change)
    except ValueError:  # not even canonical JSON can hold it
        data = b"{}"

    with pytest.raises(Mismatch, match=rf"^snapshot {snapshot.id} is damaged: "):
        Snapshot.parse(data, snapshot.key)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"sequence":' + b"9" * 5000 + b"}",
        b'{"created":"0000-00-00T00:00:00Z"}',
        b'{"run":"\\ud800"}',
        b'{"id":"a\\nb"}',
    ],
)
def test_whatever_lies_there_is_damaged_and_described_in_one_line(data: bytes) -> None:
    with pytest.raises(Mismatch, match="is damaged") as refused:
        Snapshot.parse(data, made().key)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 2000


def test_a_later_copy_and_a_bundle_without_labels_are_where_they_belong() -> None:
    snapshot = made()
    copy = altered(snapshot, copied("-12"))
    assert Snapshot.parse(copy, snapshot.key).bundles[0].path.endswith("-12")
    base = snapshot.bundles[0].path

    assert is_copy(base, base) and is_copy(f"{base}-12", base)
    assert not any(is_copy(f"{base}{tail}", base) for tail in ("-0", "-", "-1x", "x", "-1/a"))


def test_a_snapshot_may_name_a_bundle_of_another_workload_at_the_place_of_its_labels() -> None:
    snapshot = made()
    data = altered(snapshot, moved(1, "other"))

    found = Snapshot.parse(data, snapshot.key)

    assert [ref.workload for ref in found.foreign] == ["other"]
    assert found.bundles[0].path == snapshot.bundles[0].path.replace("gpt/", "other/", 1)


def test_a_bundle_of_another_workload_without_labels_is_bound_by_its_path() -> None:
    def foreign(document: dict[str, Any]) -> None:
        document["bundles"][0]["labels"] = {}
        moved(1, "models")(document)
        moved(2, "run-x")(document)
        moved(3, "gen-0007")(document)

    snapshot = made()
    assert Snapshot.parse(altered(snapshot, foreign), snapshot.key).foreign


def test_labels_of_a_snapshot_are_part_of_its_digest_and_absent_where_there_are_none() -> None:
    plain = made()
    labelled = Snapshot.build(
        plain.workload,
        plain.run,
        plain.generation,
        plain.sequence,
        plain.created,
        plain.bundles,
        {"version": "3", "missing": 0},
    )

    assert b'"labels":{"missing":0,"version":"3"}' in labelled.to_bytes()
    assert Snapshot.parse(labelled.to_bytes(), labelled.key) == labelled
    assert "labels" not in json.loads(plain.to_bytes())
    changed = labelled.to_bytes().replace(b'"version":"3"', b'"version":"4"')
    with pytest.raises(Mismatch, match="digest"):
        Snapshot.parse(changed, labelled.key)


def test_a_streamed_bundle_lies_under_its_upload_label_and_no_other_text_counts_as_one() -> None:
    entry = FileEntry(path="a", size=0, sha256="0" * 64)

    def last(upload: str | int) -> str:
        manifest = Manifest.build("database", "dump", [entry], {"upload": upload})
        path = bundle_path("pipeline", "tracking", 1, manifest)
        assert path.startswith("pipeline/tracking/gen-0001/dump/")
        return "upload" if path.endswith(f"/{upload}") else path.rpartition("/")[2]

    assert last("5" * 64) == "upload"
    for odd in ("5" * 63, "A" * 64, "../" * 21 + "x", 5):
        assert last(odd) == Manifest.build("database", "dump", [entry], {"upload": odd}).digest


@pytest.fixture
def lie(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> Callable[..., tuple[Snapshot, Snapshot]]:
    """Push steps 100 and 200, then change one field of the newest snapshot's entry."""

    def change(**fields: Any) -> tuple[Snapshot, Snapshot]:
        save(100)
        push(volume, catalog, WORKLOAD)
        save(200)
        push(volume, catalog, WORKLOAD)
        newest, older = catalog.snapshots(WORKLOAD)
        data = altered(newest, in_entry(**fields))
        catalog.store.put_small(newest.key, data)
        return Snapshot.parse(data, newest.key), older

    return change


LIES: dict[str, Any] = {
    "size": 2**53 - 1,
    "kind": "model",
    "labels": {"run": "run-a", "generation": 1, "step": 999},
    "content": "1" * 64,
}


@pytest.mark.parametrize("field", LIES)
def test_a_field_that_differs_from_the_manifest_is_found_by_whoever_uses_it(
    volume: Volume,
    catalog: Catalog,
    lie: Callable[..., tuple[Snapshot, Snapshot]],
    tmp_path: Path,
    field: str,
) -> None:
    liar, older = lie(**{field: LIES[field]})
    fresh = Catalog(catalog.store, catalog.owner)

    found = verify_snapshot(fresh, liar, record=False)
    assert not found.ok and f"{field} is" in found.problems[0]
    with pytest.raises(Mismatch, match=f"the snapshot lies: {field} is"):
        pull(liar, fresh, tmp_path / "into")
    # A bundle of another kind is refused before its manifest is asked for.
    another_kind = field == "kind"
    why = "no bundle of kind" if another_kind else f"the snapshot lies: {field} is"
    with pytest.raises(UsageError if another_kind else Mismatch, match=why):
        stage(volume, fresh, liar)
    empty = Volume(tmp_path / "empty", volume.run)
    decision = pull_if_empty(empty, fresh, WORKLOAD, Start.AUTO)
    assert (decision.decision, decision.bundle) == (Action.PULLED, older.bundles[0].name)
    assert [one.snapshot for one in decision.passed_over] == [liar.id]


def test_a_snapshot_of_another_workload_is_not_believed_where_it_was_copied_to(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], tmp_path: Path
) -> None:
    save(100)
    right = push(volume, catalog, WORKLOAD).snapshot
    other = Volume(tmp_path / "other", volume.run)
    for step in (200, 300):
        bundle = save(step)
        target = other.generation_path(1) / bundle.name
        target.parent.mkdir(parents=True, exist_ok=True)
        bundle.path.rename(target)
        push(other, catalog, "another")
    foreign = catalog.snapshots("another")[0]
    catalog.store.put_small(f"snapshots/{WORKLOAD}/{foreign.id}.json", foreign.to_bytes())

    decision = pull_if_empty(Volume(tmp_path / "new", volume.run), catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.bundle) == (Action.PULLED, "step-00000100")
    assert [one.snapshot for one in decision.passed_over] == [foreign.id]
    assert right in decision.reason
    assert catalog.listing(WORKLOAD).damaged.keys() == {foreign.id}


def records(snapshot: str) -> Iterator[tuple[str, bytes]]:
    """Verification records that do not belong at the place of this snapshot's."""
    right = Verification(
        snapshot=snapshot, at=made().created, kind="full", ok=False, bytes=1, problems=("x",)
    )
    elsewhere = f"other/run-a/gen-0001/step/{'0' * 64}"
    yield "of another snapshot", right.model_copy(update={"snapshot": made(9).id}).to_bytes()
    yield "of another workload", right.model_copy(update={"bad": (elsewhere,)}).to_bytes()
    yield "not canonical", right.to_bytes() + b" " * 200
    yield "not JSON", b"[" * 100_000


def test_a_verification_record_counts_only_where_it_belongs(catalog: Catalog) -> None:
    snapshot = made()
    key = f"verified/{WORKLOAD}/{snapshot.id}.json"
    for what, data in records(snapshot.id):
        catalog.store.put_small(key, data.ljust(300))
        assert catalog.verifications(WORKLOAD) == {}, what
        assert catalog.verdicts(WORKLOAD) == {}, what
        assert catalog.failures(WORKLOAD) == [], what
        assert catalog.last_read_in_full(WORKLOAD) is None, what


@pytest.mark.parametrize(
    "key",
    [
        f"snapshots/{WORKLOAD}/README.txt",
        f"snapshots/{WORKLOAD}/.nfs000000000001",
        f"snapshots/{WORKLOAD}/.DS_Store",
        f"snapshots/{WORKLOAD}/old/0000000007-20260821T101500Z-00000000.json",
        f"snapshots/{WORKLOAD}/9999999999-20260821T101500Z-00000000.json",
        f"snapshots/{WORKLOAD}/0000000000-20260821T101500Z-00000000.json",
        f"sequences/{WORKLOAD}/README.txt",
        f"sequences/{WORKLOAD}/9999999999.json",
        f"sequences/{WORKLOAD}/12.json",
    ],
)
def test_a_foreign_object_among_snapshots_and_numbers_is_ignored_and_left_alone(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], key: str
) -> None:
    catalog.store.put_small(key, b"not ours")
    save(100)

    report = push(volume, catalog, WORKLOAD)

    assert [snapshot.id for snapshot in catalog.snapshots(WORKLOAD)] == [report.snapshot]
    assert catalog.choose(WORKLOAD, volume.run, "latest").passed_over == ()
    assert report.snapshot.startswith("0000000001-")
    assert catalog.store.get(key) == b"not ours"


HUGE = 100 << 30  # bytes of a sparse file, which takes no room


def test_an_object_of_a_hundred_gigabytes_is_no_document_and_is_not_read(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    tmp_path: Path,
) -> None:
    save(100)
    right = push(volume, catalog, WORKLOAD)
    for key in (
        f"snapshots/{WORKLOAD}/0000000002-20260821T101500Z-00000000.json",
        f"verified/{WORKLOAD}/{right.snapshot}.json",
        f"dropped/{WORKLOAD}.json",
        f"sequences/{WORKLOAD}/0000000002.json",
    ):
        path = store_directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, HUGE)
    fresh = Catalog(catalog.store, catalog.owner)

    choice = fresh.choose(WORKLOAD, volume.run, "latest")
    assert choice.snapshot.id == right.snapshot
    assert "no document has more than" in choice.passed_over[0].reason
    assert fresh.verifications(WORKLOAD) == {} and fresh.dropped(WORKLOAD) == ()
    manifest = store_directory / right.bundles[0].manifest
    manifest.chmod(0o600)
    os.truncate(manifest, HUGE)
    with pytest.raises(Mismatch, match="no document has more than"):
        pull(choice.snapshot, fresh, tmp_path / "into")


def test_a_file_that_is_longer_than_its_manifest_says_is_left_at_once(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(100)
    snapshot = catalog.read(WORKLOAD, push(volume, catalog, WORKLOAD).snapshot)
    data = store_directory / snapshot.bundles[0].data / "rank-0/model.bin"
    data.chmod(0o600)
    os.truncate(data, HUGE)
    stream, read = DirectoryStore.stream, []

    def counted(store: DirectoryStore, key: str) -> Iterator[bytes]:
        for chunk in stream(store, key):
            read.append(len(chunk))
            yield chunk

    monkeypatch.setattr(DirectoryStore, "stream", counted)
    with pytest.raises(Mismatch, match="has more than"):
        pull(snapshot, catalog, tmp_path / "into")
    assert sum(read) < 16 << 20
    assert "has 107374182400 bytes" in verify_snapshot(catalog, snapshot, record=False).problems[0]


def test_a_bundle_that_no_disk_can_hold_is_refused_before_anything_is_written(
    catalog: Catalog, tmp_path: Path
) -> None:
    files = [FileEntry(path="weights", size=2**52, sha256="0" * 64)]
    manifest = Manifest.build("checkpoint", "huge", files, {"run": "run-a", "generation": 1})
    ref = BundleRef.at(bundle_path(WORKLOAD, "run-a", 1, manifest), manifest)
    snapshot = Snapshot.build(WORKLOAD, "run-a", 1, 1, made().created, [ref])
    catalog.store.put_small(ref.manifest, manifest.to_bytes())
    catalog.store.put_small(snapshot.key, snapshot.to_bytes())

    with pytest.raises(NoSpace):
        pull(snapshot, catalog, tmp_path / "into")
    with pytest.raises(NoSpace):
        stage(Volume(tmp_path / "volume", "run-a"), catalog, snapshot)
    assert not list(tmp_path.rglob("weights"))


@pytest.mark.parametrize("key", ["a//b", "a/../b", "./a", "", ".tmp/x"])
def test_a_key_that_leads_elsewhere_is_the_stores_fault_and_no_misuse(
    catalog: Catalog, key: str
) -> None:
    with pytest.raises(StoreError) as refused:
        catalog.store.get(key)
    assert refused.value.exit_code == 1


def test_a_reference_says_what_its_manifest_says(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    manifest = save(100).manifest
    BundleRef.at("some/path", manifest).check(manifest)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"project":1,"stack":"x"}', b'{"project":"a/b","stack":"x"}'],
)
def test_an_owner_file_that_names_nobody_is_not_ours(catalog: Catalog, content: bytes) -> None:
    catalog.store.put_small("OWNER.json", content)
    with pytest.raises(OwnerMismatch, match="not a Holdfast store"):
        catalog.check_owner()

"""What a volume remembers of its store: the last snapshot of the run that it pushed, pulled or saw.

A store whose documents were all set back to an earlier time looks sound. Only who remembers more
notices. The record only ever makes someone say so: nothing is deleted, and no bundle or snapshot is
refused, because of it. One that is damaged, or of another store or workload, is ignored.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

from holdfast import durable
from holdfast.manifest import Component, Document, printable
from holdfast.store.documents import Snapshot, SnapshotId
from holdfast.store.snapshot import Catalog, Index, PassedOver
from holdfast.volume import Volume

FILE = ".store.json"
_DRAFT = f"{durable.TEMPORARY}store"
_MAX_BYTES = 64 * 1024


class Record(Document):
    """The content of ``<volume>/<run>/.store.json``."""

    format: Literal[1] = 1
    store: str
    workload: Component
    run: Component
    snapshot: SnapshotId


def remember(volume: Volume, catalog: Catalog, snapshot: Snapshot) -> None:
    """Record that the store has this snapshot of the volume's run, unless it has had a newer one.

    A volume that cannot be written to remembers nothing.
    """
    record = Record(
        store=catalog.store.url,
        workload=snapshot.workload,
        run=volume.run,
        snapshot=snapshot.id,
    )
    path = _path(volume)
    with suppress(OSError):
        draft = path.with_name(_DRAFT)  # one name, so that the next one removes what a kill left
        draft.unlink(missing_ok=True)
        known, _ = recall(volume, catalog, snapshot.workload)
        if known is None or known[:10] < snapshot.id[:10]:
            durable.create_file(draft, record.to_bytes())
            draft.replace(path)
            durable.fsync_directory(path.parent)


def recall(volume: Volume, catalog: Catalog, workload: str) -> tuple[str | None, str]:
    """The ID of the snapshot that was recorded, and why a record that is there does not count."""
    data = _read(_path(volume))
    if data is None:
        return None, ""
    try:
        record = Record.model_validate_json(data)
    except ValueError:
        return None, f"'{_path(volume)}' is damaged and ignored"
    expected = (catalog.store.url, workload, volume.run)
    if (record.store, record.workload, record.run) != expected:
        of = f"workload '{record.workload}', run '{record.run}', in {printable(record.store)}"
        return None, f"'{_path(volume)}' is ignored: it is of {of}"
    return record.snapshot, ""


def rolled_back(volume: Volume, catalog: Catalog, workload: str, index: Index) -> list[PassedOver]:
    """The recorded snapshot if the store has lost it: not by retention, but because the store was
    set back to an earlier state."""
    snapshot, _ = recall(volume, catalog, workload)
    if snapshot is None:
        return []
    same = [name for name in index.written if name[:10] == snapshot[:10]]
    if index.highest >= int(snapshot[:10]) and (not same or snapshot in same):
        return []
    found = f"it has snapshot {same[0]} in its place" if same else "it has nothing as new"
    return [
        PassedOver(
            snapshot,
            f"this volume knows it, but the store was set back to an earlier state: {found};"
            f" restore the store from its versions, or remove '{_path(volume)}' to accept it",
            volume.run,
        )
    ]


def _path(volume: Volume) -> Path:
    return volume.run_path / FILE


def _read(path: Path) -> bytes | None:
    try:
        with durable.open_regular(path) as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return None

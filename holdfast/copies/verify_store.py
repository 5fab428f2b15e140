"""Verify a snapshot in the store, without a volume."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from holdfast.copies.transfer import each_file, read_remote
from holdfast.errors import Mismatch
from holdfast.manifest import FileEntry, Manifest, printable
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot, Verification
from holdfast.store.snapshot import Catalog


def verify_snapshot(
    catalog: Catalog,
    snapshot: Snapshot,
    *,
    quick: bool = False,
    record: bool = True,
    progress: Progress = SILENT,
) -> Verification:
    """Check every bundle of a snapshot: existence and sizes if ``quick``, else every byte.

    The result, good or bad, is recorded in the store for retention and push (not with
    ``record=False``, for a store that is read-only here). If the store cannot be reached this
    raises and records nothing, because that says nothing about the data.
    """
    problems: list[str] = []
    bad: list[str] = []
    read = 0
    for ref in snapshot.bundles:
        try:
            manifest = catalog.manifest(ref)
            found = _quick(catalog, ref, manifest)
            if not quick:
                sound = [entry for entry in manifest.files if entry.path not in found]
                progress.start(f"verify {ref.name}", len(sound), sum(e.size for e in sound))
                found |= _full(catalog, ref, sound, progress)
                read += sum(entry.size for entry in sound)
            damage = list(found.values())
        except Mismatch as error:
            damage = [str(error)]
        if damage and ref.workload != snapshot.workload:  # to push again is that one's affair
            problems += [f"{ref.path}: {problem}" for problem in damage]
        elif damage:
            problems += damage
            bad.append(ref.path)
    result = Verification(
        snapshot=snapshot.id,
        at=catalog.store.now() if record else snapshot.created,
        kind="quick" if quick else "full",
        ok=not problems,
        bytes=read,
        problems=tuple(problems[:100]),
        bad=tuple(bad),
    )
    if record:
        catalog.record(snapshot.workload, result)
    return result


def _quick(catalog: Catalog, ref: BundleRef, manifest: Manifest) -> dict[str, str]:
    """The problems found in existence and sizes, by path."""
    there = {info.key: info.size for info in catalog.store.list(ref.data)}
    found = {}
    for entry in manifest.files:
        size = there.get(ref.key(entry))
        if size is None:
            found[entry.path] = f"bundle {ref.name}, {printable(entry.path)}: is missing"
        elif size != entry.size:
            found[entry.path] = (
                f"bundle {ref.name}, {printable(entry.path)}: has {size} bytes instead of"
                f" {entry.size}"
            )
    return found


def _full(
    catalog: Catalog, ref: BundleRef, entries: Iterable[FileEntry], progress: Progress
) -> dict[str, str]:
    """The problems found by reading every byte, by path."""
    found: dict[str, str] = {}

    def check(entry: FileEntry, stop: threading.Event) -> None:
        try:
            for _ in read_remote(catalog.store, ref, entry, progress, stop):
                pass
        except Mismatch as error:
            found[entry.path] = str(error)
        progress.file(entry.path)

    each_file(check, list(entries), catalog.store.parallel)
    return dict(sorted(found.items()))

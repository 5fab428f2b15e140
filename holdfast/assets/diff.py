"""What differs between two bundles, or two snapshots: files, and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.manifest import FileEntry
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import Catalog


@dataclass(frozen=True)
class Side:
    """One of the two: what it is called, its labels and its files by path."""

    title: str
    labels: Mapping[str, str | int]
    files: Mapping[str, FileEntry]


@dataclass
class Difference:
    """From the first to the second, with sizes in bytes; a label that is absent is None."""

    added: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    changed: dict[str, tuple[int, int]] = field(default_factory=dict)
    unchanged: int = 0
    labels: dict[str, tuple[Any, Any]] = field(default_factory=dict)


def side_of(catalog: Catalog, snapshot: Snapshot, title: str) -> Side:
    """Everything in a snapshot. Where it names several bundles, paths begin with theirs: names, and
    workloads where names repeat."""
    files: dict[str, FileEntry] = {}
    labels: dict[str, str | int] = dict(snapshot.labels)
    alone = len(snapshot.bundles) == 1
    for ref in snapshot.bundles:
        place = ref.name if ref.workload == snapshot.workload else f"{ref.workload}/{ref.name}"
        for entry in catalog.manifest(ref).files:
            files[entry.path if alone else f"{place}/{entry.path}"] = entry
        if alone and not snapshot.labels:
            labels = dict(ref.labels)
    return Side(title, labels, files)


def diff(before: Side, after: Side) -> Difference:
    """What was added, removed and changed from one to the other, sorted by path."""
    found = Difference()
    for path in sorted(before.files.keys() | after.files.keys(), key=str.encode):
        old, new = before.files.get(path), after.files.get(path)
        if old is None and new is not None:
            found.added[path] = new.size
        elif new is None and old is not None:
            found.removed[path] = old.size
        elif old is not None and new is not None and old.sha256 != new.sha256:
            found.changed[path] = (old.size, new.size)
        else:
            found.unchanged += 1
    for key in sorted(before.labels.keys() | after.labels.keys()):
        pair = (before.labels.get(key), after.labels.get(key))
        if pair[0] != pair[1]:
            found.labels[key] = pair
    return found

"""The list of artifacts in a snapshot: one line of canonical JSON for each, as docs/format.md says.

The files of the bundles of artifacts are numbers, so that an artifact may have any name. The list
says which number in which bundle an artifact is, and what its bytes are.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import Mismatch
from holdfast.manifest import canonical
from holdfast.store.base import is_key

#: kind of the bundle that holds the list, and its file
KIND, FILE = "artifact-list", "artifacts.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact: its bytes are the file ``file`` of the snapshot's bundle ``bundle``.

    ``tag`` is what its place said of it when it was copied; "" if it must be read again to know.
    ``newer``: it was rewritten while the backup ran, so it may be newer than the database.
    """

    path: str
    size: int
    sha256: str
    bundle: str
    file: str
    tag: str = ""
    newer: bool = False

    def same_bytes(self, other: Entry) -> bool:
        return (self.size, self.sha256) == (other.size, other.sha256)


@dataclass
class ArtifactList:
    """All artifacts of a snapshot by path; ``missing`` and ``skipped`` say why by name.

    ``place`` is where they were. ``missing``: what the database needs and nothing had, already when
    the backup was made. ``skipped``: what could not be copied. ``counts``: what the database held.
    """

    place: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    _sorted: list[str] = field(default_factory=list, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(entry.size for entry in self.entries.values())

    @property
    def newer(self) -> list[str]:
        return sorted(path for path, entry in self.entries.items() if entry.newer)

    def holds(self, path: str) -> bool:
        """Whether there is an artifact at this path or below it."""
        if path in self.entries or (not path and self.entries):
            return True
        if len(self._sorted) != len(self.entries):
            self._sorted = sorted(self.entries)
        below = f"{path}/"
        at = bisect.bisect_left(self._sorted, below)
        return at < len(self._sorted) and self._sorted[at].startswith(below)

    def to_lines(self) -> Iterator[bytes]:
        """The document, a line at a time."""
        head = {
            "format": 1,
            "kind": KIND,
            "place": self.place,
            "files": len(self.entries),
            "bytes": self.size,
            "counts": self.counts,
        }
        yield canonical(head) + b"\n"
        for path in sorted(self.entries, key=str.encode):
            yield canonical(_fields(self.entries[path])) + b"\n"
        for kind, named in (("missing", self.missing), ("skipped", self.skipped)):
            for name in sorted(named):
                yield canonical({kind: name, "reason": named[name]}) + b"\n"

    @classmethod
    def parse(cls, chunks: Iterable[bytes | memoryview]) -> ArtifactList:
        """Read the document. Raises Mismatch unless it is a whole one that can be used."""
        found, files = cls(), -1
        try:
            for line in _lines(chunks):
                fields = json.loads(line)
                if files < 0:
                    if fields["format"] != 1 or fields["kind"] != KIND:
                        raise ValueError("it is of another format")
                    files, found.counts = int(fields["files"]), dict(fields["counts"])
                    found.place = str(fields["place"])
                elif "path" in fields:
                    entry = _entry(fields)
                    found.entries[entry.path] = entry
                else:
                    kind = "missing" if "missing" in fields else "skipped"
                    named = found.missing if kind == "missing" else found.skipped
                    named[str(fields[kind])] = str(fields["reason"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Mismatch(f"the list of artifacts cannot be read: {error}") from error
        if files != len(found.entries):
            raise Mismatch(f"the list of artifacts is cut off: {len(found.entries)} of {files}")
        return found


def _fields(entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "path": entry.path,
        "size": entry.size,
        "sha256": entry.sha256,
        "bundle": entry.bundle,
        "file": entry.file,
        "tag": entry.tag,
    }
    if entry.newer:
        fields["newer"] = True
    return fields


def _entry(fields: Mapping[str, Any]) -> Entry:
    entry = Entry(
        path=str(fields["path"]),
        size=int(fields["size"]),
        sha256=str(fields["sha256"]),
        bundle=str(fields["bundle"]),
        file=str(fields["file"]),
        tag=str(fields["tag"]),
        newer=bool(fields.get("newer", False)),
    )
    if not is_key(entry.path):
        raise ValueError(f"{entry.path!r} is not a relative path")
    return entry


def _lines(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + bytes(chunk)).split(b"\n")
        yield from whole
    if rest:
        raise ValueError("its last line is not whole")

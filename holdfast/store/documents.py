"""The documents that a store holds: snapshots, references to bundles, verification records.

Each is canonical JSON, as ``docs/format.md`` specifies; `holdfast.store.snapshot` reads and writes
them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from holdfast.errors import HoldfastError, Mismatch
from holdfast.manifest import (
    Document,
    FileEntry,
    Kind,
    LabelKey,
    LabelValue,
    Manifest,
    Name,
    Sha256,
    Time,
    canonical,
    check_name,
    sha256,
)

SNAPSHOT_ID = re.compile(r"(\d{10})-(\d{8}T\d{6}Z)-([0-9a-f]{8})", re.ASCII)
BUNDLE_PATH = re.compile(r"[^/]+/[^/]+/gen-\d{4,}/[^/]+/[0-9a-f]{64}(-[1-9]\d*)?", re.ASCII)


class BundleRef(Document):
    """One bundle of a snapshot: what it is, and where its manifest and its files are.

    ``manifest`` is a key; ``data`` is a prefix: a file's key is ``<data>/<path>``. ``size`` is in
    bytes, without the manifest.
    """

    kind: Kind
    name: Name
    labels: dict[LabelKey, LabelValue]
    size: Annotated[int, Field(ge=0)]
    digest: Sha256
    content: Sha256
    manifest: str
    data: str

    @classmethod
    def at(cls, path: str, manifest: Manifest) -> Self:
        """The reference to a bundle copied to ``path`` (see `bundle_path`)."""
        return cls(
            kind=manifest.kind,
            name=manifest.name,
            labels=manifest.labels,
            size=manifest.size,
            digest=manifest.digest,
            content=manifest.content,
            manifest=f"manifests/{path}.json",
            data=f"data/{path}",
        )

    @property
    def path(self) -> str:
        """``<workload>/<run>/<generation>/<name>/<digest>[-n]``."""
        return self.data.removeprefix("data/")

    def key(self, entry: FileEntry) -> str:
        return f"{self.data}/{entry.path}"


class Snapshot(Document):
    """One recoverable state of a workload. ``generation`` is the one the volume was in."""

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=rf"^{SNAPSHOT_ID.pattern}$")]
    workload: Name
    run: Name
    generation: Annotated[int, Field(ge=1)]
    sequence: Annotated[int, Field(ge=1, lt=10**10)]
    created: Time
    bundles: Annotated[tuple[BundleRef, ...], Field(min_length=1)]
    digest: Sha256 = "0" * 64

    @classmethod
    def build(
        cls,
        workload: str,
        run: str,
        generation: int,
        sequence: int,
        created: datetime,
        bundles: Iterable[BundleRef],
    ) -> Self:
        stamp = created.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        draft = cls(
            id=f"{sequence:010d}-{stamp}-{secrets.token_hex(4)}",
            workload=workload,
            run=run,
            generation=generation,
            sequence=sequence,
            created=created,
            bundles=tuple(bundles),
        )
        return draft.model_copy(update={"digest": draft._digest()})

    @classmethod
    def parse(cls, data: bytes, snapshot_id: str) -> Self:
        """Read a snapshot. Raises Mismatch unless these are the exact bytes that were written."""
        try:
            snapshot = cls.model_validate_json(data)
            if snapshot.to_bytes() != data or snapshot.digest != snapshot._digest():
                raise ValueError("its digest does not match its fields")
            if snapshot.id != snapshot_id or int(snapshot_id[:10]) != snapshot.sequence:
                raise ValueError(f"its id is {snapshot.id}, which is not the name of the object")
            for ref in snapshot.bundles:
                if not BUNDLE_PATH.fullmatch(ref.path) or ref.manifest != (
                    f"manifests/{ref.path}.json"
                ):
                    raise ValueError(f"bundle {ref.name}: invalid path '{ref.data}'")
        except ValueError as error:  # pydantic's ValidationError is one
            reason = (
                "; ".join(e["msg"] for e in error.errors())
                if isinstance(error, ValidationError)
                else error
            )
            raise Mismatch(f"snapshot {snapshot_id} is damaged: {reason}") from error
        return snapshot

    @property
    def size(self) -> int:
        """Bytes of all its bundles."""
        return sum(ref.size for ref in self.bundles)

    @property
    def key(self) -> str:
        return f"snapshots/{self.workload}/{self.id}.json"

    def _digest(self) -> str:
        return sha256(canonical(self.model_dump(exclude={"digest"})))


class Verification(Document):
    """The result of verifying a snapshot, kept in the store so that prune need not read data.

    ``bad`` holds the paths of bundles with a problem; no later push uses them.
    """

    format: Literal[1] = 1
    snapshot: str
    at: Time
    kind: Literal["quick", "full"]
    ok: bool
    bytes: int
    problems: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()


def bundle_path(workload: str, run: str, generation: int, manifest: Manifest) -> str:
    """The path of a bundle's first copy below ``manifests/``, ``data/`` and ``tombstones/``.

    It uses the run and generation in which the bundle was *made* (its labels), so that a restored
    bundle is the same object in the store. The arguments serve a bundle without these labels.
    """
    run = str(manifest.labels.get("run", run))
    made = manifest.labels.get("generation", generation)
    if not isinstance(made, int) or made < 1:
        raise HoldfastError(
            f"bundle {manifest.name}: invalid label generation={made!r}: expected an integer from 1"
        )
    return (
        f"{check_name(workload)}/{check_name(run)}/gen-{made:04d}/{manifest.name}/{manifest.digest}"
    )

"""The documents that a store holds: snapshots, references to bundles, verification records.

Each is canonical JSON, as ``docs/format.md`` specifies, and each is bound to the place where it
lies: what was copied or moved there from another place is refused. `holdfast.store.snapshot` reads
and writes them.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from holdfast.defaults import SHARED
from holdfast.errors import Mismatch
from holdfast.labels import is_healthy, made_in, upload_of
from holdfast.manifest import (
    MAX_INTEGER,
    Component,
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
    component_problem,
    name_problem,
    printable,
    sha256,
)

SNAPSHOT_ID = re.compile(r"(\d{10})-(\d{8}T\d{6}Z)-([0-9a-f]{8})", re.ASCII)
BUNDLE_PATH = re.compile(r"[^/]+/[^/]+/gen-\d{4,}/[^/]+/[0-9a-f]{64}(-[1-9]\d*)?", re.ASCII)
_COPY = re.compile(r"(-[1-9]\d*)?", re.ASCII)

#: the run that all datasets and models are of: each lies under the hash of its files
CONTENT = "content"
#: the greatest sequence number: a push per second for 285 years; a greater one is not believed
MAX_SEQUENCE = 9_000_000_000

SnapshotId = Annotated[str, Field(pattern=rf"^{SNAPSHOT_ID.pattern}$")]


class BundleRef(Document):
    """One bundle of a snapshot: what it is, and where its manifest and its files are.

    ``manifest`` is a key; ``data`` is a prefix: a file's key is ``<data>/<path>``. The files may be
    those of another bundle with the same content, so that none is stored twice. ``size`` is in
    bytes, without the manifest.
    """

    kind: Kind
    name: Name
    labels: dict[LabelKey, LabelValue]
    size: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    digest: Sha256
    content: Sha256
    manifest: str
    data: str

    @classmethod
    def at(cls, path: str, manifest: Manifest, files_at: str = "") -> Self:
        """The reference to a bundle copied to ``path`` (see `bundle_path`); ``files_at`` is the
        path of another bundle, if its files are those."""
        return cls(
            kind=manifest.kind,
            name=manifest.name,
            labels=manifest.labels,
            size=manifest.size,
            digest=manifest.digest,
            content=manifest.content,
            manifest=f"manifests/{path}.json",
            data=f"data/{files_at or path}",
        )

    @property
    def path(self) -> str:
        """``<workload>/<run>/<generation>/<name>/<digest>[-n]``."""
        return self.manifest.removeprefix("manifests/").removesuffix(".json")

    @property
    def files_at(self) -> str:
        """The path of the bundle whose files these are: its own one, in most cases."""
        return self.data.removeprefix("data/")

    @property
    def paths(self) -> set[str]:
        """Every path that must stay for this bundle to be whole: one, or two."""
        return {self.path, self.files_at}

    @property
    def workload(self) -> str:
        """The workload whose bundle it is: not always that of a snapshot which names it."""
        return self.path.partition("/")[0]

    def key(self, entry: FileEntry) -> str:
        return f"{self.data}/{entry.path}"

    def check(self, manifest: Manifest) -> None:
        """Raises Mismatch unless every field is what this manifest says."""
        right = BundleRef.at(self.path, manifest, self.files_at)
        wrong = [
            f"{field} is {_short(value)}, its manifest says {_short(getattr(right, field))}"
            for field, value in self
            if value != getattr(right, field)
        ]
        if wrong:
            raise Mismatch(f"bundle {self.name}: the snapshot lies: {'; '.join(wrong)}")


class Snapshot(Document):
    """One recoverable state of a workload. ``generation`` is the one the volume was in.

    It may name bundles of other workloads, see `holdfast.store.references`. Without ``labels`` the
    document is the same, byte for byte, as before there were any.
    """

    format: Literal[1] = 1
    id: SnapshotId
    workload: Component
    run: Component
    generation: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    sequence: Annotated[int, Field(ge=1, le=MAX_SEQUENCE)]
    created: Time
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
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
        labels: Mapping[str, str | int] | None = None,
    ) -> Self:
        draft = cls(
            id=f"{_id_begins(sequence, created)}{secrets.token_hex(4)}",
            workload=workload,
            run=run,
            generation=generation,
            sequence=sequence,
            created=created,
            labels=dict(labels or {}),
            bundles=tuple(bundles),
        )
        return draft.model_copy(update={"digest": draft._digest()})

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """Read the snapshot that lies at ``key``.

        Raises Mismatch unless these are the exact bytes that a push wrote to this very place.
        """
        try:
            snapshot = cls.model_validate_json(data)
            if snapshot.to_bytes() != data or snapshot.digest != snapshot._digest():
                raise ValueError("its digest does not match its fields")
            if problems := list(snapshot._misplaced(key)):
                raise ValueError("; ".join(problems[:20]))
        except ValueError as error:  # pydantic's ValidationError is one
            reason = _first_problems(error) if isinstance(error, ValidationError) else error
            name = key.rpartition("/")[2].removesuffix(".json")
            raise Mismatch(f"snapshot {name} is damaged: {reason}") from error
        return snapshot

    @property
    def foreign(self) -> tuple[BundleRef, ...]:
        """The bundles of other workloads that it names."""
        return tuple(ref for ref in self.bundles if ref.workload != self.workload)

    @property
    def paths_of_others(self) -> list[str]:
        """The paths of other workloads that must stay for this snapshot to be whole."""
        paths = {path for ref in self.bundles for path in ref.paths}
        return sorted(path for path in paths if path.partition("/")[0] != self.workload)

    def has(self, kind: str | None) -> bool:
        """Whether a bundle of this kind is in it, so that a run of that kind can go on from it."""
        return kind is None or any(ref.kind == kind for ref in self.bundles)

    @property
    def healthy(self) -> bool | None:
        """Whether all its bundles are marked good, or one is marked bad; None if neither."""
        marks = [is_healthy(ref.labels) for ref in self.bundles]
        return False if False in marks else all(marks) or None

    @property
    def size(self) -> int:
        """Bytes of all its bundles, as the snapshot says: `BundleRef.check` compares them."""
        return sum(ref.size for ref in self.bundles)

    @property
    def key(self) -> str:
        return f"snapshots/{self.workload}/{self.id}.json"

    def _digest(self) -> str:
        return sha256(canonical(self.model_dump(exclude={"digest"})))

    @model_serializer(mode="wrap")
    def _without_empty_labels(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        if not self.labels:
            fields.pop("labels", None)
        return fields

    def _misplaced(self, key: str) -> Iterator[str]:
        """Everything in which it contradicts its place, its own fields or its bundles'."""
        if self.key != key:
            yield f"it belongs at {self.key}"
        if not self.id.startswith(_id_begins(self.sequence, self.created)):
            yield "its id is not made of its sequence and its time"
        own = [ref.name for ref in self.bundles if ref.workload == self.workload]
        for name, count in Counter([*own, *(ref.path for ref in self.foreign)]).items():
            if count > 1:
                yield f"bundle {name} is in it {count} times"
        for ref in self.bundles:
            base, path = self._base(ref), ref.path
            right = is_copy(path, base) and may_share(path, ref.files_at)
            if not right or (ref.data, ref.manifest) != (
                f"data/{ref.files_at}",
                f"manifests/{path}.json",
            ):
                yield (
                    f"bundle {ref.name} cannot lie at {_short(ref.data)} with its manifest at"
                    f" {_short(ref.manifest)}: expected data/{base} and manifests/{base}.json"
                )

    def _base(self, ref: BundleRef) -> str:
        """Where the bundle's first copy lies. A foreign bundle may say nothing of its run and
        generation: then its path does."""
        workload, run, generation = self.workload, self.run, self.generation
        if ref.workload != workload and is_bundle_path(ref.path):
            names = ref.path.split("/")
            workload, run, generation = names[0], names[1], int(names[2].removeprefix("gen-"))
        return bundle_path(workload, run, generation, ref)


class Verification(Document):
    """The result of verifying a snapshot, kept in the store so that prune need not read data.

    ``bad`` holds the paths of bundles with a problem, of this workload; no later push uses them.
    """

    format: Literal[1] = 1
    snapshot: SnapshotId
    at: Time
    kind: Literal["quick", "full"]
    ok: bool
    bytes: int
    problems: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """Read the record that lies at ``key``. Raises ValueError unless it belongs there."""
        record = cls.model_validate_json(data)
        workload, _, name = key.removeprefix("verified/").partition("/")
        if record.to_bytes() != data or name != f"{record.snapshot}.json":
            raise ValueError("it is damaged, or the record of another snapshot")
        for path in record.bad:
            if not BUNDLE_PATH.fullmatch(path) or path.split("/")[0] != workload:
                raise ValueError("it names bundles of another workload")
        return record


class Dropped(Document):
    """The digests of bundles whose last snapshot was deleted on purpose, oldest first."""

    format: Literal[1] = 1
    workload: Component
    bundles: tuple[Sha256, ...]

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """Read the list that lies at ``key``. Raises ValueError unless it belongs there."""
        found = cls.model_validate_json(data)
        if found.to_bytes() != data or key != f"dropped/{found.workload}.json":
            raise ValueError("it is damaged, or the list of another workload")
        return found


class Owner(Document):
    """OWNER.json: the project and the stack whose store it is."""

    format: Literal[1] = 1
    project: Annotated[str, Field(pattern=r"^[^/]+$")]
    stack: Annotated[str, Field(pattern=r"^[^/]+$")]

    def __str__(self) -> str:
        return f"{self.project}/{self.stack}"


def bundle_path(workload: str, run: str, generation: int, bundle: Manifest | BundleRef) -> str:
    """The path of a bundle's first copy below ``manifests/``, ``data/`` and ``tombstones/``.

    It uses the run and generation in which the bundle was *made* (its labels), so that a restored
    bundle is the same object in the store. The arguments serve a bundle without these labels: the
    run and the generation of the snapshot. A streamed bundle lies under its label `upload`.
    """
    made_run, made_generation = made_in(bundle.labels, run, generation)
    last = upload_of(bundle.labels) or bundle.digest
    return "/".join((workload, made_run, f"gen-{made_generation:04d}", bundle.name, last))


def shared_path(bundle: Manifest) -> str | None:
    """The path of the first copy of a dataset or model in its store, where it lies under its
    content for all; None for any other bundle."""
    workload = SHARED.get(bundle.kind)
    if workload is None or (bundle.name, bundle.labels.get("run")) != (bundle.content, CONTENT):
        return None
    return bundle_path(workload, CONTENT, 1, bundle)


def is_bundle_path(path: str) -> bool:
    """Whether this is written like the path of a bundle, of any workload."""
    if not BUNDLE_PATH.fullmatch(path):
        return False
    workload, run, _, name, _ = path.split("/")
    return not (component_problem(workload) or component_problem(run) or name_problem(name))


def may_share(path: str, files_at: str) -> bool:
    """Whether the bundle at ``path`` may have its files at ``files_at``: at its own path, or, for
    datasets and models and what has their content, at another bundle's."""
    if path == files_at:
        return True
    shared = {path.partition("/")[0], files_at.partition("/")[0]} & set(SHARED.values())
    return bool(shared) and is_bundle_path(files_at)


def is_copy(path: str, base: str) -> bool:
    """Whether ``path`` is that of the first copy of a bundle (``base``) or of a later one."""
    return path.startswith(base) and _COPY.fullmatch(path[len(base) :]) is not None


def digest_of(path: str) -> str:
    """The digest in the path of a bundle; of a streamed one, what stands for it."""
    return path.rpartition("/")[2][:64]


def _id_begins(sequence: int, created: datetime) -> str:
    return f"{sequence:010d}-{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-"


def _short(value: object) -> str:
    """A value from a document as it can be shown in one line."""
    text = value if isinstance(value, str) else str(value)
    return printable(text if len(text) <= 300 else f"{text[:300]}…")


def _first_problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return "it is not JSON, or cut off"
    return "; ".join(
        _short(f"{'.'.join(map(str, problem['loc'])) or 'document'}: {problem['msg']}")
        for problem in found[:5]
    )

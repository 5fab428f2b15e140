"""Add a folder to the store as a version of a dataset or model.

The folder is hashed first. Then it is known whether the store has its content already, as a
dataset, a model or a checkpoint: that is never stored twice, and the version uses the files that
are there. Otherwise it is copied as a push copies, and hashed again on its way. A folder in which
something changes meanwhile is refused. The snapshot, which makes the version, is written last: a
kill at any moment leaves a whole version or none.

No two contents ever become the same version. Whoever has written a snapshot looks whether there is
another one of that version, and withdraws its own; of two at once, at least one sees the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from holdfast.assets.folder import Hashed, changed_meanwhile, hash_folder
from holdfast.assets.lineage import of_bundle
from holdfast.assets.versions import VERSION, Version, check_version, versions, workload_of
from holdfast.bundle import Bundle
from holdfast.copies.copying import Copier
from holdfast.copies.shared import find_anywhere, is_whole, paths_below
from holdfast.copies.writing import ATTEMPTS, TooLate, write_snapshot, writing
from holdfast.defaults import GRACE, SHARED
from holdfast.durable import open_regular
from holdfast.errors import (
    CommitRefused,
    HoldfastError,
    InvalidBundle,
    InvalidManifest,
    StoreError,
    UsageError,
)
from holdfast.failpoint import failpoint
from holdfast.labels import UPLOAD, label_problems
from holdfast.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, check_name, printable
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import CONTENT, BundleRef, shared_path
from holdfast.store.snapshot import Catalog

Labels = Mapping[str, str | int]


@dataclass(frozen=True)
class Added:
    """What an add did.

    ``created``: the version is new; else it was there with the same content. ``read`` bytes were
    hashed, ``copied_bytes`` of ``copied_files`` were copied; of what was there before, none.
    """

    version: Version
    created: bool
    files: int
    read: int
    copied_files: int
    copied_bytes: int


class VersionTaken(HoldfastError):
    """The version exists with other content."""


def add(
    catalog: Catalog,
    kind: str,
    folder: Path,
    name: str,
    version: str,
    *,
    labels: Labels | None = None,
    rehash: bool = False,
    copy: bool = False,
    grace: timedelta = GRACE,
    patience: float = 10.0,
    progress: Progress = SILENT,
) -> Added:
    """Make a version of a dataset or model from a folder; the same again changes nothing.

    Args:
        kind: ``dataset`` or ``model``.
        folder: nothing may write to it meanwhile. A bundle, such as a checkpoint, is checked
            against its manifest, and its labels become the version's lineage.
        labels: of the version, beside those of the lineage.
        rehash: read all files, also those that look unchanged since they were last hashed.
        copy: use no files of another workload, but copy them: for those who may not read these.

    Raises:
        VersionTaken: there is such a version, with other content.
        CommitRefused: the folder cannot become a bundle, or changed meanwhile.
        OwnerMismatch: the store has another owner.
    """
    workload = workload_of(kind)
    check_name(name, "name")
    check_version(version)
    given = dict(labels or {})
    if problems := [*label_problems(given), *_reserved(given)]:
        raise UsageError("; ".join(problems))
    catalog.check_owner()
    manifest = _manifest_in(folder)
    hashed = hash_folder(folder, rehash=rehash, progress=progress)
    if manifest is not None:
        _check(hashed, manifest)
    made = _manifest(kind, hashed, manifest)
    marks = {**(of_bundle(manifest) if manifest else {}), **given, VERSION: version}
    copier = Copier(catalog, progress, f"add {name}:{version}")
    adding = _Adding(
        catalog, workload, kind, name, version, made, marks, hashed, copier, grace, copy
    )
    with writing(catalog, workload, patience):
        found, created = adding.run()
    return Added(found, created, len(hashed.entries), hashed.read, copier.files, copier.bytes)


@dataclass(frozen=True)
class _Adding:
    catalog: Catalog
    workload: str
    kind: str
    name: str
    version: str
    manifest: Manifest
    labels: Labels
    hashed: Hashed
    copier: Copier
    grace: timedelta
    copy: bool

    def run(self) -> tuple[Version, bool]:
        bad = self.catalog.known_bad(self.workload)
        for _ in range(ATTEMPTS):
            if there := self._there(bad):
                return there, False
            try:
                return self._write(bad), True
            except TooLate as error:
                bad |= error.paths
                self.copier.progress.note(f"{self.name}: {error}; starting again")
        raise StoreError(
            f"{self.kind} {self.name} could not be added within half of the grace period"
            f" ({self.grace / 2}) in {ATTEMPTS} attempts: raise --grace here and for prune"
        )

    def _same(self) -> list[Version]:
        """The snapshots of this very version, the oldest first."""
        note = self.copier.progress
        found = versions(self.catalog, self.kind, self.name, progress=note)
        return [one for one in found if one.version == self.version][::-1]

    def _there(self, bad: set[str]) -> Version | None:
        """The version, if it is there with this content; raises VersionTaken if with another."""
        for found in self._same():
            if found.ref.content != self.manifest.content:
                raise VersionTaken(
                    f"{self.kind} {found} exists with other content ({found.ref.content[:12]}…, the"
                    f" folder has {self.manifest.content[:12]}…): a version never changes; add it"
                    " as another version"
                )
            if found.ref.path not in bad:
                return found
        return None

    def _write(self, bad: set[str]) -> Version:
        began = self.catalog.store.now()
        ref = self._known(bad) or self._copy(bad)
        if changes := self.hashed.changes():
            raise changed_meanwhile(self.hashed.root, changes)
        snapshot = write_snapshot(
            self.catalog,
            self.workload,
            self.name,
            1,
            [ref],
            began=began,
            labels=self.labels,
            grace=self.grace,
            looked=[ref.path],
        )
        mine = Version(snapshot)
        for other in self._same():
            if other.snapshot.id == snapshot.id or other.ref.path in bad:
                continue
            differs = other.ref.content != ref.content
            if differs or other.snapshot.sequence < snapshot.sequence:
                self.catalog.remove(self.workload, snapshot.id)
                if not differs:
                    return other
                raise VersionTaken(
                    f"{self.kind} {mine} was added with other content at the same time: see which"
                    f" is there (`holdfast show {mine} --kind {self.kind}`) and add again"
                )
        failpoint("add.done")
        return mine

    def _known(self, bad: set[str]) -> BundleRef | None:
        """The bundle, if the store has one that says as much: whatever name it was added by."""
        parent = f"{self.workload}/{CONTENT}/gen-0001/{self.manifest.content}"
        dead = paths_below(self.catalog.store, "tombstones", parent) | bad
        known: list[tuple[str, Manifest]] = []
        for path in sorted(paths_below(self.catalog.store, "manifests", parent) - dead):
            try:
                manifest = Manifest.parse(self.catalog.store.get(f"manifests/{path}.json"))
            except (InvalidManifest, StoreError):
                continue
            if not self.manifest.labels.items() <= manifest.labels.items():
                continue
            if manifest.content == self.manifest.content:
                if is_whole(self.catalog.store, path, manifest):
                    return BundleRef.at(path, manifest)
                known.append((path, manifest))
        if known and (files_at := self._find(self.manifest, bad)):
            return BundleRef.at(*known[0], files_at)
        return None

    def _copy(self, bad: set[str]) -> BundleRef:
        base = shared_path(self.manifest)
        assert base is not None
        try:
            return self.copier.copy(Bundle(self.hashed.root, self.manifest), base, bad, self._find)
        except InvalidBundle as error:
            raise changed_meanwhile(self.hashed.root, list(error.problems)) from error

    def _find(self, manifest: Manifest, bad: set[str]) -> str | None:
        """The files, wherever in the store they are."""
        found = find_anywhere(self.catalog, manifest, bad)
        return None if self.copy and found and not _is_shared(found) else found


def _is_shared(path: str) -> bool:
    return path.partition("/")[0] in SHARED.values()


def _manifest(kind: str, hashed: Hashed, of: Manifest | None) -> Manifest:
    """The manifest of the content. It is the same for the same files each time, so that an add goes
    on where a killed one stopped: it was ``created`` when the latest file was written."""
    newest = datetime.fromtimestamp(max(0, hashed.newest), UTC)
    created = of.created if of else min(newest, datetime.now(UTC))
    try:
        draft = Manifest.build(kind, "draft", hashed.entries, {}, created)
        labels = {**_kept_labels(of), "run": CONTENT}
        made = Manifest.build(kind, draft.content, hashed.entries, labels, created)
    except InvalidManifest as error:
        raise CommitRefused([str(error)]) from error
    if len(made.to_bytes()) > MAX_MANIFEST_BYTES:
        raise CommitRefused(
            [
                f"its manifest would be larger than {MAX_MANIFEST_BYTES >> 20} MiB: pack small"
                " files into archives"
            ]
        )
    return made


def _kept_labels(of: Manifest | None) -> dict[str, str | int]:
    """What a bundle says of its content, such as the shape of a model: all but its labels that say
    where among other bundles it belongs."""
    placed = ("run", "generation", "step", "world_size", UPLOAD)
    return {key: value for key, value in of.labels.items() if key not in placed} if of else {}


def _manifest_in(folder: Path) -> Manifest | None:
    """The manifest of a folder that is a bundle; None for any other folder."""
    try:
        with open_regular(folder / MANIFEST) as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UsageError(f"'{folder}' is not a directory") from None
    try:
        return Manifest.parse(data)
    except InvalidManifest as error:
        raise InvalidBundle(folder, [f"{MANIFEST}: {error}"]) from error


def _check(hashed: Hashed, manifest: Manifest) -> None:
    """Refuse a bundle that is not what its manifest says."""
    here = {entry.path: entry for entry in hashed.entries}
    said = {entry.path: entry for entry in manifest.files}
    problems = [
        *(f"{printable(path)}: is missing" for path in said if path not in here),
        *(f"{printable(path)}: is not in the manifest" for path in here if path not in said),
        *(
            f"{printable(path)}: has other bytes than its SHA-256 says"
            for path, entry in said.items()
            if path in here and here[path] != entry
        ),
    ]
    if problems:
        raise InvalidBundle(hashed.root, problems)


def _reserved(labels: Labels) -> list[str]:
    if VERSION in labels:
        return ["invalid label version: it is --version; leave it out"]
    return []

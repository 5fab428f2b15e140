"""Make one snapshot of a pipeline: its database, its artifacts, and what they refer to.

The database first, then the artifacts. A tracking server writes an artifact before the row that
needs it, so a dump never mentions a file that is not there when the files are listed afterwards:
no reference dangles. The price is that a file which was rewritten meanwhile may be newer than the
dump; the list names each.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from holdfast.copies.streamed import StreamedBundle
from holdfast.copies.transfer import Cancelled, each_file
from holdfast.copies.writing import ATTEMPTS, TooLate, write_snapshot, writing
from holdfast.defaults import GRACE
from holdfast.errors import HoldfastError, Mismatch, NoSnapshot, StoreError, UsageError
from holdfast.failpoint import failpoint
from holdfast.manifest import check_name
from holdfast.pipeline import artifact_list, programs, versions
from holdfast.pipeline.artifact_list import ArtifactList, Entry
from holdfast.pipeline.artifacts import Artifact, Artifacts, Found, Vanished
from holdfast.pipeline.contents import Contents, DumpReader
from holdfast.pipeline.database import Database
from holdfast.pipeline.references import References, check_references
from holdfast.pipeline.state import ARTIFACTS, DATABASE, DATASETS, DUMP, MODELS, WORKLOAD, State
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.snapshot import Catalog
from holdfast.text import plural

#: files of one bundle: the size of a manifest is limited
FILES_IN_BUNDLE = 100_000
#: so many bundles of artifacts may a snapshot name; beyond, the smallest are copied anew, as one
MOST_BUNDLES = 50
#: a file that changes while it is copied is copied again so often, and then taken as it is
TRIES = 3
_GENERATION = 1


class NoArtifacts(HoldfastError):
    """The artifacts are not where they were."""


@dataclass(frozen=True)
class PipelineReport:
    """What a push did. Sizes are in bytes."""

    snapshot: Snapshot
    dump: int
    artifacts: ArtifactList
    copied_files: int
    copied_bytes: int
    references: References

    @property
    def newer(self) -> list[str]:
        return self.artifacts.newer


def push(
    database: Database,
    artifacts: Artifacts,
    catalog: Catalog,
    run: str,
    *,
    workload: str = WORKLOAD,
    grace: timedelta = GRACE,
    patience: float = 10.0,
    progress: Progress = SILENT,
) -> PipelineReport:
    """Copy the database and what is new among the artifacts to the store; write a snapshot.

    Raises:
        DatabaseError: the database cannot be dumped. Nothing is in the store that counts.
        NoArtifacts: there are none, where the snapshot before had some.
        StoreError: the store, or the bucket of the artifacts, refused or failed.
    """
    check_name(workload)
    check_name(run, "run")
    _refuse_overlap(artifacts.url, catalog.store.url)
    with writing(catalog, workload, patience):
        for _ in range(ATTEMPTS):
            try:
                return _Push(database, artifacts, catalog, workload, run, grace, progress).run()
            except TooLate as error:
                progress.note(f"{error}; starting again")
    raise StoreError(
        f"the pipeline could not be pushed within half of the grace period ({grace / 2}) in"
        f" {ATTEMPTS} attempts: raise --grace here and for prune"
    )


def _refuse_overlap(artifacts: str, store: str) -> None:
    place = f"{artifacts.removeprefix('file://').rstrip('/')}/"
    other = f"{store.removeprefix('file://').rstrip('/')}/"
    if place.startswith(other) or other.startswith(place):
        raise UsageError(
            f"the artifacts '{artifacts}' and the store '{store}' lie in one another: a backup"
            " would copy itself; give each a place of its own"
        )


@dataclass
class _Known:
    """What the snapshot before has: its list, and the bundles that may still be used."""

    entries: dict[str, Entry] = field(default_factory=dict)
    bundles: dict[str, BundleRef] = field(default_factory=dict)


class _Push:
    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        catalog: Catalog,
        workload: str,
        run: str,
        grace: timedelta,
        progress: Progress,
    ) -> None:
        self.database, self.artifacts, self.catalog = database, artifacts, catalog
        self.workload, self.run_name, self.grace = workload, run, grace
        self.progress = progress
        self.stamp = ""
        self.known = _Known()
        self.list = ArtifactList(place=artifacts.url)
        self.foreign: list[BundleRef] = []
        self.dying: dict[str, set[str]] = {}
        self.new: dict[str, StreamedBundle] = {}
        self.copied_files = self.copied_bytes = 0
        self._counting = threading.Lock()

    def run(self) -> PipelineReport:
        began = self.catalog.store.now()
        self.stamp = f"{began:%Y%m%dt%H%M%Sz}-{secrets.token_hex(3)}"
        self.known = self._before()
        before = self.artifacts.list()
        dump, contents = self._dump()
        failpoint("pipeline.dumped")
        found = self.artifacts.list()
        self._copy(before, found)
        self.foreign = self._foreign()
        references = self._references(contents)
        self._refuse_wrong_place(references)
        refs = [dump, self._write_list(), *self._bundles(), *self.foreign]
        snapshot = self._snapshot(refs, began, contents)
        return PipelineReport(
            snapshot, dump.size, self.list, self.copied_files, self.copied_bytes, references
        )

    # The database -----------------------------------------------------------------------------

    def _dump(self) -> tuple[BundleRef, Contents]:
        """Stream the dump to the store, and read on the way what it mentions."""
        major = self.database.major()
        reader = DumpReader(programs.major(programs.find("pg_dump", major)))
        try:
            bundle = self._bundle(DATABASE, f"{DATABASE}-{self.stamp}")
            self.progress.start("dump the database", 1, 0)
            bundle.put(DUMP, reader.through(self.database.dump(major)))
            contents = reader.finish()
        finally:
            reader.close()
        return bundle.commit(), contents

    # The artifacts ----------------------------------------------------------------------------

    def _before(self) -> _Known:
        """What the newest snapshot of this run has that can be used again."""
        try:
            snapshot = self.catalog.choose(self.workload, self.run_name, "latest").snapshot
            state = State.of(snapshot)
            entries = state.list(self.catalog).entries
        except NoSnapshot:
            return _Known()
        except Mismatch as error:
            self.progress.note(f"copying everything anew: {error}")
            return _Known()
        unusable = self.catalog.known_bad(self.workload) | self.catalog.dying(self.workload)
        bundles = {name: ref for name, ref in state.artifacts.items() if ref.path not in unusable}
        return _Known(entries, bundles)

    def _copy(self, before: Found, found: Found) -> None:
        """Put every file into the list: from the snapshot before, or copied now."""
        self.list.skipped = found.skipped
        for path, reason in found.skipped.items():
            self.progress.note(f"skipped artifact {path}: {reason}")
        rewritten = {
            path
            for path, now in found.files.items()
            if (then := before.files.get(path)) and not then.same(now)
        }
        merged = self._merged(found)
        todo = []
        for path, artifact in found.files.items():
            entry = self._reusable(artifact)
            if entry is None or entry.bundle in merged:
                todo.append(artifact)
            else:
                newer = path in rewritten
                self.list.entries[path] = Entry(
                    path, entry.size, entry.sha256, entry.bundle, entry.file, entry.tag, newer
                )
        size = sum(artifact.size for artifact in todo)
        self.progress.start("copy artifacts", len(todo), size)
        numbered = list(enumerate(todo))
        for at in range(0, len(numbered), FILES_IN_BUNDLE):
            name = f"{ARTIFACTS}-{self.stamp}-{at // FILES_IN_BUNDLE + 1}"
            self.new[name] = self._bundle(ARTIFACTS, name)

        def work(item: tuple[int, Artifact], stop: threading.Event) -> None:
            number, artifact = item
            bundle = f"{ARTIFACTS}-{self.stamp}-{number // FILES_IN_BUNDLE + 1}"
            self._one(artifact, bundle, f"{number + 1:08d}", before, rewritten, stop)

        each_file(work, numbered, min(self.artifacts.parallel, self.catalog.store.parallel))

    def _reusable(self, artifact: Artifact) -> Entry | None:
        """The file's entry in the snapshot before, if it is certain that nobody wrote to it."""
        entry = self.known.entries.get(artifact.path)
        if entry is None or entry.bundle not in self.known.bundles or not entry.tag:
            return None
        return entry if (entry.size, entry.tag) == (artifact.size, artifact.tag) else None

    def _merged(self, found: Found) -> set[str]:
        """The bundles that are given up, so that their files are copied again into a new one: what
        is mostly of files that are gone, and the smallest ones where there are too many."""
        live: Counter[str] = Counter()
        for path, entry in self.known.entries.items():
            if path in found.files:
                live[entry.bundle] += max(1, entry.size)
        used = [name for name in self.known.bundles if live[name]]
        given_up = {name for name in used if live[name] * 2 < self.known.bundles[name].size}
        rest = sorted((name for name in used if name not in given_up), key=lambda name: live[name])
        if len(rest) >= MOST_BUNDLES:
            given_up.update(rest[: len(rest) - MOST_BUNDLES // 2])
        return given_up

    def _one(
        self,
        artifact: Artifact,
        bundle: str,
        number: str,
        before: Found,
        rewritten: set[str],
        stop: threading.Event,
    ) -> None:
        """Copy one file; again if it changed meanwhile, since half of it may be of another time."""
        path, newer = artifact.path, artifact.path in rewritten
        for attempt in range(1, TRIES + 1):
            file = number if attempt == 1 else f"{number}-{attempt}"
            try:
                copied = self.new[bundle].put(file, self._chunks(path, stop), artifact.size)
            except Vanished:
                return
            failpoint("pipeline.artifact-copied")
            now = self.artifacts.find(path)
            if now is None or (now.same(artifact) and now.size == copied.size):
                break
            newer = newer or path in before.files
            artifact = now
        else:
            newer, now = True, None
            self.progress.note(f"artifact {path} was written to all the time: taken as it was")
        tag = now.tag if now is not None and now.settled else ""
        entry = Entry(path, copied.size, copied.sha256, bundle, file, tag, newer)
        with self._counting:
            self.list.entries[path] = entry
            self.copied_files += 1
            self.copied_bytes += copied.size

    def _chunks(self, path: str, stop: threading.Event) -> Iterator[bytes | memoryview]:
        for chunk in self.artifacts.read(path):
            if stop.is_set():
                raise Cancelled
            yield chunk

    def _write_list(self) -> BundleRef:
        bundle = self._bundle(artifact_list.KIND, f"{artifact_list.KIND}-{self.stamp}")
        bundle.put(artifact_list.FILE, self.list.to_lines())
        return bundle.commit()

    def _bundles(self) -> list[BundleRef]:
        """The bundles of artifacts that the list uses, new ones and those of earlier snapshots."""
        used = {entry.bundle for entry in self.list.entries.values()}
        made = [bundle.commit() for name, bundle in self.new.items() if name in used]
        return [ref for name, ref in self.known.bundles.items() if name in used] + made

    def _bundle(self, kind: str, name: str) -> StreamedBundle:
        return StreamedBundle(
            self.catalog,
            self.workload,
            self.run_name,
            _GENERATION,
            kind,
            name,
            progress=self.progress,
        )

    # What they refer to -----------------------------------------------------------------------

    def _references(self, contents: Contents) -> References:
        datasets = {ref.content for ref in self.foreign if ref.workload == DATASETS}
        references = check_references(contents, self.list.holds, self.artifacts.url, datasets)
        self.list.missing = references.problems
        self.list.counts = {**references.counts, "artifacts": len(self.list.entries)}
        for what, reason in sorted(references.problems.items()):
            self.progress.note(f"missing already: {what} {reason}")
        return references

    def _refuse_wrong_place(self, references: References) -> None:
        """No files at all, where there were some and the database needs some: another directory, or
        a volume that is not mounted. A snapshot would call everything missing, once and for all."""
        if self.known.entries and references.problems and not self.list.entries:
            raise NoArtifacts(
                f"artifacts '{self.artifacts.url}' are empty, but the last snapshot has"
                f" {plural(len(self.known.entries), 'file')} and the database needs some: mount the"
                " right volume, or restore them with `holdfast pipeline pull`"
            )

    def _foreign(self) -> list[BundleRef]:
        """Every version of every dataset and model, and each training's newest checkpoint."""
        refs: list[BundleRef] = []
        found = self.catalog.store.list("snapshots/")
        for workload in sorted({info.key.split("/")[1] for info in found} - {self.workload}):
            refs += self._sound(workload, every=workload in (DATASETS, MODELS))
        return list({ref.path: ref for ref in refs}.values())

    def _sound(self, workload: str, *, every: bool) -> list[BundleRef]:
        """The bundles of a workload's snapshots that nothing is known against: of the newest one,
        or of every one."""
        avoid = self.catalog.known_bad(workload)
        found: list[BundleRef] = []
        for snapshot in self.catalog.newest_first(workload):
            paths = {path for ref in snapshot.bundles for path in ref.paths}
            if any(path in avoid or path in self._dying(path) for path in paths):
                continue
            found += [ref for ref in snapshot.bundles if ref.workload == workload]
            if not every:
                break
        return found

    def _dying(self, path: str) -> set[str]:
        """The paths of the same workload that a prune has marked."""
        workload = path.partition("/")[0]
        if workload not in self.dying:
            self.dying[workload] = self.catalog.dying(workload)
        return self.dying[workload]

    # The snapshot -----------------------------------------------------------------------------

    def _snapshot(self, refs: list[BundleRef], began: datetime, contents: Contents) -> Snapshot:
        return write_snapshot(
            self.catalog,
            self.workload,
            self.run_name,
            _GENERATION,
            refs,
            began=began,
            labels={
                **versions.labels(contents, len(self.list.missing)),
                "artifacts": len(self.list.entries),
            },
            grace=self.grace,
        )

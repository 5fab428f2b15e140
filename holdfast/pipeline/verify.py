"""Check a snapshot of a pipeline: its bytes in the store, and every reference of its database."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from dataclasses import dataclass, field

from holdfast.copies.transfer import each_file
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import Mismatch
from holdfast.manifest import Manifest
from holdfast.pipeline.artifact_list import ArtifactList, Entry
from holdfast.pipeline.artifacts import Artifacts, Vanished
from holdfast.pipeline.contents import TABLES, Contents, from_text
from holdfast.pipeline.database import Database
from holdfast.pipeline.references import check_references, differences
from holdfast.pipeline.state import DATASETS, State
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot, Verification
from holdfast.store.snapshot import Catalog


@dataclass
class Examination:
    """What was checked, and what is wrong.

    ``counts`` are numbers by what it is. ``problems`` name everything that is wrong now and was not
    ``missing`` already when the snapshot was made. ``bytes`` were read; ``bad`` bundles found.
    """

    snapshot: Snapshot
    counts: dict[str, int] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    newer: list[str] = field(default_factory=list)
    bytes: int = 0
    bad: tuple[str, ...] = ()
    contents: Contents = field(default_factory=Contents)
    listed: ArtifactList = field(default_factory=ArtifactList)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, problems: dict[str, str]) -> None:
        """Problems, without those that were known when the snapshot was made."""
        self.problems |= {
            what: reason for what, reason in problems.items() if what not in self.missing
        }


def verify(
    catalog: Catalog,
    snapshot: Snapshot,
    *,
    progress: Progress = SILENT,
) -> Examination:
    """Read every byte of the dump, the list and the artifacts, then follow every reference.

    Of the datasets, models and checkpoints that the snapshot names, existence and sizes are
    checked; ``holdfast verify`` reads their bytes too. `record` tells the store.
    """
    state = State.of(snapshot)
    found = Examination(snapshot)
    own = snapshot.model_copy(update={"bundles": tuple(state.own)})
    result = verify_snapshot(catalog, own, record=False, progress=progress)
    found.bytes = result.bytes
    found.problems = dict.fromkeys(result.problems, "")
    _check_foreign(catalog, snapshot, found, progress)
    if result.ok:
        try:
            _check_contents(catalog, state, found)
        except Mismatch as error:
            found.problems[str(error)] = ""
    found.bad = result.bad
    return found


def _check_foreign(
    catalog: Catalog, snapshot: Snapshot, found: Examination, progress: Progress
) -> None:
    if not snapshot.foreign:
        return
    others = snapshot.model_copy(update={"bundles": snapshot.foreign})
    result = verify_snapshot(catalog, others, quick=True, record=False, progress=progress)
    found.problems |= dict.fromkeys(result.problems, "")
    for kind in sorted({ref.kind for ref in snapshot.foreign}):
        found.counts[f"{kind} bundles"] = sum(ref.kind == kind for ref in snapshot.foreign)


def _check_contents(catalog: Catalog, state: State, found: Examination) -> None:
    found.listed = state.list(catalog)
    found.missing, found.newer = found.listed.missing, found.listed.newer
    _check_list(catalog, state, found)
    found.contents = state.contents(catalog)
    references = check_references(
        found.contents, found.listed.holds, found.listed.place, state.datasets()
    )
    found.counts = {
        **references.counts,
        "artifact files": len(found.listed.entries),
        **found.counts,
    }
    found.add(references.problems)


def _check_list(catalog: Catalog, state: State, found: Examination) -> None:
    """What the list says of each file must be what its bundle's manifest says, which was read."""
    files = {name: _files(catalog.manifest(ref)) for name, ref in state.artifacts.items()}
    for entry in found.listed.entries.values():
        if files[entry.bundle].get(entry.file) != (entry.size, entry.sha256):
            found.problems[f"artifact {entry.path}"] = (
                f"the list and file {entry.file} of bundle {entry.bundle} differ"
            )


def _files(manifest: Manifest) -> dict[str, tuple[int, str]]:
    return {entry.path: (entry.size, entry.sha256) for entry in manifest.files}


def record(catalog: Catalog, found: Examination) -> None:
    """Keep the result for prune, push and the choice of a snapshot: a dangling reference counts as
    much as a flipped bit."""
    named = [f"{what} {reason}".strip() for what, reason in found.problems.items()]
    result = Verification(
        snapshot=found.snapshot.id,
        at=catalog.store.now(),
        kind="full",
        ok=found.ok,
        bytes=found.bytes,
        problems=tuple(named[:100]),
        bad=found.bad,
    )
    catalog.record(found.snapshot.workload, result)


def check(
    database: Database,
    artifacts: Artifacts,
    catalog: Catalog,
    snapshot: Snapshot,
    *,
    progress: Progress = SILENT,
) -> Examination:
    """Compare the live database and artifacts with a snapshot: is all that it holds there?

    Every run, model, version and alias of the dump, every artifact of the list by its bytes, and
    every reference of the live database. What was added since is no problem; what was deleted or
    changed on purpose is named like what was lost.
    """
    state = State.of(snapshot)
    found = Examination(snapshot)
    found.listed = state.list(catalog)
    found.missing, found.newer = found.listed.missing, found.listed.newer
    found.contents = state.contents(catalog)
    live = from_text(database.data_only(TABLES, database.major()))
    there = ArtifactList()
    for path, artifact in artifacts.list().files.items():
        there.entries[path] = Entry(path, artifact.size, "", "", "")
    references = check_references(
        live, there.holds, artifacts.url, _present_datasets(catalog, state)
    )
    found.add(differences(found.contents, live))
    found.add(references.problems)
    found.add(_compare(artifacts, found.listed.entries.values(), found, progress))
    found.counts = {**references.counts, "artifact files": len(found.listed.entries)}
    return found


def _present_datasets(catalog: Catalog, state: State) -> set[str]:
    """The contents of the datasets that are in the store: the snapshot's, and later ones."""
    refs: list[BundleRef] = [*state.snapshot.foreign]
    for snapshot in catalog.newest_first(DATASETS):
        refs += snapshot.bundles
    return {ref.content for ref in refs if ref.workload == DATASETS}


def _compare(
    artifacts: Artifacts, entries: Collection[Entry], found: Examination, progress: Progress
) -> dict[str, str]:
    """Which of these artifacts are not there with these very bytes."""
    wrong: dict[str, str] = {}
    counting = threading.Lock()
    progress.start("check artifacts", len(entries), sum(entry.size for entry in entries))

    def one(entry: Entry, stop: threading.Event) -> None:
        problem = problem_of(artifacts, entry, progress)
        with counting:
            found.bytes += 0 if problem else entry.size
            if problem:
                wrong[f"artifact {entry.path}"] = problem
        progress.file(entry.path)

    each_file(one, list(entries), artifacts.parallel)
    return dict(sorted(wrong.items()))


def problem_of(artifacts: Artifacts, entry: Entry, progress: Progress = SILENT) -> str:
    """Why an artifact is not there with the bytes of the list; "" if it is."""
    there = artifacts.find(entry.path)
    if there is None:
        return "is missing"
    if there.size != entry.size:
        return f"has {there.size} bytes instead of {entry.size}"
    digest = hashlib.sha256()
    try:
        for chunk in artifacts.read(entry.path):
            digest.update(chunk)
            progress.advance(len(chunk))
    except Vanished:
        return "is missing"
    return "" if digest.hexdigest() == entry.sha256 else "has other bytes than its SHA-256 says"

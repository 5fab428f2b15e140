"""A snapshot of a pipeline in the store: which of its bundles is what, and how to read them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.copies.transfer import read_remote
from holdfast.errors import Mismatch
from holdfast.manifest import FileEntry
from holdfast.pipeline import artifact_list
from holdfast.pipeline.artifact_list import ArtifactList, Entry
from holdfast.pipeline.contents import Contents, read_dump
from holdfast.pipeline.versions import client_for
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.snapshot import Catalog

#: kind and file of the bundle that holds the dump
DATABASE, DUMP = "database", "database.dump"
#: kind of the bundles that hold the files of artifacts
ARTIFACTS = "artifacts"
#: the workload of these snapshots, and the run where no other is named
WORKLOAD, RUN = "pipeline", "tracking"
#: workloads of the store whose bundles are datasets and models
DATASETS, MODELS = "datasets", "models"


@dataclass(frozen=True)
class State:
    """The bundles of one snapshot by what they are for."""

    snapshot: Snapshot
    database: BundleRef
    listed: BundleRef
    artifacts: dict[str, BundleRef]

    @classmethod
    def of(cls, snapshot: Snapshot) -> State:
        """Raises Mismatch for a snapshot that is not one of a pipeline."""
        own = [ref for ref in snapshot.bundles if ref.workload == snapshot.workload]
        found: dict[str, list[BundleRef]] = {}
        for ref in own:
            found.setdefault(ref.kind, []).append(ref)
        databases, lists = found.get(DATABASE, []), found.get(artifact_list.KIND, [])
        if len(databases) != 1 or len(lists) != 1:
            raise Mismatch(
                f"snapshot {snapshot.id} is not one of a pipeline: it has {len(databases)}"
                f" databases and {len(lists)} lists of artifacts, expected one of each"
            )
        artifacts = {ref.name: ref for ref in found.get(ARTIFACTS, [])}
        return cls(snapshot, databases[0], lists[0], artifacts)

    @property
    def own(self) -> list[BundleRef]:
        """Everything but the datasets, models and checkpoints that it names."""
        return [self.database, self.listed, *self.artifacts.values()]

    def datasets(self) -> set[str]:
        """The contents of the datasets that it names."""
        return {ref.content for ref in self.snapshot.foreign if ref.workload == DATASETS}

    def list(self, catalog: Catalog) -> ArtifactList:
        """Its list of artifacts, verified against the manifest."""
        chunks = _read(catalog, self.listed, artifact_list.FILE, SILENT)
        found = ArtifactList.parse(chunks)
        for entry in found.entries.values():
            if entry.bundle not in self.artifacts:
                raise Mismatch(
                    f"artifact {entry.path} is said to be in bundle {entry.bundle}, which snapshot"
                    f" {self.snapshot.id} does not name"
                )
        return found

    def dump(self, catalog: Catalog, progress: Progress = SILENT) -> Iterator[bytes | memoryview]:
        """The bytes of the dump; raises Mismatch after the last one if they are not right."""
        return _read(catalog, self.database, DUMP, progress)

    def contents(self, catalog: Catalog) -> Contents:
        """What its database mentions."""
        return read_dump(self.dump(catalog), self.client)

    @property
    def client(self) -> int:
        """The oldest major version of PostgreSQL's client that can read the dump."""
        return client_for(self.snapshot.labels)

    def artifact(
        self, catalog: Catalog, entry: Entry, stop: threading.Event, progress: Progress = SILENT
    ) -> Iterator[bytes | memoryview]:
        """The bytes of an artifact; raises Mismatch if they are not what the list says."""
        file = FileEntry(path=entry.file, size=entry.size, sha256=entry.sha256)
        return read_remote(catalog.store, self.artifacts[entry.bundle], file, progress, stop)


def _read(
    catalog: Catalog, ref: BundleRef, path: str, progress: Progress
) -> Iterator[bytes | memoryview]:
    manifest = catalog.manifest(ref)
    for entry in manifest.files:
        if entry.path == path:
            return read_remote(catalog.store, ref, entry, progress, threading.Event())
    raise Mismatch(f"bundle {ref.name} has no file '{path}'")

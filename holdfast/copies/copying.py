"""Copy one directory of files into a store, as the bundle that a manifest describes."""

from __future__ import annotations

import threading

from holdfast.bundle import Bundle
from holdfast.copies.transfer import Blocks, each_file, read_local
from holdfast.errors import AlreadyExists, Mismatch
from holdfast.failpoint import failpoint
from holdfast.manifest import FileEntry
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, is_copy
from holdfast.store.snapshot import Catalog


class Copier:
    """Copies what is missing, and counts it. ``title`` is what progress calls the copy."""

    def __init__(self, catalog: Catalog, progress: Progress = SILENT, title: str = "") -> None:
        self.store, self.progress, self.title = catalog.store, progress, title
        self.files = self.bytes = 0
        self._counting = threading.Lock()
        self._blocks = Blocks()

    def copy(self, bundle: Bundle, base: str, bad: set[str]) -> BundleRef:
        """Copy what is missing of the bundle to the store, to a path without a tombstone.

        Each file is hashed while it is read. ``bad`` holds paths that count as absent.

        Raises:
            InvalidBundle: a file's bytes differ from the manifest; there is no bundle then.
        """
        path, complete = self.place(base, bad)
        ref = BundleRef.at(path, bundle.manifest)
        if complete:
            return ref
        there = {info.key: info.size for info in self.store.list(ref.data)}
        missing = [e for e in bundle.manifest.files if there.get(ref.key(e)) != e.size]
        size = sum(entry.size for entry in missing)
        self.progress.start(self.title or f"push {bundle.name}", len(missing), size)
        each_file(
            lambda entry, stop: self._send(bundle, ref, entry, stop), missing, self.store.parallel
        )
        return self.commit(ref, bundle)

    def commit(self, ref: BundleRef, bundle: Bundle) -> BundleRef:
        """Write the manifest, after every file."""
        try:
            self.store.put_small(ref.manifest, bundle.manifest.to_bytes(), if_absent=True)
        except AlreadyExists as error:
            raise Mismatch(
                f"store {self.store.url}: '{ref.manifest}' is not the manifest of this bundle:"
                " verify its snapshots"
            ) from error
        failpoint("push.manifest-uploaded")
        return ref

    def place(self, base: str, bad: set[str]) -> tuple[str, bool]:
        """A path for the bundle, and whether a complete copy is there already."""
        parent = base.rsplit("/", 1)[0]
        dead = self.paths("tombstones", parent) | bad
        for path in sorted(self.paths("manifests", parent) - dead):
            if is_copy(path, base):
                return path, True
        path, number = base, 0
        while path in dead:
            number += 1
            path = f"{base}-{number}"
        return path, False

    def paths(self, kind: str, parent: str) -> set[str]:
        """The paths of bundles directly below one, of which there is a manifest or tombstone."""
        found = self.store.list(f"{kind}/{parent}/")
        return {info.key.removeprefix(f"{kind}/").removesuffix(".json") for info in found}

    def _send(
        self, bundle: Bundle, ref: BundleRef, entry: FileEntry, stop: threading.Event
    ) -> None:
        chunks = read_local(bundle, entry, self.progress, stop, self._blocks)
        self.store.put_file(ref.key(entry), chunks, entry.size)
        failpoint("push.file-uploaded")
        self.progress.file(entry.path)
        with self._counting:
            self.files += 1
            self.bytes += entry.size

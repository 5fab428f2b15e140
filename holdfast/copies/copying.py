"""Copy one directory of files into a store, as the bundle that a manifest describes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from holdfast.bundle import Bundle
from holdfast.copies.shared import paths_below
from holdfast.copies.transfer import Blocks, each_file, read_local
from holdfast.errors import AlreadyExists, Mismatch
from holdfast.failpoint import failpoint
from holdfast.manifest import FileEntry, Manifest
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, is_copy
from holdfast.store.snapshot import Catalog

#: from a manifest and paths that count as absent to the path of a bundle with its content
Find = Callable[[Manifest, set[str]], str | None]


class Copier:
    """Copies what is missing, and counts it. ``title`` is what progress calls the copy."""

    def __init__(self, catalog: Catalog, progress: Progress = SILENT, title: str = "") -> None:
        self.store, self.progress, self.title = catalog.store, progress, title
        self.files = self.bytes = 0
        self._counting = threading.Lock()
        self._blocks = Blocks()

    def copy(
        self, bundle: Bundle, base: str, bad: set[str], find: Find = lambda manifest, bad: None
    ) -> BundleRef:
        """Copy what is missing of the bundle to the store, to a path without a tombstone.

        Each file is hashed while it is read.

        Args:
            bad: paths that count as absent.
            find: asked before the first byte is copied for the path of a bundle with the same
                content; nothing is copied then but the manifest.

        Raises:
            InvalidBundle: a file's bytes differ from the manifest; there is no bundle then.
        """
        path, known = self.place(base, bad)
        ref = BundleRef.at(path, bundle.manifest)
        there = {info.key: info.size for info in self.store.list(ref.data)}
        missing = [e for e in bundle.manifest.files if there.get(ref.key(e)) != e.size]
        nothing = len(missing) == len(bundle.manifest.files)
        if nothing and (files_at := find(bundle.manifest, bad)):
            ref, missing = BundleRef.at(path, bundle.manifest, files_at), []
        if known and missing:  # nothing is repaired in place
            return self.copy(bundle, base, bad | {path}, find)
        if known:
            return ref
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
        """A path for the bundle, and whether its manifest is there already."""
        parent = base.rsplit("/", 1)[0]
        dead = paths_below(self.store, "tombstones", parent) | bad
        for path in sorted(paths_below(self.store, "manifests", parent) - dead):
            if is_copy(path, base):
                return path, True
        path, number = base, 0
        while path in dead:
            number += 1
            path = f"{base}-{number}"
        return path, False

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

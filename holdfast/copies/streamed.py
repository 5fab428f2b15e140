"""A bundle that is streamed to a store: its bytes are on no volume, and are hashed on their way.

The place of a bundle in a store ends with its digest, which is known only after its last byte. So a
streamed bundle lies under 64 random digits instead, its label ``upload``: no other bundle is ever
there, and the place is still bound to the manifest.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping

from holdfast.errors import CommitRefused, InvalidManifest, UsageError
from holdfast.failpoint import failpoint
from holdfast.labels import UPLOAD, label_problems
from holdfast.manifest import FileEntry, Manifest, check_name, name_problem, path_problems
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, bundle_path
from holdfast.store.snapshot import Catalog

_NO_HASH = "0" * 64


class StreamedBundle:
    """One bundle in the making; `put` its files, then `commit` it.

        database = StreamedBundle(catalog, "pipeline", "tracking", 1, "database", "dump")
        database.put("database.dump", chunks)
        ref = database.commit()

    Until `commit` has returned, nobody sees a bundle. What is never committed needs no clean-up: a
    prune deletes what it left. Take the store's time before the first `put`, for the ``began`` of
    `holdfast.copies.writing.write_snapshot`.

    Args:
        workload, run, generation: whose it is. The last two become labels, unless ``labels`` has
            others.
        kind, name: of the bundle. No two bundles of a snapshot may have the same name.
    """

    def __init__(
        self,
        catalog: Catalog,
        workload: str,
        run: str,
        generation: int,
        kind: str,
        name: str,
        labels: Mapping[str, str | int] | None = None,
        *,
        progress: Progress = SILENT,
    ) -> None:
        self.labels = {"run": run, "generation": generation, **(labels or {})}
        if problems := label_problems(self.labels):
            raise UsageError("; ".join(problems))
        if problem := name_problem(name):
            raise UsageError(f"invalid bundle name {name!r}: {problem}")
        self.labels[UPLOAD] = secrets.token_hex(32)
        self.kind, self.name = kind, name
        self._catalog, self._store, self._progress = catalog, catalog.store, progress
        self._files: dict[str, FileEntry] = {}
        self._adding = threading.Lock()
        blank = [FileEntry(path="-", size=0, sha256=_NO_HASH)]
        draft = Manifest.build(kind, name, blank, self.labels)  # refuses what no manifest can hold
        #: ``<workload>/<run>/<generation>/<name>/<upload>``: the path of `BundleRef`
        self.path = bundle_path(check_name(workload), run, generation, draft)

    def put(self, path: str, chunks: Iterable[bytes | memoryview], size_hint: int = 0) -> FileEntry:
        """Upload one file of the bundle, hashed on the way; any thread may, several at once.

        Memory is bounded by the store: files wait for each other once it is used up. An exception
        from ``chunks``, also after the last piece, uploads nothing and is raised again.

        Args:
            path: in the bundle, as docs/format.md says; each only once.
            size_hint: about how many bytes will come, where that is known: see `Store.put_stream`.
        """
        if problems := path_problems([path]):
            raise CommitRefused(problems)
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes | memoryview]:
            for chunk in chunks:
                digest.update(chunk)
                self._progress.advance(len(chunk))
                yield chunk

        size = self._store.put_stream(f"data/{self.path}/{path}", hashed(), size_hint)
        failpoint("stream.file-uploaded")
        self._progress.file(path)
        return self.add(FileEntry(path=path, size=size, sha256=digest.hexdigest()))

    def add(self, entry: FileEntry) -> FileEntry:
        """Count a file that lies below ``data/<path of the bundle>/`` already: copied by the store
        itself, say. The caller answers for its hash."""
        with self._adding:
            if entry.path in self._files:
                raise CommitRefused([f"{entry.path}: was put twice"])
            self._files[entry.path] = entry
        return entry

    def commit(self) -> BundleRef:
        """Write the manifest, last, and with it make the bundle. Without a file it is refused.

        Raises CommitRefused for paths that no bundle can have together.
        """
        try:
            manifest = Manifest.build(self.kind, self.name, self._files.values(), self.labels)
        except InvalidManifest as error:
            raise CommitRefused([str(error)]) from error
        ref = BundleRef.at(self.path, manifest)
        self._store.put_small(ref.manifest, manifest.to_bytes(), if_absent=True)
        failpoint("stream.manifest-uploaded")
        return ref

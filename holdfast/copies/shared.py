"""Find content that a store has already, so that no dataset or model is ever stored twice.

What is found is the path of a bundle whose files are whole: those of one that is about to be
written may be the same (`BundleRef.files_at`). Nothing that has a tombstone, or that a verification
found bad, is found. A reference keeps the files of another workload, as it keeps its bundles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from holdfast.defaults import SHARED
from holdfast.manifest import Manifest
from holdfast.store.base import Store
from holdfast.store.documents import CONTENT, BundleRef, Snapshot
from holdfast.store.snapshot import Catalog


def find_shared(catalog: Catalog, manifest: Manifest, avoid: Collection[str] = ()) -> str | None:
    """The path of the files of a dataset or model with this content, by one list for each kind.

    Only where there is one whose files are another bundle's, their snapshots are read.
    """
    for workload in SHARED.values():
        parent = f"{workload}/{CONTENT}/gen-0001/{manifest.content}"
        known = paths_below(catalog.store, "manifests", parent)
        if not known:
            continue
        usable = known - paths_below(catalog.store, "tombstones", parent) - set(avoid)
        usable -= catalog.known_bad(workload)
        for path in sorted(usable):
            if is_whole(catalog.store, path, manifest):
                return path
        if usable and (found := find_named(catalog, [workload], manifest, avoid)):
            return found
    return None


def find_anywhere(catalog: Catalog, manifest: Manifest, avoid: Collection[str] = ()) -> str | None:
    """The path of the files of any bundle with this content that a snapshot names, such as a
    checkpoint. Reads every snapshot of the store, as its prunes do."""
    if found := find_shared(catalog, manifest, avoid):
        return found
    keys = (info.key.split("/") for info in catalog.store.list("snapshots/"))
    workloads = {parts[1] for parts in keys if len(parts) == 3}
    return find_named(catalog, sorted(workloads), manifest, avoid)


def find_named(
    catalog: Catalog, workloads: Iterable[str], manifest: Manifest, avoid: Collection[str] = ()
) -> str | None:
    """The path of the files of a bundle with this content that a snapshot of these workloads names.

    Snapshots that cannot be read are passed over: at worst something is stored twice.
    """
    refs: list[BundleRef] = []
    bad = set(avoid)
    for workload in workloads:
        found = [
            ref
            for _, snapshot in catalog.scan(workload, list(catalog.written(workload)))
            if isinstance(snapshot, Snapshot)
            for ref in snapshot.bundles
            if ref.content == manifest.content
        ]
        if found:
            bad |= catalog.known_bad(workload)
            refs += found
    bad |= {ref.files_at for ref in refs if ref.path in bad}
    for path in sorted({ref.files_at for ref in refs} - bad):
        parent = path.rpartition("/")[0]
        dying = paths_below(catalog.store, "tombstones", parent)
        if path not in dying and is_whole(catalog.store, path, manifest):
            return path
    return None


def is_whole(store: Store, path: str, manifest: Manifest) -> bool:
    """Whether every file of the manifest is there in its size, as the data of a bundle's path."""
    there = {info.key: info.size for info in store.list(f"data/{path}")}
    return all(there.get(f"data/{path}/{e.path}") == e.size for e in manifest.files)


def paths_below(store: Store, place: str, parent: str) -> set[str]:
    """The paths of bundles directly below one that have an object in ``manifests`` or
    ``tombstones``."""
    found = store.list(f"{place}/{parent}/")
    return {info.key.removeprefix(f"{place}/").removesuffix(".json") for info in found}

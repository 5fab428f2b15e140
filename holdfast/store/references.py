"""References: what keeps a bundle that a snapshot of another workload names.

``references/<workload>/<ID>/<path of the bundle>.json``: workload and ID are the snapshot's.
A prune knows the snapshots of its own workload only. So whoever names a bundle of another workload,
or its files, writes a reference first, then the snapshot; and a reference goes only after its
snapshot. What counts is the key: a prune lists the references, and reads none.
"""

from __future__ import annotations

from datetime import datetime

from holdfast.durable import in_threads
from holdfast.manifest import canonical
from holdfast.store.base import Store
from holdfast.store.documents import BUNDLE_PATH, SNAPSHOT_ID, Snapshot
from holdfast.store.records import READERS


def write(store: Store, snapshot: Snapshot) -> None:
    """Keep the bundles of other workloads that this snapshot is about to name."""

    def put(path: str) -> None:
        document = {"format": 1, "bundle": path, "snapshot": snapshot.id}
        store.put_small(_key(snapshot, path), canonical(document), if_absent=True)

    in_threads(put, snapshot.paths_of_others, READERS)


def remove(store: Store, workload: str, snapshot_id: str) -> None:
    """Remove the references of a snapshot that is gone."""
    store.delete([info.key for info in store.list(f"references/{workload}/{snapshot_id}/")])


def kept(store: Store, workload: str) -> set[str]:
    """The paths of this workload's bundles that snapshots of others name, or are about to."""
    found = (_parts(info.key) for info in store.list("references/"))
    return {path for _, path in found if path.startswith(f"{workload}/")}


def made(store: Store, workload: str, before: datetime) -> dict[str, str]:
    """The references that this workload made before a time: each key with its snapshot's key.

    List the snapshots afterwards: without its snapshot such a reference is an orphan.
    """
    return {
        info.key: f"snapshots/{workload}/{snapshot}.json"
        for info in store.list(f"references/{workload}/")
        if (snapshot := _parts(info.key)[0]) and info.modified < before
    }


def _key(snapshot: Snapshot, path: str) -> str:
    return f"references/{snapshot.workload}/{snapshot.id}/{path}.json"


def _parts(key: str) -> tuple[str, str]:
    """The ID of the snapshot and the path of the bundle; "" and "" for a foreign object."""
    _, _, snapshot, *rest = [*key.split("/", 3), "", "", ""][:4]
    path = rest[0].removesuffix(".json")
    if not SNAPSHOT_ID.fullmatch(snapshot) or not BUNDLE_PATH.fullmatch(path):
        return "", ""
    return snapshot, path

"""Show one bundle, snapshot, dataset or model in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli import options
from holdfast.cli.context import (
    find_bundle,
    is_version,
    means_snapshot,
    open_catalog,
    open_snapshot,
)
from holdfast.cli.output import emit, pairs, result, say, table
from holdfast.defaults import MEMORY
from holdfast.errors import DeadlineExceeded, OwnerMismatch, StoreError
from holdfast.text import plural, size, when

if TYPE_CHECKING:
    from holdfast.manifest import Manifest
    from holdfast.store.documents import Snapshot
    from holdfast.store.snapshot import Catalog

Labels = Mapping[str, str | int]
Lineage = Mapping[str, Mapping[str, Any]]

_ANSWER = 10.0  # seconds that a store has to say under which names it knows what labels name


def show(
    target: options.Target,
    kind: options.AssetKind = None,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Show what a bundle, a snapshot, or a version of a dataset or model says about itself.

    With a store its lineage has names: the dataset and the parent model that it was made from. Of
    a dataset or model the history of its aliases is shown, too.

    Example: holdfast show churn@production --kind model
    """
    json = output is options.Format.JSON
    if kind or is_version(target):
        _version(open_catalog(store, owner, memory, deadline), target, kind, json)
        return
    if means_snapshot(target, volume, run, store):
        catalog, choice = open_snapshot(target, run, store, owner, workload, memory, deadline)
        _snapshot(catalog, choice.snapshot, json)
        return
    bundle = find_bundle(target, volume, run)
    known = None
    if store and bundle.manifest.labels.keys() & {"dataset", "parent"}:
        known = open_catalog(store, owner, memory, deadline, check=False)
    origin = _lineage(known, bundle.manifest.labels)
    if json:
        document = bundle.manifest.model_dump(mode="json")
        emit({"path": str(bundle.path), **document, "lineage": origin})
    else:
        _show_manifest(bundle.path, bundle.manifest, origin)


def _snapshot(catalog: Catalog, snapshot: Snapshot, json: bool) -> None:
    origins = {ref.path: _lineage(catalog, ref.labels) for ref in snapshot.bundles}
    if json:
        emit({**snapshot.model_dump(mode="json"), "lineage": origins})
        return
    pairs(
        {
            "snapshot": snapshot.id,
            "workload": snapshot.workload,
            "run": snapshot.run,
            "generation": snapshot.generation,
            "created": when(snapshot.created),
            **({"labels": _labels(snapshot.labels)} if snapshot.labels else {}),
        }
    )
    for ref in snapshot.bundles:
        result()
        pairs(
            {
                "bundle": f"{ref.name} ({ref.kind}, {size(ref.size)})",
                "data": f"{catalog.store.url}/{ref.data}/",
                "manifest": f"{catalog.store.url}/{ref.manifest}",
                "labels": _labels(ref.labels),
                "content": ref.content,
                "digest": ref.digest,
            }
        )
        _show_lineage(origins[ref.path])


def _version(catalog: Catalog, target: str, kind: str | None, json: bool) -> None:
    from holdfast.assets.aliases import history
    from holdfast.assets.versions import VERSION, resolve
    from holdfast.cli.progress import progress

    with progress() as bar:
        found = resolve(catalog, target, kind, progress=bar)
    moves = history(catalog.store, found.snapshot.workload, found.name)
    manifest = catalog.manifest(found.ref)
    labels = {key: value for key, value in found.snapshot.labels.items() if key != VERSION}
    origin = _lineage(catalog, labels)
    if json:
        emit(
            {
                "kind": found.kind,
                "name": found.name,
                "version": found.version,
                "snapshot": found.snapshot.id,
                "created": when(found.snapshot.created),
                "files": len(manifest.files),
                "bytes": found.ref.size,
                "content": found.ref.content,
                "digest": found.ref.digest,
                "labels": labels,
                "lineage": origin,
                "aliases": [
                    {"alias": one.alias, "version": one.version, "since": when(one.created)}
                    for one in moves
                ],
            }
        )
        return
    other = {key: value for key, value in labels.items() if key not in origin}
    pairs(
        {
            found.kind: f"{found} ({plural(len(manifest.files), 'file')}, {size(found.ref.size)})",
            "created": when(found.snapshot.created),
            **({"labels": _labels(other)} if other else {}),
            "snapshot": found.snapshot.id,
            "data": f"{catalog.store.url}/{found.ref.data}/",
            "content": found.ref.content,
            "digest": found.ref.digest,
        }
    )
    _show_lineage(origin)
    if moves:
        result()
        rows = [(one.alias, one.version, when(one.created)) for one in moves]
        table(("alias", "version", "since"), rows, "Aliases, the latest first")


def _lineage(catalog: Catalog | None, labels: Labels) -> Lineage:
    """Where the labels say that it came from, by the names that the store knows."""
    from holdfast.assets.lineage import lineage

    soon = None if catalog is None else catalog.within(_ANSWER)
    try:
        return lineage(soon, labels)
    except (StoreError, DeadlineExceeded, OwnerMismatch) as error:
        say(f"the store cannot be asked for names: {error}")
        return lineage(None, labels)


def _show_lineage(origin: Lineage) -> None:
    if not origin:
        return
    result()
    pairs({f"from {key}": _origin(found) for key, found in origin.items()})


def _origin(found: Mapping[str, Any]) -> str:
    """A value, and the versions that have this content."""
    if "versions" not in found:
        return str(found["value"])
    names = ", ".join(found["versions"]) or "not in this store"
    return f"{names} ({found['value']})"


def _show_manifest(path: Path, manifest: Manifest, origin: Lineage) -> None:
    pairs(
        {
            "bundle": f"{manifest.name} ({manifest.kind}, {size(manifest.size)})",
            "path": path,
            "created": when(manifest.created),
            "labels": _labels(manifest.labels),
            "content": manifest.content,
            "digest": manifest.digest,
        }
    )
    _show_lineage({key: found for key, found in origin.items() if "versions" in found})
    result()
    table(
        (">size", "sha256", "file"),
        [(size(entry.size), entry.sha256, entry.path) for entry in manifest.files],
    )


def _labels(labels: Labels) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())

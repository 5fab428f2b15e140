"""See what there is, and protect some of it: list, show, pin, unpin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options
from holdfast.cli.context import (
    find_bundle,
    is_snapshot,
    open_catalog,
    open_snapshot,
    open_volume,
    sides,
)
from holdfast.cli.output import emit, pairs, say, table
from holdfast.text import size, when

if TYPE_CHECKING:
    from holdfast.manifest import Manifest
    from holdfast.volume import Volume

_Target = Annotated[
    str,
    typer.Argument(
        envvar="HOLDFAST_TARGET",
        help="A bundle's name or directory; or a snapshot's ID, latest or before=TIME.",
    ),
]


def list_(
    side: options.Sides = options.Side.AUTO,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = options.MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """List the bundles on the volume and the snapshots in the store, newest first.

    Example: holdfast list --side store --store s3://bucket/team/prod --workload gpt
    """
    on_volume, in_store = sides(side, volume, store)
    document: dict[str, Any] = {}
    table_wanted = output is options.Format.TABLE
    if on_volume:
        target = open_volume(volume, run)
        document["bundles"] = _bundles(target)
        if table_wanted:
            _bundle_table(document["bundles"], f"Bundles of run {target.run} on {target.root}")
    if in_store:
        name = options.required(workload, "workload")
        catalog = open_catalog(store, owner, memory, deadline)
        document["snapshots"] = _snapshots(catalog, name, run)
        if table_wanted:
            if on_volume:
                print()
            title = f"Snapshots of workload {name} in {catalog.store.url}"
            _snapshot_table(document["snapshots"], title)
    if not table_wanted:
        emit(document)


def _bundles(volume: Volume) -> list[dict[str, Any]]:
    """Rows of the volume, newest first, with what is wrong with those that cannot be read."""
    pins = volume.pins()
    rows = []
    for generation in reversed(volume.generations()):
        found = [
            {
                "bundle": bundle.name,
                "generation": generation,
                "kind": bundle.manifest.kind,
                "created": when(bundle.manifest.created),
                "bytes": bundle.manifest.size,
                "state": "pinned" if (generation, bundle.name) in pins else "",
                "digest": bundle.manifest.digest,
            }
            for bundle in volume.bundles(generation)
        ]
        if found and generation == volume.present():
            found[0]["state"] = ", ".join(filter(None, ["newest", found[0]["state"]]))
        damaged = [
            _no_bundle(error.path.name, generation, "damaged")
            for error in volume.damaged(generation)
        ]
        rows += sorted(found + damaged, key=lambda row: str(row["bundle"]), reverse=True)
    for path in volume.quarantined():
        generation = int(path.parents[1].name.removeprefix("gen-"))
        rows.append(_no_bundle(path.name, generation, "quarantined"))
    return rows


def _no_bundle(name: str, generation: int, state: str) -> dict[str, Any]:
    """The row of what has no manifest to read."""
    unknown = dict.fromkeys(("kind", "created", "bytes"))
    return {"bundle": name, "generation": generation, **unknown, "state": state, "digest": None}


def _bundle_table(rows: list[dict[str, Any]], title: str) -> None:
    if not rows:
        say(f"{title}: none")
        return
    cells = [
        (
            row["bundle"],
            row["generation"],
            row["kind"] or "-",
            row["created"] or "-",
            "-" if row["bytes"] is None else size(row["bytes"]),
            row["state"],
        )
        for row in rows
    ]
    table(("bundle", ">generation", "kind", "created", ">size", "state"), cells, title)


def _snapshots(catalog: Any, workload: str, run: str | None) -> list[dict[str, Any]]:
    listing = catalog.listing(workload, run)
    pins, records = catalog.pins(workload), catalog.verifications(workload)
    rows: list[dict[str, Any]] = []
    for snapshot in listing.snapshots:
        record = records.get(snapshot.id)
        rows.append(
            {
                "snapshot": snapshot.id,
                "run": snapshot.run,
                "generation": snapshot.generation,
                "created": when(snapshot.created),
                "bundles": [ref.name for ref in snapshot.bundles],
                "bytes": snapshot.size,
                "pinned": snapshot.id in pins,
                "verified": None
                if record is None
                else {"ok": record.ok, "kind": record.kind, "at": when(record.at)},
                "damaged": None,
            }
        )
    unknown = dict.fromkeys(("run", "generation", "created", "bundles", "bytes", "verified"))
    return rows + [
        {"snapshot": key, **unknown, "pinned": key in pins, "damaged": text}
        for key, text in listing.damaged.items()
    ]


def _snapshot_table(rows: list[dict[str, Any]], title: str) -> None:
    if not rows:
        say(f"{title}: none")
        return
    cells = []
    for row in rows:
        if row["damaged"]:
            cells.append((row["snapshot"], "-", "-", "-", "-", "damaged"))
            continue
        record = row["verified"]
        verified = "never verified"
        if record:
            verified = f"{'verified' if record['ok'] else 'BAD'} ({record['kind']}) {record['at']}"
        cells.append(
            (
                row["snapshot"],
                row["run"],
                row["generation"],
                ", ".join(row["bundles"]),
                size(row["bytes"]),
                ", ".join(filter(None, ["pinned" if row["pinned"] else "", verified])),
            )
        )
    table(("snapshot", "run", ">generation", "bundles", ">size", "state"), cells, title)


def show(
    target: _Target,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = options.MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Show what a bundle or a snapshot says about itself.

    Example: holdfast show step-00000100
    """
    if is_snapshot(target):
        catalog, snapshot = open_snapshot(target, run, store, owner, workload, memory, deadline)
        if output is options.Format.JSON:
            emit(snapshot.model_dump(mode="json"))
            return
        pairs(
            {
                "snapshot": snapshot.id,
                "workload": snapshot.workload,
                "run": snapshot.run,
                "generation": snapshot.generation,
                "created": when(snapshot.created),
            }
        )
        for ref in snapshot.bundles:
            print()
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
        return
    bundle = find_bundle(target, volume, run)
    if output is options.Format.JSON:
        emit({"path": str(bundle.path), **bundle.manifest.model_dump(mode="json")})
    else:
        _show_manifest(bundle.path, bundle.manifest)


def _labels(labels: Mapping[str, str | int]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())


def _show_manifest(path: Path, manifest: Manifest) -> None:
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
    print()
    table(
        (">size", "sha256", "file"),
        [(size(entry.size), entry.sha256, entry.path) for entry in manifest.files],
    )


def pin(
    target: _Target,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = options.MEMORY,
    deadline: options.Deadline = None,
) -> None:
    """Protect a bundle on the volume, or a snapshot in the store, from retention.

    Example: holdfast pin step-00000100
    """
    if is_snapshot(target):
        catalog, snapshot = open_snapshot(target, run, store, owner, workload, memory, deadline)
        catalog.pin(snapshot.workload, snapshot.id)
        say(f"pinned snapshot {snapshot.id}: kept until `holdfast unpin {snapshot.id}`")
    else:
        open_volume(volume, run).pin(target)
        say(f"pinned bundle {target}: kept until `holdfast unpin {target}`")


def unpin(
    target: _Target,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = options.MEMORY,
    deadline: options.Deadline = None,
) -> None:
    """Let retention decide again about a bundle or a snapshot.

    Example: holdfast unpin step-00000100
    """
    if is_snapshot(target):
        catalog, snapshot = open_snapshot(target, run, store, owner, workload, memory, deadline)
        catalog.unpin(snapshot.workload, snapshot.id)
        say(f"unpinned snapshot {snapshot.id}")
    else:
        open_volume(volume, run).unpin(target)
        say(f"unpinned bundle {target}")

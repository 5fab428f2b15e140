"""List what a volume and a store hold."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options
from holdfast.cli.context import (
    lost_by_store,
    open_catalog,
    open_volume,
    sides,
)
from holdfast.cli.output import emit, result, say, table
from holdfast.cli.progress import progress
from holdfast.defaults import MEMORY, PIPELINE
from holdfast.errors import Mismatch
from holdfast.text import plural, size, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.store.documents import Snapshot
    from holdfast.store.snapshot import Catalog, PassedOver
    from holdfast.volume import Volume


class Kind(StrEnum):
    """What a list is of."""

    DATASET = "dataset"
    MODEL = "model"
    CHECKPOINT = "checkpoint"
    PIPELINE = "pipeline"


def list_(
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--kind",
            envvar="HOLDFAST_LIST_KIND",
            help="dataset, model: their versions in the store, with aliases. checkpoint: bundles"
            " and snapshots of this kind alone. pipeline: the snapshots of the whole pipeline.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            envvar="HOLDFAST_NAME",
            help="With --kind dataset or model: the versions of this name alone.",
        ),
    ] = None,
    side: options.Sides = options.Side.AUTO,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """List the bundles on the volume and the snapshots in the store, newest first; or the datasets
    or models in the store.

    Example: holdfast list --side store --store s3://bucket/team/prod --workload gpt
    """
    if kind in (Kind.DATASET, Kind.MODEL):
        _versions(open_catalog(store, owner, memory, deadline), kind, name, output)
        return
    if kind is Kind.PIPELINE:
        side, workload = options.Side.STORE, PIPELINE
    of_kind = str(kind) if kind is Kind.CHECKPOINT else None
    on_volume, in_store = sides(side, volume, store)
    document: dict[str, Any] = {}
    table_wanted = output is options.Format.TABLE
    if on_volume:
        target = open_volume(volume, run, of_kind)
        document["bundles"] = _bundles(target)
        if table_wanted:
            _bundle_table(document["bundles"], f"Bundles of run {target.run} on {target.root}")
    if in_store:
        of = options.required(workload, "workload")
        catalog = open_catalog(store, owner, memory, deadline)
        lost = lost_by_store(volume, catalog, of, run) if volume and run else []
        document["snapshots"], held = _snapshots(catalog, of, run, lost, of_kind)
        if table_wanted:
            if on_volume:
                result()
            title = f"Snapshots of workload {of} in {catalog.store.url}"
            _snapshot_table(document["snapshots"], held, title)
    if not table_wanted:
        emit(document)


def _versions(catalog: Catalog, kind: str, name: str | None, output: options.Format) -> None:
    """The versions of one kind, newest first, with the aliases that mean them now."""
    from holdfast.assets.aliases import all_current
    from holdfast.assets.versions import versions, workload_of

    with progress() as bar:
        found = list(versions(catalog, kind, name, progress=bar))
    means: dict[tuple[str, str, str], list[str]] = {}
    try:
        for alias in all_current(catalog.store, workload_of(kind), name):
            means.setdefault((alias.name, alias.version, alias.content), []).append(alias.alias)
    except Mismatch as error:  # the versions are there all the same
        say(f"aliases are left out: {error}")
    rows = [
        {
            "name": one.name,
            "version": one.version,
            "aliases": means.get((one.name, one.version, one.ref.content), []),
            "created": when(one.snapshot.created),
            "bytes": one.ref.size,
            "content": one.ref.content,
            "snapshot": one.snapshot.id,
            "labels": dict(one.snapshot.labels),
        }
        for one in found
    ]
    title = f"{kind.capitalize()}s in {catalog.store.url}"
    if output is options.Format.JSON:
        emit({f"{kind}s": rows})
    elif not rows:
        say(f"{title}: none")
    else:
        cells = [
            (
                row["name"],
                row["version"],
                ", ".join(row["aliases"]),
                row["created"],
                size(row["bytes"]),
                row["content"][:12],
            )
            for row in rows
        ]
        table(("name", "version", "~aliases", "created", ">size", "content"), cells, title)


def _bundles(volume: Volume) -> list[dict[str, Any]]:
    """Rows of the volume, newest first, with what is wrong with those that cannot be read."""
    from holdfast.errors import InvalidBundle
    from holdfast.labels import is_healthy

    pins = volume.pins()
    rows: list[dict[str, Any]] = []
    for generation in reversed(volume.generations()):
        newest = set()  # the kinds of which a newer one was seen
        for found in volume.scan(generation):
            if isinstance(found, InvalidBundle):
                rows.append(_no_bundle(found.path.name, generation, "damaged"))
                continue
            states = {
                "newest": generation == volume.present() and found.manifest.kind not in newest,
                "pinned": (generation, found.name) in pins,
                "unhealthy": is_healthy(found.manifest.labels) is False,
            }
            newest.add(found.manifest.kind)
            rows.append(
                {
                    "bundle": found.name,
                    "generation": generation,
                    "kind": found.manifest.kind,
                    "created": when(found.manifest.created),
                    "bytes": found.manifest.size,
                    "state": ", ".join(state for state, holds in states.items() if holds),
                    "digest": found.manifest.digest,
                }
            )
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
    table(("bundle", ">generation", "~kind", "created", ">size", "~state"), cells, title)


def _snapshots(
    catalog: Catalog,
    workload: str,
    run: str | None,
    lost: Sequence[PassedOver],
    kind: str | None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of the store, newest first, and then what is damaged, missing or lost; and in one line
    what each snapshot holds, by its ID."""
    listing = catalog.listing(workload, run)
    pins, records = catalog.pins(workload), catalog.verifications(workload)
    rows: list[dict[str, Any]] = []
    held: dict[str, str] = {}
    for snapshot in (one for one in listing.snapshots if one.has(kind)):
        record = records.get(snapshot.id)
        held[snapshot.id] = _held(snapshot)
        rows.append(
            {
                "snapshot": snapshot.id,
                "run": snapshot.run,
                "generation": snapshot.generation,
                "created": when(snapshot.created),
                "bundles": [ref.name for ref in snapshot.bundles],
                "bytes": snapshot.size,
                "labels": dict(snapshot.labels),
                "pinned": snapshot.id in pins,
                "verified": None
                if record is None
                else {"ok": record.ok, "kind": record.kind, "at": when(record.at)},
                "damaged": None,
            }
        )
    unknown = dict.fromkeys(
        ("run", "generation", "created", "bundles", "bytes", "labels", "verified")
    )
    bad = listing.damaged | {one.snapshot: one.reason for one in [*listing.missing, *lost]}
    for key, text in bad.items():
        say(f"snapshot {key} cannot be used: {text}")
    rows += [
        {"snapshot": key, **unknown, "pinned": key in pins, "damaged": text}
        for key, text in bad.items()
    ]
    return rows, held


def _held(snapshot: Snapshot) -> str:
    """What is in a snapshot: the names of its bundles; of a pipeline's, what they are."""
    own = [ref for ref in snapshot.bundles if ref.workload == snapshot.workload]
    databases = [ref for ref in own if ref.kind == "database"]
    if not databases:
        return ", ".join(ref.name for ref in snapshot.bundles)
    artifacts = sum(ref.size for ref in own if ref.kind == "artifacts")
    count = snapshot.labels.get("artifacts")
    files = f"{plural(count, 'artifact')}, " if isinstance(count, int) else "artifacts "
    others = Counter(ref.kind for ref in snapshot.foreign)
    return "; ".join(
        [
            f"database {size(sum(ref.size for ref in databases))}",
            f"{files}{size(artifacts)}",
            *(plural(others[kind], kind) for kind in sorted(others)),
        ]
    )


def _snapshot_table(rows: list[dict[str, Any]], held: dict[str, str], title: str) -> None:
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
                held[row["snapshot"]],
                size(row["bytes"]),
                ", ".join(filter(None, ["pinned" if row["pinned"] else "", verified])),
            )
        )
    table(("snapshot", "run", ">generation", "~bundles", ">size", "~state"), cells, title)

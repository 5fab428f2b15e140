"""Verify bundles on a volume and snapshots in a store."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import complete, options
from holdfast.cli.context import (
    find_bundle,
    is_version,
    means_snapshot,
    open_catalog,
    open_snapshot,
    open_volume,
    sides,
)
from holdfast.cli.output import emit, phase_output, say, table
from holdfast.cli.progress import progress
from holdfast.defaults import MEMORY
from holdfast.errors import HoldfastError, InvalidBundle, StoreDenied, StoreUnreachable
from holdfast.text import figures, plural, size

if TYPE_CHECKING:
    from threading import Event

    from holdfast.manifest import FileEntry
    from holdfast.progress import Progress
    from holdfast.store.documents import Snapshot
    from holdfast.store.snapshot import Catalog, PassedOver


@dataclass(frozen=True)
class Result:
    """The result of verifying one bundle or snapshot."""

    side: str
    id: str
    ok: bool
    bytes: int
    problems: list[str] = field(default_factory=list)


def verify(
    target: Annotated[
        str | None,
        typer.Argument(
            envvar="HOLDFAST_SNAPSHOT",
            help="A bundle's name or directory; or a snapshot's ID (or its beginning), latest or"
            " before=TIME; or NAME:VERSION or NAME@ALIAS of a dataset or model. Default: everything"
            " on the volume and in the store.",
            autocompletion=complete.targets,
        ),
    ] = None,
    quick: options.Quick = False,
    side: options.Sides = options.Side.AUTO,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Compare every byte of bundles and snapshots with their manifests.

    Nothing is changed. The result for a snapshot is recorded in the store, so that retention never
    removes the last good one and no push uses a bad one. Ends with 1 if anything is wrong, with
    every problem on stderr.

    Example: holdfast verify latest --store s3://bucket/team/prod --workload gpt
    """
    from holdfast.assets.versions import resolve

    how = "existence and sizes" if quick else "every byte"
    results: list[Result] = []
    start = time.monotonic()
    with progress() as bar:
        if target is not None and is_version(target):
            catalog = open_catalog(store, owner, memory, deadline)
            version = resolve(catalog, target, progress=bar)
            say(f"verify {version.kind} {version} in {catalog.store.url}: {how}")
            results.append(_snapshot(catalog, version.snapshot, quick, bar))
        elif target is not None and not means_snapshot(target, volume, run, store):
            bundle = find_bundle(target, volume, run)
            say(f"verify {bundle.path}: {how}")
            results.append(_bundle(bundle.path, quick, bar))
        elif target is not None:
            catalog, choice = open_snapshot(
                target, run, store, owner, workload, memory, deadline, volume
            )
            say(f"verify snapshot {choice.snapshot.id} in {catalog.store.url}: {how}")
            results += [_lost(one) for one in choice.passed_over]
            results.append(_snapshot(catalog, choice.snapshot, quick, bar))
        else:
            on_volume, in_store = sides(side, volume, store)
            if on_volume:
                place = open_volume(volume, run)
                say(f"verify run {place.run} on {place.root}: {how}")
                for generation in reversed(place.generations()):
                    found = [bundle.path for bundle in place.bundles(generation)]
                    found += [error.path for error in place.damaged(generation)]
                    results += [_bundle(path, quick, bar) for path in found]
                results += [_unreadable(path, error) for path, error in place.unreadable.items()]
            if in_store:
                catalog = open_catalog(store, owner, memory, deadline)
                name = options.required(workload, "workload")
                say(f"verify workload {name} in {catalog.store.url}: {how}")
                listing = catalog.listing(name)
                results += [_snapshot(catalog, found, quick, bar) for found in listing.snapshots]
                results += [
                    Result("store", key, False, 0, [text]) for key, text in listing.damaged.items()
                ]
                results += [_lost(one) for one in listing.missing]
    _report(results, time.monotonic() - start, kanister, output)


def _report(results: list[Result], seconds: float, kanister: bool, output: options.Format) -> None:
    bad = [result for result in results if not result.ok]
    for result in bad:
        for problem in result.problems:
            say(f"{result.id}: {problem}")
    total = sum(result.bytes for result in results)
    if kanister:
        phase_output(
            snapshot=" ".join(result.id for result in results),
            ok=str(not bad).lower(),
            bytes=total,
        )
    if output is options.Format.JSON:
        emit({"ok": not bad, "seconds": round(seconds, 3), "results": list(map(asdict, results))})
    elif not kanister and results:
        table(
            ("", "where", "what", ">read"),
            [("ok" if r.ok else "BAD", r.side, r.id, size(r.bytes)) for r in results],
        )
    read = figures(total, seconds) if total else f"{seconds:.2f} s"
    if bad:
        raise HoldfastError(
            f"{len(bad)} of {len(results)} failed verification ({read}): "
            + ", ".join(result.id for result in bad)
            + ": recovery does not use them; see docs/recover.md"
        )
    say(f"verified {plural(len(results), 'item')}: {read}")


def _bundle(path: Path, quick: bool, bar: Progress) -> Result:
    from holdfast.bundle import verify as check
    from holdfast.copies.transfer import each_file, read_local
    from holdfast.durable import default_threads

    try:
        bundle = check(path, quick=True)
    except InvalidBundle as error:
        return Result("volume", path.name, False, 0, error.problems)
    except OSError as error:
        return _unreadable(path, error)
    if quick:
        return Result("volume", path.name, True, 0)
    problems: list[str] = []
    faults: list[OSError] = []

    def read(entry: FileEntry, stop: Event) -> None:
        try:
            for _ in read_local(bundle, entry, bar, stop):
                pass
        except InvalidBundle as error:
            problems.extend(error.problems)
        except OSError as error:
            faults.append(error)

    manifest = bundle.manifest
    bar.start(f"verify {path.name}", len(manifest.files), manifest.size)
    each_file(read, manifest.files, default_threads())
    if faults and not problems:
        return _unreadable(path, faults[0])
    return Result("volume", path.name, not problems, manifest.size, sorted(problems))


def _unreadable(path: Path, error: OSError) -> Result:
    """A fault of the system does not make a bundle bad, but nobody knows that it is good."""
    reason = f"cannot be read now ({error.strerror or error}): check the mount, then verify again"
    return Result("volume", path.name, False, 0, [reason])


def _lost(snapshot: PassedOver) -> Result:
    return Result("store", snapshot.snapshot, False, 0, [snapshot.reason])


def _snapshot(catalog: Catalog, snapshot: Snapshot, quick: bool, bar: Progress) -> Result:
    from holdfast.copies.verify_store import verify_snapshot

    found = verify_snapshot(catalog, snapshot, quick=quick, record=False, progress=bar)
    try:
        record = found.model_copy(update={"at": catalog.store.now()})
        catalog.record(snapshot.workload, record)
    except (StoreDenied, StoreUnreachable) as error:  # a reader may verify, too
        bar.note(f"the result is not recorded: {error}")
    return Result("store", snapshot.id, found.ok, found.bytes, list(found.problems))

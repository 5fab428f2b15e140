"""Delete one snapshot by its ID."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import complete, options
from holdfast.cli.context import begins_id, choose_snapshot, full_id, is_version, open_catalog
from holdfast.cli.output import dry_note, emit, phase_output, say
from holdfast.cli.progress import progress
from holdfast.defaults import MEMORY, SHARED
from holdfast.errors import Mismatch, UsageError

if TYPE_CHECKING:
    from holdfast.store.snapshot import Catalog


def delete(
    snapshot: Annotated[
        str,
        typer.Argument(
            envvar="HOLDFAST_SNAPSHOT",
            help="The snapshot's ID or its beginning: see `holdfast list`. Or NAME:VERSION of a"
            " dataset or model.",
            autocompletion=complete.snapshots,
        ),
    ],
    kind: options.AssetKind = None,
    aliased: Annotated[
        bool,
        typer.Option(
            "--aliased",
            envvar="HOLDFAST_ALIASED",
            help="Delete the version although an alias means it.",
        ),
    ] = False,
    dry_run: options.DryRun = False,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Delete one snapshot from the store, or one version of a dataset or model; later prunes delete
    the data that no other one names.

    A pinned snapshot, the last that verified, and the only good one are protected. A version is
    protected while an alias means it.

    Example: holdfast delete 0000000007-20260501T120000Z-3f2a9c1d
    """
    from holdfast.copies.prune import delete_snapshot

    if is_version(snapshot):
        catalog = open_catalog(store, owner, memory, deadline)
        _version(catalog, snapshot, kind, aliased, dry_run, output)
        return
    name = options.required(workload, "workload")
    catalog = open_catalog(store, owner, memory, deadline)
    if not begins_id(snapshot):
        chosen = choose_snapshot(catalog, name, run, snapshot).snapshot.id
    elif snapshot.isdecimal() and not any(id.startswith(snapshot) for id in catalog.written(name)):
        chosen = snapshot  # the number of one that is lost
    else:
        chosen = full_id(catalog, name, snapshot)  # also of one that is damaged
    if name in SHARED.values() and not chosen.isdecimal():
        with suppress(Mismatch):  # one that is damaged is no version
            of = catalog.read(name, chosen)
            version = f"{of.run}:{of.labels.get('version', '')}"
            raise UsageError(f"snapshot {chosen} is a version: give its name, {version}")
    say(f"delete snapshot {chosen} from {catalog.store.url}{dry_note(dry_run)}")
    delete_snapshot(catalog, name, chosen, dry_run=dry_run)
    say("would be deleted" if dry_run else "deleted; `holdfast prune` removes its data later")
    if kanister:
        phase_output(snapshot=chosen)
    if output is options.Format.JSON:
        emit({"snapshot": chosen, "dry_run": dry_run})


def _version(
    catalog: Catalog,
    text: str,
    kind: str | None,
    aliased: bool,
    dry_run: bool,
    output: options.Format,
) -> None:
    from holdfast.assets.promote import delete_version
    from holdfast.assets.versions import resolve, workload_of

    with progress() as bar:
        found = resolve(catalog, text, kind, progress=bar)
        say(f"delete {found.kind} {found} from {catalog.store.url}{dry_note(dry_run)}")
        deleted = delete_version(catalog, found, aliased=aliased, dry_run=dry_run, progress=bar)
    data = f"`holdfast prune --workload {workload_of(found.kind)}` removes its data later"
    say("would be deleted" if dry_run else f"deleted; {data}")
    if output is options.Format.JSON:
        emit(
            {
                "kind": found.kind,
                "name": found.name,
                "version": found.version,
                "snapshots": deleted,
                "dry_run": dry_run,
            }
        )

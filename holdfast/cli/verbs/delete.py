"""Delete one snapshot by its ID."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import complete, options
from holdfast.cli.context import begins_id, choose_snapshot, full_id, open_catalog
from holdfast.cli.output import dry_note, emit, phase_output, say
from holdfast.defaults import MEMORY


def delete(
    snapshot: Annotated[
        str,
        typer.Argument(
            envvar="HOLDFAST_SNAPSHOT",
            help="The snapshot's ID or its beginning: see `holdfast list`.",
            autocompletion=complete.snapshots,
        ),
    ],
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
    """Delete one snapshot from the store; later prunes delete the data that no other one names.

    A pinned snapshot, the last that verified, and the only good one are protected.

    Example: holdfast delete 0000000007-20260501T120000Z-3f2a9c1d
    """
    from holdfast.copies.prune import delete_snapshot

    name = options.required(workload, "workload")
    catalog = open_catalog(store, owner, memory, deadline)
    if not begins_id(snapshot):
        chosen = choose_snapshot(catalog, name, run, snapshot).snapshot.id
    elif snapshot.isdecimal() and not any(id.startswith(snapshot) for id in catalog.written(name)):
        chosen = snapshot  # the number of one that is lost
    else:
        chosen = full_id(catalog, name, snapshot)  # also of one that is damaged
    say(f"delete snapshot {chosen} from {catalog.store.url}{dry_note(dry_run)}")
    delete_snapshot(catalog, name, chosen, dry_run=dry_run)
    say("would be deleted" if dry_run else "deleted; `holdfast prune` removes its data later")
    if kanister:
        phase_output(snapshot=chosen)
    if output is options.Format.JSON:
        emit({"snapshot": chosen, "dry_run": dry_run})

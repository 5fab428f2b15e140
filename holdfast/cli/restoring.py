"""Go back in time on a volume: stage a snapshot, switch to it, switch back."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import choose_snapshot, open_catalog, open_volume
from holdfast.cli.output import emit, phase_output, say
from holdfast.cli.progress import progress
from holdfast.errors import UsageError
from holdfast.text import figures, size


def stage(
    snapshot: options.Snapshot = "latest",
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = options.MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Pull a snapshot into a hidden place of the volume, verified, while training goes on.

    The first half of a restore: nothing changes until `holdfast switch`. A snapshot staged before
    and never switched to is removed. Fails before it copies if the volume has too little room.

    Example: holdfast stage --snapshot before=2026-05-01T12:00:00Z
    """
    from holdfast.restore import stage as run_stage

    target = open_volume(volume, run)
    catalog = open_catalog(store, owner, memory, deadline)
    chosen = choose_snapshot(catalog, options.required(workload, "workload"), target.run, snapshot)
    say(f"stage snapshot {chosen.id} ({size(chosen.size)}) on {target.run_path}")
    start = time.monotonic()
    with progress() as bar:
        staged = run_stage(target, catalog, chosen, progress=bar)
    seconds = time.monotonic() - start
    say(
        f"staged {', '.join(staged.bundles)}: {figures(staged.size, seconds)};"
        f" `holdfast switch {staged.id}` makes it generation {staged.generation}"
    )
    if kanister:
        phase_output(stage=staged.id, generation=staged.generation, snapshot=chosen.id)
    if output is options.Format.JSON:
        emit(
            {
                "stage": staged.id,
                "path": str(staged.path.absolute()),
                "snapshot": chosen.id,
                "generation": staged.generation,
                "bundles": list(staged.bundles),
                "bytes": staged.size,
                "seconds": round(seconds, 3),
            }
        )


def switch(
    stage_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[STAGE]",
            envvar="HOLDFAST_STAGE",
            help="What `holdfast stage` printed.",
            show_default=False,
        ),
    ] = None,
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation",
            envvar="HOLDFAST_GENERATION",
            min=1,
            help="Go back to this older generation instead: the undo of a restore.",
            metavar="N",
        ),
    ] = None,
    volume: options.Volume = None,
    run: options.Run = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Make what was staged the present generation, by one rename. Stop the training first.

    The generation before stays as it is, and `holdfast switch --generation N` makes a new one of
    it (by hard links, so it takes no room). Switching twice to one stage changes nothing.

    Example: holdfast switch 3f2a9c1d
    """
    from holdfast import restore

    if (stage_id is None) == (generation is None):
        raise UsageError("switch to what? give either a stage or --generation N")
    target = open_volume(volume, run)
    if generation is not None:
        say(f"switch run {target.run} to the bundles of generation {generation}")
        present = restore.switch_to_generation(target, generation)
    else:
        say(f"switch run {target.run} to stage {stage_id}")
        present = restore.switch(target, str(stage_id))
    newest = next((bundle.name for bundle in target.bundles(present)), None)
    say(f"generation {present} is the present one; training goes on from {newest}")
    if kanister:
        phase_output(generation=present)
    if output is options.Format.JSON:
        emit({"generation": present, "bundle": newest})

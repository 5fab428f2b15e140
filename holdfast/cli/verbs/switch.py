"""Make a staged snapshot the present generation, or go back to an older one."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_volume
from holdfast.cli.output import emit, phase_output, say
from holdfast.defaults import KIND
from holdfast.errors import UsageError


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
            max=options.LARGEST,
            help="Go back to this older generation instead: the undo of a restore.",
            metavar="N",
        ),
    ] = None,
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Make what was staged the present generation, by one rename. Stop the training first.

    The generation before stays as it is. To go back, `holdfast switch --generation N` makes a new
    generation of it (with hard links, so it takes no space). A second switch to the same stage
    changes nothing.

    Example: holdfast switch 3f2a9c1d
    """
    from holdfast.recovery import restore

    if (stage_id is None) == (generation is None):
        raise UsageError("no target, or two: give either a stage or --generation N")
    target = open_volume(volume, run, kind)
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

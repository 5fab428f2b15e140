"""Make a staged snapshot the present generation, or go back to an older one."""

from __future__ import annotations

from datetime import UTC, datetime
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
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            envvar="HOLDFAST_UNTIL",
            help="Refuse to switch to a stage after this time, such as 2026-05-01T12:00:00Z.",
            metavar="TIME",
        ),
    ] = None,
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Make what was staged the present generation, by one rename. Stop the training first.

    It refuses while a trainer has the run open, and when a pod has started since the stage.
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
        present = restore.switch(target, str(stage_id), _moment(until))
    newest = next((bundle.name for bundle in target.bundles(present)), None)
    say(f"generation {present} is the present one; training goes on from {newest}")
    if kanister:
        phase_output(generation=present)
    if output is options.Format.JSON:
        emit({"generation": present, "bundle": newest})


def _moment(text: str | None) -> datetime | None:
    """The time that --until gives; without a zone it is UTC."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"invalid time '{text}': expected ISO 8601, such as 2026-05-01T12:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

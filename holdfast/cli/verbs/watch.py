"""Make bundles of what a framework finishes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_volume
from holdfast.cli.output import say
from holdfast.defaults import KEEP


def watch(
    directory: Annotated[
        Path,
        typer.Argument(help="Where the framework puts its checkpoints.", metavar="DIR"),
    ],
    complete_when: Annotated[
        str,
        typer.Option(
            "--complete-when",
            envvar="HOLDFAST_COMPLETE_WHEN",
            help="What says that a checkpoint is finished: 'renamed' (it has its name only then),"
            " or the file in it that is written last: trainer_state.json, .metadata.",
            metavar="RULE",
        ),
    ],
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern",
            envvar="HOLDFAST_PATTERN",
            help="Which directories are checkpoints; the last number in the name is the step.",
        ),
    ] = "checkpoint-*",
    every: Annotated[
        float,
        typer.Option(
            "--every",
            envvar="HOLDFAST_EVERY",
            min=0.1,
            max=options.LONGEST,
            help="Seconds between two looks.",
            metavar="SECONDS",
        ),
    ] = 5.0,
    once: Annotated[
        bool,
        typer.Option("--once", envvar="HOLDFAST_ONCE", help="Look once and end."),
    ] = False,
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            envvar="HOLDFAST_KEEP",
            min=1,
            max=options.MANY,
            help="How many of the newest bundles stay on the volume.",
            metavar="K",
        ),
    ] = KEEP,
    volume: options.Volume = None,
    run: options.Run = None,
) -> None:
    """Make a bundle of each checkpoint that a framework finishes, until SIGTERM.

    Checkpoints are copied; the framework keeps and removes its own. Only steps newer than the
    newest bundle are taken. After SIGTERM it looks once more, so run it as a sidecar.

    Example: holdfast watch ./out --pattern 'checkpoint-*' --complete-when trainer_state.json
    """
    import signal
    import threading

    from holdfast.integrations.watch import Watch

    found = Watch(directory, pattern, complete_when, open_volume(volume, run), keep, say)
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        while not (once or asked.is_set()):
            found.look()
            asked.wait(every)
        found.look()
    finally:
        signal.signal(signal.SIGTERM, before)
        found.close()

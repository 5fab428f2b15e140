"""Turn a finished directory into a bundle."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_volume
from holdfast.cli.output import emit, say
from holdfast.cli.progress import progress
from holdfast.errors import UsageError
from holdfast.text import figures, plural

if TYPE_CHECKING:
    from holdfast.bundle import Bundle
    from holdfast.volume import Volume


def commit(
    directory: Annotated[
        Path,
        typer.Argument(
            help="A finished directory. Nothing may still be writing to it.",
            exists=True,
            file_okay=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            envvar="HOLDFAST_NAME",
            help="The bundle's name. Default with --step 100: step-00000100. Names order only"
            " bundles without a step.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            envvar="HOLDFAST_STEP",
            min=0,
            help="The training step of this checkpoint; becomes the label step.",
            metavar="N",
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            envvar="HOLDFAST_KIND",
            help="checkpoint, dataset, model, database, files, or a kind of your own.",
        ),
    ] = "checkpoint",
    label: options.Label = None,
    parent: Annotated[
        Path | None,
        typer.Option(
            "--parent",
            envvar="HOLDFAST_PARENT",
            help="Put the bundle into this directory instead of the volume's present generation.",
            metavar="DIR",
        ),
    ] = None,
    move: Annotated[
        bool,
        typer.Option(
            "--move",
            envvar="HOLDFAST_MOVE",
            help="Link the files instead of copying them, and remove DIRECTORY afterwards.",
        ),
    ] = False,
    volume: options.Volume = None,
    run: options.Run = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Turn a finished directory into a bundle: immutable, hashed, durable.

    The bundle appears under its name all at once, after every byte is on the disk. A kill at any
    moment leaves either no bundle or a complete one. A name that is taken is refused.

    Example: holdfast commit ./out --step 100 --volume /mnt/checkpoints --run gpt
    """
    from holdfast.bundle import commit_directory
    from holdfast.labels import label_problems
    from holdfast.recovery.writers import Writer

    labels = options.labels(label or [])
    if step is not None:
        name = name or f"step-{step:08d}"
        _set(labels, "step", step)
    if not name:
        raise UsageError("the bundle needs a name: give --name or --step")
    with ExitStack() as stack:
        target, generation = None, 1
        if parent is None:
            target = open_volume(volume, run, kind)
            generation = target.present() or 1
            parent = target.generation_path(generation)
            _set(labels, "run", target.run)
            _set(labels, "generation", generation)
        if problems := label_problems(labels):
            raise UsageError("; ".join(problems))
        if target is not None:  # no restore switches meanwhile
            stack.enter_context(Writer(target)).require_present(generation)
        say(f"commit {directory} as {parent / name}")
        start = time.monotonic()
        with progress() as bar:
            bundle = commit_directory(
                directory, parent, name, kind, labels, move=move, progress=bar
            )
    manifest = bundle.manifest
    say(
        f"committed {bundle.name}: {plural(len(manifest.files), 'file')},"
        f" {figures(manifest.size, time.monotonic() - start)}"
    )
    newer = _newer(target, bundle)
    if newer:
        say(
            f"{bundle.name} is not the newest bundle: {newer.name} is, because bundles are ordered"
            " by step, and those without a step are older"
        )
    if output is options.Format.JSON:
        emit(
            {
                "bundle": bundle.name,
                "path": str(bundle.path),
                "files": len(manifest.files),
                "bytes": manifest.size,
                "content": manifest.content,
                "digest": manifest.digest,
                "newest": newer is None,
            }
        )


def _newer(volume: Volume | None, bundle: Bundle) -> Bundle | None:
    """The newest bundle of the volume's present generation, if it is not this one."""
    newest = volume.bundles()[:1] if volume else []
    return newest[0] if newest and newest[0].path != bundle.path else None


def _set(labels: dict[str, str | int], key: str, value: str | int) -> None:
    """Set a label that the command itself knows; refuse another value for it."""
    if labels.setdefault(key, value) != value:
        raise UsageError(
            f"invalid label {key}={labels[key]!r}: it is {value!r} here; leave the label out"
        )

"""Turn a finished directory into a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_volume
from holdfast.cli.output import emit, say
from holdfast.errors import UsageError
from holdfast.text import figures, plural


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
            help="The bundle's name. Names order bundles: number them with leading zeros."
            " Default with --step 100: step-00000100.",
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
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            envvar="HOLDFAST_LABEL",
            help="A label; may be repeated: --label dataset=v3 --label epoch=2.",
            metavar="KEY=VALUE",
        ),
    ] = None,
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

    labels = _labels(label or [])
    if step is not None:
        labels["step"] = step
        name = name or f"step-{step:08d}"
    if not name:
        raise UsageError("the bundle needs a name: give --name or --step")
    if parent is None:
        target = open_volume(volume, run)
        generation = target.present() or 1
        parent = target.generation_path(generation)
        labels = {"run": target.run, "generation": generation} | labels
    say(f"commit {directory} as {parent / name}")
    start = time.monotonic()
    bundle = commit_directory(directory, parent, name, kind, labels, move=move)
    manifest = bundle.manifest
    say(
        f"committed {bundle.name}: {plural(len(manifest.files), 'file')},"
        f" {figures(manifest.size, time.monotonic() - start)}"
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
            }
        )


def _labels(texts: list[str]) -> dict[str, str | int]:
    """Labels from KEY=VALUE; a value that is written as a whole number becomes one."""
    labels: dict[str, str | int] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"invalid label '{text}': expected KEY=VALUE, such as dataset=v3")
        number = value.removeprefix("-").isascii() and value.removeprefix("-").isdecimal()
        labels[key] = int(value) if number and str(int(value)) == value else value
    return labels

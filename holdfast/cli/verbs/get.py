"""Bring a dataset or model back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog, open_volume
from holdfast.cli.output import emit, say
from holdfast.cli.progress import progress
from holdfast.defaults import KEEP, MEMORY
from holdfast.errors import UsageError
from holdfast.text import figures, when


def get(
    version: options.Asset,
    directory: Annotated[
        Path | None,
        typer.Argument(
            envvar="HOLDFAST_INTO",
            help="A directory that does not exist or is empty.",
            metavar="[DIR]",
            show_default=False,
        ),
    ] = None,
    kind: options.AssetKind = None,
    on_volume: Annotated[
        bool,
        typer.Option(
            "--on-volume",
            envvar="HOLDFAST_ON_VOLUME",
            help="Instead of DIR: make it the bundle that the application on the volume goes on"
            " from. For the init container of a server of models.",
        ),
    ] = False,
    keep: options.Keep = KEEP,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Copy a dataset or model from the store into a directory, and verify every byte.

    The directory appears when all of it is there, with its MANIFEST.json. If it holds this very
    content already, it is verified and left. With --on-volume the model becomes the only bundle of
    the run's next generation, unless it is the newest one already, or a restore put another one
    there and the alias was not promoted since. If the store does not answer, a valid model on the
    volume is kept.

    Example: holdfast get churn@production ./model
    """
    from holdfast.assets.get import get as run_get
    from holdfast.assets.get import get_on_volume
    from holdfast.assets.versions import resolve, workload_of

    if on_volume == (directory is not None):
        raise UsageError("no destination, or two: give either DIR or --on-volume")
    catalog = open_catalog(store, owner, memory, deadline, check=not on_volume)
    start = time.monotonic()
    if directory is None:
        kind = kind or "model"
        workload_of(kind)
        target = open_volume(volume, options.required(run, "run"), kind)
        say(f"get {version} onto {target.run_path}")
        with progress() as bar:
            got = get_on_volume(catalog, version, target, keep=keep, progress=bar)
    else:
        with progress() as bar:
            found = resolve(catalog, version, kind, progress=bar)
            say(f"get {found.kind} {found} into {directory}")
            got = run_get(catalog, found, directory, progress=bar)
    seconds = time.monotonic() - start
    manifest = got.bundle.manifest
    if got.problem:
        say(f"kept the {manifest.kind} on the volume, since the store is of no use: {got.problem}")
    elif got.held:
        say(
            f"kept the {manifest.kind} that was restored at {when(got.held)}: {version} has not"
            f" moved since; to have {got.version}, promote it with --again"
        )
    elif got.copied:
        say(f"got {got.version}: {figures(manifest.size, seconds)}, verified")
    else:
        say(f"{got.version} is there already, verified ({seconds:.2f} s)")
    if got.copied and on_volume:
        say(f"generation {got.generation} is the present one")
    if output is options.Format.JSON:
        emit(
            {
                "kind": manifest.kind,
                "name": got.version.name if got.version else None,
                "version": got.version.version if got.version else None,
                "path": str(got.bundle.path),
                "generation": got.generation or None,
                "copied": got.copied,
                "content": manifest.content,
                "digest": manifest.digest,
                "bytes": manifest.size,
                "problem": got.problem or None,
                "held": when(got.held) if got.held else None,
                "seconds": round(seconds, 3),
            }
        )

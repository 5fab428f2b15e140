"""Print the bundle to load."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_volume
from holdfast.cli.output import emit, result, say
from holdfast.defaults import KIND
from holdfast.errors import NoSnapshot
from holdfast.text import size, when


def latest(
    path: Annotated[
        bool,
        typer.Option(
            "--path",
            envvar="HOLDFAST_PATH",
            help="Print only the directory, for a training script to load.",
        ),
    ] = False,
    quick: options.Quick = False,
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Print the newest valid bundle of the present generation.

    Every byte of it is checked first (with --quick, only that files exist with the right sizes). A
    bad bundle is skipped and reported on stderr. The exit code is 1 if there is no valid one.

    Example: python train.py --resume "$(holdfast latest --path)"
    """
    from holdfast.bundle import verify
    from holdfast.errors import InvalidBundle
    from holdfast.labels import is_healthy

    target = open_volume(volume, run, kind)
    if quick:
        bundle = None
        for found in target.bundles():
            try:
                bundle = verify(found.path, quick=True)
                break
            except InvalidBundle as error:
                say(str(error))
    else:
        bundle = target.newest_valid(quarantine=False)
    if bundle is None:
        raise NoSnapshot(
            f"run '{target.run}' has no valid bundle on the volume: copy one from the store with"
            " `holdfast pull`"
        )
    manifest = bundle.manifest
    if is_healthy(manifest.labels) is False:
        say(f"{bundle.name} is marked as unhealthy (label healthy=0): see `holdfast list`")
    if output is options.Format.JSON:
        emit(
            {
                "bundle": bundle.name,
                "path": str(bundle.path.absolute()),
                "generation": target.present(),
                "kind": manifest.kind,
                "created": when(manifest.created),
                "bytes": manifest.size,
                "labels": dict(manifest.labels),
                "content": manifest.content,
                "digest": manifest.digest,
            }
        )
    elif path:
        result(str(bundle.path.absolute()))
    else:
        result(
            f"{bundle.name}  generation {target.present()}  {size(manifest.size)}"
            f"  created {when(manifest.created)}"
        )

"""The ``holdfast`` command: one module per family of verbs.

Nothing heavy is imported before a verb runs, so that `holdfast --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli import (
    bundles,
    checking,
    control,
    diagnose,
    listing,
    owning,
    restoring,
    retaining,
    transfer,
)
from holdfast.cli.frame import App, HoldfastGroup

app = App(
    name="holdfast",
    cls=HoldfastGroup,
    help="Keep what training knows: verified checkpoints on a volume, copies in a store.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Options of the command itself; what it is for stands in `app`."""


for _panel, _verbs in {
    "Volume": (bundles.commit, bundles.latest),
    "Volume and store": (
        listing.list_,
        listing.show,
        checking.verify,
        listing.pin,
        listing.unpin,
    ),
    "Transfer": (transfer.push, transfer.pull, restoring.stage, restoring.switch),
    "Retention": (retaining.prune, retaining.delete),
    "Ownership": (owning.adopt,),
    "Health": (diagnose.doctor,),
    "Cluster": (control.backup, control.restore),
}.items():
    for _verb in _verbs:
        app.command(_verb.__name__.rstrip("_"), rich_help_panel=_panel)(_verb)

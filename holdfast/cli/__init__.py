"""The ``holdfast`` command: one module per verb.

Nothing heavy is imported before a verb runs, so that `holdfast --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.frame import App, HoldfastGroup
from holdfast.cli.verbs.adopt import adopt
from holdfast.cli.verbs.backup import backup
from holdfast.cli.verbs.commit import commit
from holdfast.cli.verbs.delete import delete
from holdfast.cli.verbs.doctor import doctor
from holdfast.cli.verbs.latest import latest
from holdfast.cli.verbs.list import list_
from holdfast.cli.verbs.pin import pin
from holdfast.cli.verbs.prune import prune
from holdfast.cli.verbs.pull import pull
from holdfast.cli.verbs.push import push
from holdfast.cli.verbs.restore import restore
from holdfast.cli.verbs.show import show
from holdfast.cli.verbs.stage import stage
from holdfast.cli.verbs.switch import switch
from holdfast.cli.verbs.unpin import unpin
from holdfast.cli.verbs.verify import verify

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
    "Volume": (commit, latest),
    "Volume and store": (
        list_,
        show,
        verify,
        pin,
        unpin,
    ),
    "Transfer": (push, pull, stage, switch),
    "Retention": (prune, delete),
    "Ownership": (adopt,),
    "Health": (doctor,),
    "Cluster": (backup, restore),
}.items():
    for _verb in _verbs:
        app.command(_verb.__name__.rstrip("_"), rich_help_panel=_panel)(_verb)

"""The command: its verbs, its errors as one line on stderr, exit codes that scripts can trust."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from holdfast import __version__
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
from holdfast.errors import ExitCode, HoldfastError

#: click's UsageError, which Typer vendors without a public name
_Misuse: Any = typer.BadParameter.__base__


def fail(message: str) -> None:
    """One line on stderr, whatever the message contains."""
    print("holdfast: " + " ".join(message.split()), file=sys.stderr)


class HoldfastGroup(TyperGroup):
    """The command group: maps errors to one line and an exit code (`ExitCode`)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            fail(str(error))
            raise typer.Exit(error.exit_code) from None
        except _Misuse as error:
            command = error.ctx.command_path if error.ctx else "holdfast"
            fail(f"{error.format_message().rstrip('.')}: see `{command} --help`")
            raise typer.Exit(ExitCode.MISUSE) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror or error}: check that it exists and may be used")
            raise typer.Exit(ExitCode.FAILED) from None


class App(typer.Typer):
    """The command as a process."""

    def __call__(self, *args: Any, **options: Any) -> None:
        """Run a verb, and end without taking the interpreter apart.

        A thread of obstore, or one left behind at a deadline, may want the interpreter for a moment
        longer than the verb needs; while Python takes it apart, such a thread aborts the process
        (SIGABRT, no longer exit code 0). Nothing of ours is left to do then: what must last was
        synced by the verb, and no thread or atexit handler has work.
        """
        try:
            super().__call__(*args, **options)
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                raise
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            except OSError:
                raise end from None  # Python itself says what could not be written
            os._exit(end.code or 0)


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

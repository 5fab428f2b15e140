"""What every verb shares: errors as one line on stderr, and exit codes that scripts can trust."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from holdfast.errors import HoldfastError

#: click's UsageError, which Typer vendors without a public name
_Misuse: Any = typer.BadParameter.__base__


def fail(message: str) -> None:
    """One line on stderr, whatever the message contains."""
    print("holdfast: " + " ".join(message.split()), file=sys.stderr)


class HoldfastGroup(TyperGroup):
    """The command group: maps errors to one line and an exit code (0 done, 1 failed, 2 misuse)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            fail(str(error))
            raise typer.Exit(error.exit_code) from None
        except _Misuse as error:
            command = error.ctx.command_path if error.ctx else "holdfast"
            fail(f"{error.format_message().rstrip('.')}: see `{command} --help`")
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror or error}: check that it exists and may be used")
            raise typer.Exit(1) from None


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

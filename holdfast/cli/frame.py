"""What every verb shares: errors as one line on stderr, and exit codes that scripts can trust."""

from __future__ import annotations

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

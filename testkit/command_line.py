"""The verbs of the command, those of its groups too, by the words that one types."""

from __future__ import annotations

from typing import Any


def all_verbs() -> dict[str, Any]:
    """Each verb's command by its name: `push`, or `pipeline push`."""
    from typer.main import get_command

    from holdfast.cli import app

    found: dict[str, Any] = {}
    top: Any = get_command(app)
    for name, command in top.commands.items():
        below = getattr(command, "commands", None)
        if below is None:
            found[name] = command
        else:
            found |= {f"{name} {verb}": one for verb, one in below.items()}
    return found

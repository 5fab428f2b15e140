"""How a verb fails: one line on stderr, a JSON object where one is awaited, and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer

from holdfast.cli.output import emit, emitted, say
from holdfast.errors import ExitCode, HoldfastError

#: click's UsageError, which Typer vendors without a public name
Misuse: Any = typer.BadParameter.__base__

#: as a shell says it of a program that SIGINT ended
INTERRUPTED = 130

#: what an interrupted verb leaves
_LEFT = {
    "commit": "the bundle is whole or not there, see `holdfast list`; what was copied is swept",
    "push": "a snapshot is whole or not there, see `holdfast list`; the next push goes on from what"
    " is in the store",
    "pull": "a bundle is whole or not there, see `holdfast list`; pull again for the missing ones",
    "stage": "nothing is staged, and training is not affected; stage again",
    "switch": "`holdfast latest` shows which generation is the present one; switch again",
    "verify": "nothing was changed",
    "prune": "what is deleted stays deleted, and no snapshot misses any data; prune again",
    "delete": "`holdfast list` shows whether the snapshot is still there",
    "adopt": "the store belongs to the old owner or to the new one; adopt again",
    "pipeline push": "a snapshot is whole or not there, see `holdfast list`; push again",
    "pipeline pull": "the database is as it was, or all of it is restored; pull again",
    "backup": "the ActionSet goes on in the cluster; the same command waits for it again",
    "restore": "the ActionSet goes on in the cluster; the same command waits for it again",
}

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "greater_than_equal": "{ge:.15g} or more",
    "less_than_equal": "{le:.15g} or less",
}
_REMEDIES = {
    errno.ENOSPC: "free some space, then run it again",
    errno.EDQUOT: "the quota is used up: free some space, then run it again",
    errno.EROFS: "it is mounted read-only",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ESTALE: "the file server lost it: mount it again",
}


def fail(error: BaseException, json_wanted: bool, verb: str | None = None) -> int:
    """Report an error as one line, and as JSON if that is wanted; returns the exit code."""
    message, code = describe(error, verb)
    line = "holdfast: " + " ".join(message.split())
    say(line)
    if json_wanted and not emitted():
        try:
            emit({"error": line.removeprefix("holdfast: "), "exit_code": code})
        except (HoldfastError, OSError) as unwritable:
            if not isinstance(error, type(unwritable)):
                say(f"holdfast: {unwritable}")
    if os.environ.get("HOLDFAST_DEBUG"):
        for text in traceback.format_exception(error):
            for part in text.rstrip().splitlines():
                say(part)
    return code


def describe(error: BaseException, verb: str | None = None) -> tuple[str, int]:
    """What went wrong, with the remedy, and the exit code for it."""
    if isinstance(error, HoldfastError):
        return str(error), int(error.exit_code)
    if isinstance(error, Misuse):
        context: Any = getattr(error, "ctx", None)
        command = context.command_path if context else "holdfast"
        return f"{_misuse(error)}: see `{command} --help`", ExitCode.MISUSE
    if isinstance(error, KeyboardInterrupt):
        left = _LEFT.get(verb or "", "nothing was changed")
        return f"interrupted: {left}", INTERRUPTED
    if isinstance(error, MemoryError):
        return "out of memory: lower --memory, or give the process more", ExitCode.FAILED
    if isinstance(error, OSError) and (error.errno or error.filename):
        where = f"{error.filename}: " if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "check that it exists and may be used")
        return f"{where}{error.strerror or error}: {remedy}", ExitCode.FAILED
    said = str(error) or "no message"
    return (
        f"unexpected {type(error).__name__} ({said[:600]}): this is a fault of Holdfast; please"
        " report it with what HOLDFAST_DEBUG=1 adds",
        ExitCode.FAILED,
    )


def _misuse(error: Any) -> str:
    """What was typed wrong, in words of ours: the value, the rule."""
    cause, param = error.__cause__, getattr(error, "param", None)
    if type(error) is not typer.BadParameter or param is None:
        return str(error.format_message()).rstrip(".")
    name = name_of(error.ctx, param)
    if not hasattr(cause, "errors"):
        return f"invalid {name}: {str(error.message).rstrip('.')}"
    found = cause.errors()[0]
    if choices := param.type_descriptor.choices:
        rule = " or ".join(str(choice) for choice in choices)
    elif expected := _EXPECTED.get(found["type"]):
        rule = expected.format(**found.get("ctx", {}))
    else:
        rule = str(found["msg"])
    return f"invalid {name} '{found['input']}': expected {rule}"


def name_of(context: Any, param: Any) -> str:
    """Where a value comes from: the option as typed, or the variable that was set."""
    source = context.get_parameter_source(param.name) if context else None
    if source is not None and source.name == "ENVIRONMENT":
        variable = param.envvar
        return str(variable if isinstance(variable, str) else variable[0])
    options = [str(option) for option in param.opts if option.startswith("-")]
    return max(options, key=len, default=str(param.display_name_raw).upper())


def catch_stray_messages() -> None:
    """Send what libraries, threads and destructors say on stderr the way of every other line."""

    class Say(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logging.getLogger().handlers[:] = [Say()]
    threading.excepthook = lambda args: say(
        f"a thread ended: {args.exc_type.__name__}: {args.exc_value}"
    )
    sys.unraisablehook = lambda args: say(f"ignored: {args.exc_type.__name__}: {args.exc_value}")


def json_wanted(words: Sequence[str]) -> bool:
    """Whether these arguments ask for JSON, also where they cannot be parsed."""
    asked = os.environ.get("HOLDFAST_OUTPUT", "")
    for word, after in pairwise([*words, ""]):
        if word == "--":
            break
        if word in ("-o", "--output"):
            asked = after
        elif word.startswith("--output="):
            asked = word.removeprefix("--output=")
        elif word.startswith("-o"):
            asked = word.removeprefix("-o").removeprefix("=")
    return asked == "json"

"""What Kanister says of a failed action, as a person reads it.

Of a task that failed, Kanister 0.119 writes sentences of its own into `status.error.message`, and
then the error as JSON: each cause with its place in Kanister's source, one of them the last ten
lines of the task's log, and the innermost with the pod's whole status. The reason is the last of
those lines; a task that was killed said nothing, and its reason is in the status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

#: how much of a long message is kept: how it begins, and the end, where the reason is
BEGINNING, END = 150, 450

_DETAILS = re.compile(r"(null|\{.*?\}): ")
_ENDED = re.compile(r"ContainerStateTerminated\{ExitCode:(-?\d+),Signal:\d+,Reason:(\w*),")
_ENDED_POD = re.compile(r",Message:([^{}]*),Reason:(\w+),HostIP:")
_DECODER = json.JSONDecoder()


def readable(message: str) -> str:
    """Kanister's message on one line: without its JSON, and without what is about its source."""
    parts = (" ".join(part.split()).removesuffix(":") for part in _parts(message))
    line = ": ".join(part for part in parts if part)
    if len(line) <= BEGINNING + END:
        return line
    return f"{line[:BEGINNING]} … {line[-END:]}"


def _parts(message: str) -> Iterator[str]:
    """The message's own words, and those of the errors that it holds as JSON."""
    if found := _DETAILS.match(message):  # the outermost error's, such as the pod's name
        message = message[found.end() :]
    said = at = 0
    while (start := message.find("{", at)) >= 0:
        try:
            error, at = _DECODER.raw_decode(message, start)
        except (ValueError, RecursionError):
            at = start + 1
            continue
        if "message" in error:
            yield message[said:start]
            yield from _chain(error)
            said = at
    yield message[said:]


def _chain(error: Any) -> Iterator[str]:
    """What an error and its causes say, and how the pod of the innermost ended."""
    while isinstance(error, dict):
        yield str(error.get("message", ""))
        details = error.get("details")
        if isinstance(details, dict):
            yield _ending(str(details.get("status", "")))
        error = error.get("cause")


def _ending(status: str) -> str:
    """How a pod ended, out of its status as Go prints it."""
    said = [f"{reason}: {why}" if why else reason for why, reason in _ENDED_POD.findall(status)]
    said += [f"exit code {code}, {reason}" for code, reason in _ENDED.findall(status)]
    return ", ".join(said)

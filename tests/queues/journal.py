"""What the writers of a volume noted, and whether that can be the truth of one writer at a time."""

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A writer opened the run at a step, saved a step, or closed it."""

    who: str
    what: str
    generation: int
    step: int
    state: str


def read(text: str) -> list[Line]:
    return [Line(**json.loads(line)) for line in text.splitlines()]


def violations(lines: Iterable[Line]) -> list[str]:
    """Everything that one writer after another could not have noted.

    * A line of a writer after another one had opened the run: two at once.
    * A run that is opened before its newest noted step, in a generation that a restore had left, or
      with a state that nobody saved: lost.
    * A step that is saved with another state than it had in that generation: history forked.
    """
    found: list[str] = []
    writer: Line | None = None
    newest: dict[int, int] = {}
    states: dict[int, dict[int, str]] = {}
    for line in lines:
        saved = states.setdefault(line.generation, {})
        if line.what == "opens":
            writer = line
            if line.generation < max(states):
                found.append(f"{_said(line)}, and generation {max(states)} is there")
            if line.step < newest.get(line.generation, 0):
                found.append(f"{_said(line)}, and step {newest[line.generation]} was saved")
            known = [of[line.step] for of in states.values() if line.step in of]
            if known and line.state not in known:
                found.append(f"{_said(line)} with a state that nobody saved")
            saved[line.step] = line.state
        elif writer is None or line.who != writer.who:
            found.append(f"{_said(line)} after {writer.who if writer else 'nobody'} opened the run")
        elif line.generation != writer.generation:
            found.append(f"{_said(line)}, but it opened generation {writer.generation}")
        elif line.what == "saved" and saved.setdefault(line.step, line.state) != line.state:
            found.append(f"{_said(line)} with another state than before")
        newest[line.generation] = max(newest.get(line.generation, 0), line.step)
    return found


def _said(line: Line) -> str:
    return f"{line.who} {line.what} step {line.step} of generation {line.generation}"

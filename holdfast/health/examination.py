"""Checks that run side by side and are all reported in time: the frame of `holdfast doctor`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from holdfast.errors import HoldfastError

#: seconds in which the doctor answers, whatever the volume and the store do
BUDGET = 18.0


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the report. `remedy` is empty when the level is ok."""

    name: str
    level: Level
    found: str
    remedy: str = ""


#: the name under which it is late, and what it does
Examination = tuple[str, Callable[[], Iterable[Check]]]


class Stop(Exception):
    """The rest of this group needs what this check did not find."""

    def __init__(self, check: Check) -> None:
        self.check = check


def examine(*groups: Iterable[Examination], budget: float = BUDGET) -> list[Check]:
    """Run groups of examinations side by side; in a group one after the other.

    A group ends at the first examination that the rest depends on. One that has not ended within
    the budget (seconds) is a failure by that name.
    """
    results: queue.Queue[tuple[int, str, Check | None]] = queue.Queue()
    doing = dict.fromkeys(range(len(groups)), "")

    def run(number: int) -> None:
        for name, examination in groups[number]:
            doing[number] = name
            try:
                for check in examination():
                    results.put((number, name, check))
            except Stop as stop:
                results.put((number, name, stop.check))
                break
            except HoldfastError as error:
                results.put((number, name, failed(name, error)))
            except OSError as error:
                found = f"{error.filename}: {error.strerror}" if error.filename else str(error)
                check = Check(name, Level.FAIL, found, "is it mounted, and may this user read it?")
                results.put((number, name, check))
            except Exception as error:  # the doctor always answers
                found = f"{type(error).__name__}: {error}"
                results.put(
                    (number, name, Check(name, Level.FAIL, found, "please report this bug"))
                )
        results.put((number, "", None))

    end = time.monotonic() + budget
    for number in doing:
        threading.Thread(target=run, args=(number,), daemon=True).start()
    found: dict[int, list[Check]] = {number: [] for number in doing}
    waiting = set(doing)
    while waiting:
        try:
            number, _, check = results.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        if check is None:
            waiting.discard(number)
        else:
            found[number].append(check)
    for number in sorted(waiting):
        late = f"no answer within {budget:.0f} s"
        remedy = "is the storage behind it overloaded, hung or cut off?"
        found[number].append(Check(doing[number], Level.FAIL, late, remedy))
    return [check for number in sorted(found) for check in found[number]]


def lazily(name: str, group: Callable[[], Iterable[Examination]]) -> Iterator[Examination]:
    """A group that is opened as its first examination, since opening alone may take for ever."""
    opened: list[Examination] = []

    def open_it() -> Iterable[Check]:
        opened.extend(group())
        return ()

    yield name, open_it
    yield from opened


def failed(name: str, error: HoldfastError) -> Check:
    """An error as a check: its line ends with the remedy."""
    found, _, remedy = str(error).rpartition(": ")
    return Check(name, Level.FAIL, found or remedy, remedy if found else "")

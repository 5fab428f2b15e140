"""Progress on stderr: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.cli.output import plain, said_above_bar, say
from holdfast.printable import printable
from holdfast.text import figures, size

if TYPE_CHECKING:
    from holdfast.progress import Progress

#: a log that another program reads gets at most one line in so many seconds
LINE_SECONDS = 10.0


class Lines:
    """Plain, rate-limited lines for logs. Short work passes without any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._what, self._total, self._done = "", 0, 0
        self._started = self._told = clock()

    def start(self, what: str, files: int, size: int) -> None:
        with self._lock:
            self._what, self._total, self._done = what, size, 0
            self._started = self._told = self._clock()

    def advance(self, size: int) -> None:
        with self._lock:
            self._done += size
            now = self._clock()
            if now - self._told < LINE_SECONDS:
                return
            self._told = now
            line = self._line(now)
        say(line)

    def file(self, path: str) -> None:
        pass

    def note(self, text: str) -> None:
        say(text)

    def _line(self, now: float) -> str:
        percent = f"{100 * self._done // self._total} % of " if self._total else ""
        done = figures(self._done, now - self._started)
        return f"{self._what}: {percent}{size(self._total)}: {done}"


class Bars:
    """A bar for each copy, with rate and remaining time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def start(self, what: str, files: int, size: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(printable(what), total=size or None)

    def advance(self, size: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, size)

    def file(self, path: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._bars.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """What fits where stderr goes."""
    if sys.stderr.isatty() and not plain():
        with Bars() as bars, said_above_bar(bars.note):
            yield bars
    else:
        yield Lines()

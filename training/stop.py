"""Asking a training to stop: a signal to one process becomes a decision of all ranks.

Kubernetes sends SIGTERM to the entry process, which creates a file for its ranks; a rank that gets
the signal itself notes it. Each rank checks once per step, and the result is reduced over all
ranks: a rank that stopped on its own flag alone would leave the others waiting for ever.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequested(Exception):
    """The entry process was asked to stop while it had no ranks that could save."""


class Stop:
    """This rank's view of whether somebody asked the training to stop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._signalled = False
        for number in _SIGNALS:
            signal.signal(number, self._note)

    @property
    def asked(self) -> bool:
        return self._signalled or self._file.exists()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


@contextmanager
def forward_stop(file: Path, patience: float, idle: Callable[[], bool]) -> Iterator[None]:
    """In the entry process: a signal creates `file`; TimeoutError follows `patience` seconds later.

    Raises StopRequested at once if `idle` says that there are no ranks to see the file.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if not file.exists():
            file.touch()
            signal.setitimer(signal.ITIMER_REAL, patience)
        if idle():
            raise StopRequested

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the ranks did not stop within {patience:g} s: raise shutdown_timeout")

    handlers = dict.fromkeys(_SIGNALS, ask) | {signal.SIGALRM: give_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

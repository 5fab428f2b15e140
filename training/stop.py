"""Asking a training to stop: a signal to one process becomes a decision of all ranks.

Kubernetes sends SIGTERM to the entry process, which creates a file for its ranks; a rank that gets
the signal itself notes it. Each rank checks once per step, and the result is reduced over all
ranks: a rank that stopped on its own flag alone would leave the others waiting for ever.

Ranks have nothing to save until they have begun to train; a second file says that they have. Until
then a stop ends everything at once.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_requested = False  # in the entry process


class StopRequested(BaseException):
    """The entry process was asked to stop while no rank had anything to save.

    Not an Exception: it is raised by a signal, also inside of code that handles every Exception.
    """


class StopFiles:
    """What the entry process and its ranks tell each other by files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._asked = folder / "stop"
        self._training = folder / "training"

    @property
    def asked(self) -> bool:
        """Whether the entry process was asked to stop."""
        return self._asked.exists()

    def ask(self) -> None:
        self._asked.touch()

    @property
    def training(self) -> bool:
        """Whether the ranks have begun to train, and so have something to save."""
        return self._training.exists()

    def begin_training(self) -> None:
        self._training.touch()

    def begin_round(self) -> None:
        """New ranks are about to start."""
        self._training.unlink(missing_ok=True)


class Stop:
    """This rank's view of whether somebody asked the training to stop."""

    def __init__(self, files: StopFiles) -> None:
        self.files = files
        self._signalled = False
        for number in SIGNALS:
            signal.signal(number, self._note)
        # Blocked since the fork server started: what came meanwhile arrives now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @property
    def asked(self) -> bool:
        return self._signalled or self.files.asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def raise_on_signals() -> None:
    """In the entry process, first of all: from now on a signal raises StopRequested.

    Should the code that it interrupts swallow that, `forward_stop` raises it again.
    """

    def note(number: int, frame: FrameType | None) -> NoReturn:
        global _requested
        _requested = True
        raise StopRequested

    for number in SIGNALS:
        signal.signal(number, note)


def ignore_signals() -> None:
    """In the entry process, last of all: its outcome is known and does not change any more."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Deliver signals only afterwards; what is started meanwhile stays deaf to them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def forward_stop(files: StopFiles, patience: float, asked: Callable[[], None]) -> Iterator[None]:
    """In the entry process: a signal calls `asked` and asks the ranks to stop.

    Raises StopRequested at once unless the ranks train, else TimeoutError `patience` seconds later.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if not files.asked:
            files.ask()
            signal.setitimer(signal.ITIMER_REAL, patience)
            asked()
        if not files.training:
            raise StopRequested

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the ranks did not stop within {patience:g} s: raise shutdown_timeout")

    handlers = dict.fromkeys(SIGNALS, ask) | {signal.SIGALRM: give_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        if _requested:
            raise StopRequested
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

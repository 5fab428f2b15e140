"""Remove old bundles behind the saves, so that a slow volume holds up neither a save nor a stop."""

import threading
import time
from collections.abc import Callable

from holdfast.volume import Volume


class Cleanup:
    """Keeps the newest `keep` bundles of a run, on a thread of its own, one removal at a time.

    A failure is a message and nothing else: the save that came before it is committed. Where the
    process ends in the middle, the next start removes what is left.
    """

    def __init__(self, volume: Volume, keep: int) -> None:
        self._volume = volume
        self._keep = keep
        self._lock = threading.Lock()
        self._running = False
        self._wanted = False
        self._problem: str | None = None

    @property
    def busy(self) -> bool:
        """Whether bundles are being removed. A save that begins now needs space for one more."""
        return self._running

    def start(self) -> None:
        """Remove in the background; once more afterwards if a removal is running already."""
        with self._lock:
            self._wanted = True
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="cleanup", daemon=True).start()

    def problem(self) -> str | None:
        """Why old bundles could not be removed; None if they were, or if this was asked before."""
        problem, self._problem = self._problem, None
        return problem

    def wait(self, seconds: float, give_up: Callable[[], bool]) -> None:
        """Wait until nothing is being removed, `seconds` have passed, or `give_up` says so."""
        deadline = time.monotonic() + seconds
        while self._running and not give_up() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _run(self) -> None:
        while self._once_more():
            try:
                self._volume.keep(self._keep)
            except Exception as error:
                self._problem = str(error) or type(error).__name__

    def _once_more(self) -> bool:
        with self._lock:
            self._running, self._wanted = self._wanted, False
            return self._running

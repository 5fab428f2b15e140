"""SIGTERM as a wish that the training loop looks at, instead of the end of the process."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from holdfast.errors import UsageError


class StopSignal:
    """Notes SIGTERM between `begin` and `end`; outside, it does what it did before.

    Kubernetes sends SIGTERM when a pod has to go, and SIGKILL when its grace period is over.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._noting = False

    def begin(self) -> None:
        """From now on SIGTERM is noted. Raises UsageError outside of the main thread."""
        if self._noting:
            return
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "training runs in a thread, where Python takes no signals, and SIGTERM would lose"
                " the steps since the last save: train in the main thread"
            )
        self._before = signal.signal(signal.SIGTERM, self._note)
        self._noting = True

    def end(self) -> None:
        """Give SIGTERM back."""
        if self._noting:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._noting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

"""Notice a training that crashes again and again without making progress.

The Job starts new pods for ever, and the pod its ranks. A small file on the volume counts the
starts since the newest bundle changed, so the count survives pods; a newer bundle or an orderly end
resets it. A start that somebody ended on purpose does not count. Only one process counts: the entry
process of the first node.
"""

import json

from holdfast import durable
from holdfast.errors import ExitCode, HoldfastError
from holdfast.volume import Volume

FILE = ".attempts.json"


class CrashLoopFound(HoldfastError):
    """Too many starts in a row ended without a newer bundle."""

    exit_code = ExitCode.REFUSED


class CrashLoop:
    """The count for one run. `limit` is the number of starts that may end without a bundle."""

    def __init__(self, volume: Volume, limit: int) -> None:
        self._volume = volume
        self._limit = limit
        self._before: int | None = None  # the count before the last start of this process
        self.file = volume.run_path / FILE

    def count_start(self) -> None:
        """Count a start, durably. Raises CrashLoopFound if no further start makes sense."""
        newest = self._newest()
        self._before = self._starts(newest)
        self._write(newest, self._before + 1)
        if self._before >= self._limit:
            since = newest.rpartition("/")[2] or "step 0"
            raise CrashLoopFound(
                f"{self._limit} starts in a row from {since} ended without a newer bundle: "
                f"fix the cause, then remove {FILE} from the run's directory"
            )

    def forget_start(self) -> None:
        """The last start of this process was ended on purpose: it does not count."""
        if self._before is None:
            return
        newest = self._newest()
        if self._before and self._starts(newest):
            self._write(newest, self._before)
        else:
            self.reset()
        self._before = None

    def reset(self) -> None:
        """After an orderly end: the next start counts as the first."""
        self.file.unlink(missing_ok=True)

    def _newest(self) -> str:
        bundles = self._volume.bundles()
        return f"{bundles[0].path.parent.name}/{bundles[0].name}" if bundles else ""

    def _starts(self, newest: str) -> int:
        try:
            state = json.loads(self.file.read_text())
            return int(state["starts"]) if state["newest"] == newest else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _write(self, newest: str, starts: int) -> None:
        durable.make_directories(self.file.parent)
        state = {"newest": newest, "starts": starts}
        durable.write_durably(self.file, f"{json.dumps(state)}\n".encode())

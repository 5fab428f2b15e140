"""Notice a training that dies again and again without getting anywhere.

The Job controller starts a pod for ever, and so do the ranks' own restarts. A small file on the
volume counts the starts since the newest bundle changed, so the count survives pods; a newer bundle
or an orderly end begins it anew.
"""

import json
from dataclasses import dataclass

from holdfast import durable
from holdfast.volume import Volume

FILE = ".attempts.json"


@dataclass(frozen=True)
class Attempt:
    """One start: the how many-th (from 1 on) since `newest`, a bundle's name, was the newest."""

    number: int
    newest: str


class Attempts:
    """The count for one run. Without a usable volume nothing is counted."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.file = volume.run_path / FILE

    def begin(self) -> Attempt:
        """Count a start, durably."""
        newest = self._newest()
        attempt = Attempt(self._starts(newest) + 1, newest.rpartition("/")[2] or "step 0")
        durable.make_directories(self.file.parent)
        state = {"newest": newest, "starts": attempt.number}
        durable.write_durably(self.file, f"{json.dumps(state)}\n".encode())
        return attempt

    def clear(self) -> None:
        """An orderly end: the next start is the first one again."""
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


def exhausted(attempt: Attempt, limit: int) -> str | None:
    """Why no further start makes sense, if that is so."""
    if attempt.number <= limit:
        return None
    return (
        f"{limit} starts in a row from {attempt.newest} ended without a newer bundle: "
        f"find out why, then remove {FILE} from the run's directory"
    )

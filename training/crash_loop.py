"""Notice a training that crashes again and again without making progress.

The Job starts new pods for ever, and the pod its ranks. A small file on the volume counts the
starts since the newest bundle changed, so the count survives pods; a newer bundle or an orderly end
resets it.
"""

import json
from dataclasses import dataclass

from holdfast import durable
from holdfast.volume import Volume

FILE = ".attempts.json"


@dataclass(frozen=True)
class Starts:
    """How many starts there were, this one included, since `newest` became the newest bundle."""

    count: int
    newest: str


class CrashLoop:
    """The count for one run. Without a usable volume nothing is counted."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.file = volume.run_path / FILE

    def count_start(self) -> Starts:
        """Count a start, durably."""
        newest = self._newest()
        starts = Starts(self._starts(newest) + 1, newest.rpartition("/")[2] or "step 0")
        durable.make_directories(self.file.parent)
        state = {"newest": newest, "starts": starts.count}
        durable.write_durably(self.file, f"{json.dumps(state)}\n".encode())
        return starts

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


def reason_to_give_up(starts: Starts, limit: int) -> str | None:
    """Why no further start makes sense; None while one does."""
    if starts.count <= limit:
        return None
    return (
        f"{limit} starts in a row from {starts.newest} ended without a newer bundle: "
        f"fix the cause, then remove {FILE} from the run's directory"
    )

"""What the tests of each framework do with its lab: stop a training, and train on two ranks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.bundle import Bundle
from holdfast.volume import Volume
from tests.holdfast.integrations.lab import Window


def bundles(folder: Path) -> list[Bundle]:
    """What a lab has saved, newest first."""
    return Volume(folder / "volume", "lab").bundles()


def stopped_in(lab: Any, folder: Path, step: int, **settings: Any) -> None:
    """Train until SIGTERM in this step, which must end with 75."""
    with pytest.raises(SystemExit) as end:
        lab.train(folder, True, Window(), signal_in=step, **settings)
    assert end.value.code == 75


def stops_on_two_ranks_and_resumes(
    script: str, folder: Path, other: Path, port: Callable[[], int], terminated: int
) -> list[str]:
    """SIGTERM to one of two ranks saves both, and the next start ends as an undisturbed training.

    Args:
        other: an empty directory, for the undisturbed one.
        port: gives a free one for each training.

    Returns the paths of the files of the bundle that the stop left.
    """
    (other / "volume").mkdir()
    undisturbed = on_two_ranks(script, other, port())
    assert [code for code, _ in undisturbed] == [0, 0], undisturbed

    stopped = on_two_ranks(script, folder, port(), terminated=terminated)
    assert [code for code, _ in stopped] == [75, 75], stopped
    files = [entry.path for entry in bundles(folder)[0].manifest.files]

    assert on_two_ranks(script, folder, port()) == undisturbed
    return files


def on_two_ranks(
    script: str, folder: Path, port: int, terminated: int = 0, **environment: str
) -> list[tuple[int, str]]:
    """Run a script (FOLDER STEP) on two ranks; rank 1 alone gets SIGTERM in step `terminated`.

    Returns each rank's exit code, with its line that begins with END or else its last words.
    """
    ranks = []
    for rank in (0, 1):
        ours = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        term = terminated if rank == 1 else 0
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-c", script, str(folder), str(term)],
                env=os.environ | ours | environment,
                cwd=Path(__file__).parents[3],
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    ended = []
    for rank in ranks:
        out, errors = rank.communicate(timeout=240)
        lines = [line for line in out.splitlines() if line.startswith("END")]
        good = lines and rank.returncode >= 0
        ended.append((rank.returncode, lines[0] if good else errors[-2000:]))
    return ended

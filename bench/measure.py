"""Run commands and measure what they cost."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 2**10, 2**20, 2**30
PYTHON = sys.executable
HOLDFAST = [PYTHON, "-m", "holdfast"]


@dataclass(frozen=True)
class Cost:
    """What one command took: wall and processor seconds (its children included), and the greatest
    resident memory of the process itself in bytes."""

    seconds: float
    cpu: float
    memory: int = 0


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end. Raises RuntimeError, with what it printed, unless it exits 0."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**own, **(environment or {})},
        )
        peak, ended = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, ended), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")[-800:]
            raise RuntimeError(f"{' '.join(command)} exited {process.returncode}: {text}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak[0])


def interleaved(
    tools: Mapping[str, Callable[[], Cost]], runs: int, slow: Sequence[str] = ()
) -> dict[str, list[Cost]]:
    """Run every tool once per round, in turn; the slow ones in the first three rounds only."""
    costs: dict[str, list[Cost]] = {name: [] for name in tools}
    for number in range(runs):
        for name, tool in tools.items():
            if number < 3 or name not in slow:
                costs[name].append(tool())
                say(f"  {name}: {costs[name][-1].seconds:.2f} s")
    return costs


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(c.seconds for c in costs),
        statistics.median(c.cpu for c in costs),
        max(c.memory for c in costs),
    )


def ratio(ours: Sequence[Cost], theirs: Sequence[Cost]) -> float:
    """How many times as fast we are: the median over the rounds that both took part in."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=False))


def random_file(path: Path, size: int) -> None:
    """A file that neither compresses nor deduplicates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, 16 * MIB):
            file.write(os.urandom(min(16 * MIB, size - start)))


def size_text(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"


def say(text: str) -> None:
    print(text, flush=True)


def _watch(pid: int, peak: list[int], ended: threading.Event) -> None:
    """The kernel keeps the peak itself; what it says last is the peak of the whole run."""
    status = Path(f"/proc/{pid}/status")
    while not ended.wait(0.02):
        try:
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM"):
                    peak[0] = int(line.split()[1]) * 1024
        except OSError:
            return

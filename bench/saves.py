"""Training time that a save costs: two ranks that compute, with saves and without."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from bench.measure import PYTHON, run, size_text
from bench.report import Table

RANKS = 2
SAVES = 4  # per run and kind
RAW = "dcp.async_save, buffers reused"


def question(work: Path, runs: int, state: int) -> list[Table]:
    """(wall with saves − wall without) / saves, of all kinds of save in turn in one process."""
    result = work / "result.json"
    command = [PYTHON, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    options = [str(work / "saves"), str(result), str(state), str(runs), str(SAVES)]
    run([*command, "-m", "bench.saving", *options], {"OMP_NUM_THREADS": "1"})
    found: dict[str, dict[str, list[float]]] = json.loads(result.read_text())
    title = f"Time lost per save of {size_text(state)}, {RANKS} ranks, {runs * SAVES} saves of each"
    header = ("kind of save", "lost, ms per save", "stall, ms", "× the first async_save")
    table = Table(title, header)
    raw = statistics.median(found[RAW]["lost"])
    for name, times in found.items():
        lost, stall = statistics.median(times["lost"]), statistics.median(times["stall"])
        table.rows.append((name, f"{lost * 1e3:.0f}", f"{stall * 1e3:.0f}", f"{lost / raw:.2f}"))
    return [table]

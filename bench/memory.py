"""Resident memory of push and pull: bounded by a setting, whatever the size."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bench.measure import HOLDFAST, MIB, Cost, run, say, size_text
from bench.report import Table
from bench.server import server
from bench.transfer import volume, where

ROOM = 2.2
"""Free space needed, as a multiple of the bundle: the server assembles a large object from its
parts, and a pull makes another copy. The bundle itself is a sparse file."""


def question(places: list[Path], sizes: list[int]) -> list[Table]:
    """Each size in the first of ``places`` with room for it; a size without room is left out."""
    header = ("bundle", "push, 8 files", "push, one file", "pull, 8 files", "pull, one file")
    table = Table("Peak resident memory of the process, MB", header)
    for size in sizes:
        roomy = [p for p in places if shutil.disk_usage(p).free > ROOM * size]
        if not roomy:
            say(f"  {size_text(size)} is left out: it needs {ROOM * size / 1e9:.0f} GB of space")
            continue
        costs: list[Cost] = []
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=roomy[0]) as work:
            for count in (8, 1):
                costs += _both(Path(work), count, size)
        eight_push, eight_pull, one_push, one_pull = (f"{c.memory / 1e6:.0f}" for c in costs)
        table.rows.append((size_text(size), eight_push, one_push, eight_pull, one_pull))
    table.notes = ["With the default setting (256 MiB of data at once, 8 MiB parts)."]
    return [table]


def _both(work: Path, count: int, size: int) -> list[Cost]:
    with server(work) as s3, s3.bucket() as bucket:
        with volume(work, count, size // count, _sparse_file) as (root, _):
            push = run([*HOLDFAST, "push", "--volume", str(root), *where(bucket)], s3.environment)
        target = work / "target"
        target.mkdir()
        pull = run([*HOLDFAST, "pull", "--volume", str(target), *where(bucket)], s3.environment)
        shutil.rmtree(target)
    say(f"  {size // MIB} MiB in {count}: {push.memory / 1e6:.0f}, {pull.memory / 1e6:.0f} MB")
    return [push, pull]


def _sparse_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)

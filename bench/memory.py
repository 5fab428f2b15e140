"""Resident memory of push and pull: bounded by a setting, whatever the size."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.measure import HOLDFAST, MIB, Cost, run, say, size_text
from bench.report import Table
from bench.server import server
from bench.transfer import volume, where


def question(work: Path, sizes: list[int]) -> list[Table]:
    header = ("bundle", "push, 8 files", "push, one file", "pull, 8 files", "pull, one file")
    table = Table("Peak resident memory of the process, MB", header)
    for size in sizes:
        costs: list[Cost] = []
        for count in (8, 1):
            costs += _both(work, count, size)
        eight_push, eight_pull, one_push, one_pull = (f"{c.memory / 1e6:.0f}" for c in costs)
        table.rows.append((size_text(size), eight_push, one_push, eight_pull, one_pull))
    table.notes = [f"With the default setting (256 MiB of data at once, {8} MiB parts)."]
    return [table]


def _both(work: Path, count: int, size: int) -> list[Cost]:
    with server(work) as s3, s3.bucket() as bucket:
        with volume(work, count, size // count) as (root, _):
            push = run([*HOLDFAST, "push", "--volume", str(root), *where(bucket)], s3.environment)
        target = work / "target"
        target.mkdir()
        pull = run([*HOLDFAST, "pull", "--volume", str(target), *where(bucket)], s3.environment)
        shutil.rmtree(target)
    say(f"  {size // MIB} MiB in {count}: {push.memory / 1e6:.0f}, {pull.memory / 1e6:.0f} MB")
    return [push, pull]

"""Adding a dataset beside reading its folder and writing the same files to the same store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bench.measure import HOLDFAST, KIB, Cost, median, random_file, ratio, run, say
from bench.peers import s5cmd
from bench.report import Table
from bench.server import Server, server
from holdfast.text import size as text

ADD, AGAIN = "holdfast add", "the same again, unchanged"
FILES = 1000  # in a directory


def question(work: Path, runs: int, size: int, files: int, small: int) -> list[Table]:
    """A dataset of ``files`` files, and one of ``small`` files of 1 KiB."""
    return [_table(work, runs, size // files, files), _table(work, 1, KIB, small)]


def _table(work: Path, runs: int, size: int, files: int) -> Table:
    folder, cache = work / "folder", work / "cache"
    for number in range(files):
        random_file(folder / f"{number // FILES:03d}/{number:06d}", size)
    total = size * files
    table = Table(
        f"{files:,} files of {text(size)}, over HTTP",
        ("what", "seconds", "MB/s", "files/s", "peak memory, MB", "× the slower of read and write"),
    )
    costs: dict[str, list[Cost]] = {}
    with server(work) as s3:
        for number in range(runs):
            with s3.bucket() as bucket, s3.bucket() as other:
                tools = _tools(s3, folder, cache, bucket, other)
                for name, tool in tools.items():
                    costs.setdefault(name, []).append(tool())
                    say(f"  {number + 1}. {name}: {costs[name][-1].seconds:.2f} s")
            shutil.rmtree(cache, ignore_errors=True)
    read, write, *_ = costs
    slower = max((read, write), key=lambda name: median(costs[name]).seconds)
    for name, taken in costs.items():
        cost = median(taken)
        table.rows.append(
            (
                name,
                f"{cost.seconds:.2f}",
                f"{total / 1e6 / cost.seconds:.0f}",
                f"{files / cost.seconds:,.0f}",
                f"{cost.memory / 1e6:.0f}",
                f"{ratio(taken, costs[slower]):.2f}",
            )
        )
    shutil.rmtree(folder)
    return table


def _tools(
    s3: Server, folder: Path, cache: Path, bucket: str, other: str
) -> dict[str, Callable[[], Cost]]:
    where = ["--store", f"s3://{bucket}/bench", "--owner", "bench/bench"]

    def add(version: str, *options: str) -> Cost:
        command = [*HOLDFAST, "add", "dataset", str(folder), "--name", "bench", *where]
        environment = s3.environment | {"XDG_CACHE_HOME": str(cache)}
        return run([*command, "--version", version, *options], environment)

    return {
        "read of the folder (tar, to nowhere)": lambda: run(
            ["sh", "-c", f"tar -cf - -C '{folder}' . | cat > /dev/null"]
        ),
        "write to the store (s5cmd)": lambda: s5cmd(s3, f"{folder}/", f"s3://{other}/copy/"),
        ADD: lambda: add("1"),
        AGAIN: lambda: add("1"),
        "the same again, every byte read (--rehash)": lambda: add("1", "--rehash"),
        "the same content as another version": lambda: add("2"),
    }

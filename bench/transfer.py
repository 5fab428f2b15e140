"""Push and verified pull beside their peers, over plain HTTP and over TLS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import peers
from bench.measure import HOLDFAST, Cost, interleaved, median, random_file, ratio, run, size_text
from bench.report import Table
from bench.server import Server, server
from holdfast.bundle import BundleWriter

OURS = "holdfast"
HEADER = ("tool", "seconds", "MB/s", "client CPU s/GB", "runs", "holdfast is … × as fast")
WHERE = ["--run", "bench", "--workload", "bench", "--owner", "bench/bench"]


def push_question(work: Path, runs: int, size: int, splits: list[int]) -> list[Table]:
    """Bundles of the same size in more and fewer files, over HTTP and TLS."""
    tables = []
    for count in splits:
        with volume(work, count, size // count) as (root, bundle):
            for tls in (False, True):
                with server(work, tls=tls) as s3:
                    tools = _pushers(s3, root, bundle, tls=tls)
                    what = f"{size_text(size)} in {count} file{'s' if count > 1 else ''}"
                    title = f"Push of {what} over {'TLS' if tls else 'HTTP'}"
                    slow = [name for name in tools if name not in (OURS, "s5cmd")]
                    tables.append(_table(title, interleaved(tools, runs, slow), size))
    return tables


def pull_question(work: Path, runs: int, size: int) -> list[Table]:
    """A verified pull, beside a download that verifies nothing, and one that hashes afterwards."""
    tables = []
    for tls in (False, True):
        with server(work, tls=tls) as s3, s3.bucket() as bucket:
            with volume(work, 8, size // 8) as (root, _):
                run([*HOLDFAST, "push", "--volume", str(root), *where(bucket)], s3.environment)
            title = f"Pull of {size_text(size)} in 8 files over {'TLS' if tls else 'HTTP'}"
            tables.append(_table(title, interleaved(_pullers(s3, work, bucket), runs), size))
    return tables


@contextmanager
def volume(
    work: Path, count: int, size: int, make: Callable[[Path, int], None] = random_file
) -> Iterator[tuple[Path, Path]]:
    """A volume with one bundle of files, random ones; yields the volume and the bundle."""
    root = work / "volume"
    parent = root / "bench/gen-0001"
    parent.mkdir(parents=True)
    try:
        with BundleWriter(parent, "step-00000100", "checkpoint") as writer:
            for number in range(count):
                make(writer.path / f"__{number}_0.distcp", size)
            bundle = writer.commit({"run": "bench", "generation": 1, "step": 100})
        yield root, bundle.path
    finally:
        shutil.rmtree(root)


def where(bucket: str) -> list[str]:
    return [*WHERE, "--store", f"s3://{bucket}/bench"]


def _pushers(s3: Server, root: Path, bundle: Path, *, tls: bool) -> dict[str, Callable[[], Cost]]:
    def ours(bucket: str, **options: str) -> Cost:
        command = [*HOLDFAST, "push", "--volume", str(root), *where(bucket)]
        return run(command, s3.environment | options)

    tools: dict[str, Callable[[str], Cost]] = {
        OURS: ours,
        "s5cmd": lambda bucket: peers.s5cmd(s3, f"{bundle}/", f"s3://{bucket}/copy/"),
        f"{OURS}, payload signed": partial(ours, AWS_UNSIGNED_PAYLOAD="false"),
        "obstore, signed": lambda bucket: peers.obstore(s3, bundle, bucket),
        "obstore, unsigned": lambda bucket: peers.obstore(s3, bundle, bucket, unsigned=True),
    }
    if not tls and peers.program("restic"):
        tools["restic"] = lambda bucket: peers.restic(s3, bundle, bucket)
    if not tls and peers.program("rclone"):
        tools["rclone"] = lambda bucket: peers.rclone(s3, bundle, bucket)

    def fresh(push: Callable[[str], Cost]) -> Cost:
        with s3.bucket() as bucket:
            return push(bucket)

    return {name: partial(fresh, push) for name, push in tools.items()}


def _pullers(s3: Server, work: Path, bucket: str) -> dict[str, Callable[[], Cost]]:
    target = work / "target"
    endpoint = ["--endpoint-url", s3.endpoint]
    copy = [str(peers.program("s5cmd")), *endpoint, "cp", f"s3://{bucket}/bench/data/*"]
    hashing = (
        f"{' '.join(copy[:-1])} '{copy[-1]}' {target}/"
        f" && find {target} -type f -print0"
        f" | xargs -0 -n 1 -P {os.cpu_count()} openssl dgst -sha256"
    )
    ours = [*HOLDFAST, "pull", "--volume", str(target), *where(bucket)]
    commands = {
        OURS: ours,
        "s5cmd, verifying nothing": [*copy, f"{target}/"],
        "s5cmd, then OpenSSL on all cores": ["sh", "-c", hashing],
    }

    def fresh(command: list[str]) -> Cost:
        target.mkdir()
        try:
            return run(command, s3.environment)
        finally:
            shutil.rmtree(target)

    return {name: partial(fresh, command) for name, command in commands.items()}


def _table(title: str, costs: dict[str, list[Cost]], size: int) -> Table:
    table = Table(title, HEADER)
    for name, taken in costs.items():
        cost = median(taken)
        table.rows.append(
            (
                name,
                f"{cost.seconds:.2f}",
                f"{size / 1e6 / cost.seconds:.0f}",
                f"{cost.cpu / (size / 1e9):.2f}",
                str(len(taken)),
                f"{ratio(costs[OURS], taken):.2f}",
            )
        )
    return table

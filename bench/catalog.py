"""Stores with many snapshots, and bundles with many files: time, requests and memory."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.measure import HOLDFAST, Cost, run, say
from bench.peers import s5cmd
from bench.report import Table
from bench.server import Server, server
from bench.transfer import where
from holdfast.bundle import BundleWriter
from holdfast.copies.prune import prune
from holdfast.copies.push import push
from holdfast.defaults import Select
from holdfast.durable import in_threads
from holdfast.manifest import FileEntry, Manifest
from holdfast.retention import Policy
from holdfast.store import open_store
from holdfast.store.base import Store
from holdfast.store.documents import BundleRef, Snapshot, Verification, bundle_path
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.counting import counted
from testkit.stores import age

BUNDLES = 1000
GRACE = timedelta(days=1)
HEADER = ("what", "seconds", "requests", "of these", "peak memory, MB")
OWNER, RUN = "bench/bench", "bench"


def question(work: Path, snapshots: int) -> list[Table]:
    """A push with nothing new, a list, a dry prune and a real one."""
    return [_nothing_new(work), _many(work, snapshots)]


def small_files(work: Path, count: int) -> list[Table]:
    """One bundle of many files of 1 KiB, there and back."""
    table = Table(
        f"One bundle of {count:,} files of 1 KiB, over HTTP",
        ("what", "seconds", "files/s", "peak memory, MB"),
    )
    root, target = work / "volume", work / "target"
    parent = root / RUN / "gen-0001"
    parent.mkdir(parents=True)
    with BundleWriter(parent, "step-00000100", "dataset") as writer:
        for number in range(count):
            path = writer.path / f"{number // 1000:03d}/{number:06d}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(1024))
        bundle = writer.commit({"run": RUN, "generation": 1})
    with server(work) as s3, s3.bucket() as bucket, s3.bucket() as other:
        tools: dict[str, Callable[[], Cost]] = {
            "push": lambda: _verb(s3, bucket, "push", "--volume", str(root)),
            "s5cmd, up": lambda: s5cmd(s3, f"{bundle.path}/", f"s3://{other}/copy/"),
            "verified pull": lambda: _verb(s3, bucket, "pull", "--volume", str(target)),
            "s5cmd, down": lambda: s5cmd(s3, f"s3://{other}/copy/*", f"{work / 'down'}/"),
        }
        target.mkdir()
        (work / "down").mkdir()
        for name, tool in tools.items():
            cost = tool()
            say(f"  {name}: {cost.seconds:.1f} s")
            speed = f"{count / cost.seconds:,.0f}"
            table.rows.append((name, f"{cost.seconds:.1f}", speed, f"{cost.memory / 1e6:.0f}"))
    return [table]


def _nothing_new(work: Path) -> Table:
    table = Table(
        f"A push with nothing new: {BUNDLES:,} bundles, {BUNDLES:,} snapshots, all verified", HEADER
    )
    volume = Volume(work / "volume", RUN)
    manifests = []
    for step in range(BUNDLES):
        with BundleWriter(volume.generation_path(1), f"step-{step:08d}", "checkpoint") as writer:
            (writer.path / "weights").write_bytes(b"%d" % step)
            manifests.append(writer.commit({"run": RUN, "generation": 1}).manifest)
    with server(work) as s3, s3.bucket() as bucket, _environment(s3):
        store = open_store(f"s3://{bucket}/bench")
        _populate(store, manifests)
        for select in Select:
            options = ["--volume", str(volume.root), "--select", select.value]
            cost = _verb(s3, bucket, "push", *options)
            counting, requests = counted(store)
            push(volume, Catalog(counting, OWNER), RUN, select=select)
            table.rows.append(_row(f"`push --select {select.value}`", cost, requests))
    shutil.rmtree(volume.root)
    return table


def _many(work: Path, count: int) -> Table:
    table = Table(f"{count:,} snapshots of {count:,} bundles", HEADER)
    with server(work) as s3, s3.bucket() as bucket, _environment(s3):
        store = open_store(f"s3://{bucket}/bench")
        _populate(store, (_manifest(step) for step in range(count)))
        age(s3.s3.root / bucket / "bench", 2 * GRACE)

        counting, requests = counted(store)
        Catalog(counting, OWNER).listing(RUN, RUN)
        table.rows.append(_row("`list`", _verb(s3, bucket, "list"), requests))

        counting, requests = counted(store)
        prune(Catalog(counting, OWNER), RUN, Policy(), grace=GRACE, dry_run=True)
        cost = _verb(s3, bucket, "prune", "--side", "store", "--dry-run")
        table.rows.append(_row("`prune --dry-run`", cost, requests))

        twin = open_store(f"s3://{bucket}/twin")  # for counting: a prune can drop only once
        _populate(twin, (_manifest(step) for step in range(count)))
        age(s3.s3.root / bucket / "twin", 2 * GRACE)
        counting, requests = counted(twin)
        prune(Catalog(counting, OWNER), RUN, Policy(), grace=GRACE)
        cost = _verb(s3, bucket, "prune", "--side", "store")
        table.rows.append(_row("`prune` that drops nearly all", cost, requests))
        counting, requests = counted(store)
        prune(Catalog(counting, OWNER), RUN, Policy(), grace=GRACE)
        cost = _verb(s3, bucket, "prune", "--side", "store")
        table.rows.append(_row("`prune` after it", cost, requests))
    return table


def _populate(store: Store, manifests: Iterable[Manifest]) -> None:
    """Write what pushes and a verification would have written, without the data."""
    catalog = Catalog(store, OWNER)
    catalog.claim()
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(days=400)

    def write(item: tuple[int, Manifest]) -> None:
        sequence, manifest = item
        ref = BundleRef.at(bundle_path(RUN, RUN, 1, manifest), manifest)
        created = began + timedelta(minutes=30 * sequence)
        snapshot = Snapshot.build(RUN, RUN, 1, sequence, created, [ref])
        store.put_small(ref.manifest, manifest.to_bytes())
        store.put_small(snapshot.key, snapshot.to_bytes())
        record = Verification(
            snapshot=snapshot.id, at=created, kind="full", ok=True, bytes=manifest.size
        )
        store.put_small(f"verified/{RUN}/{snapshot.id}.json", record.to_bytes())

    in_threads(write, list(enumerate(manifests, start=1)), 16)


def _manifest(step: int) -> Manifest:
    files = [FileEntry(path="weights", size=1, sha256=f"{step:064x}")]
    labels: dict[str, str | int] = {"run": RUN, "generation": 1}
    return Manifest.build("checkpoint", f"step-{step:08d}", files, labels)


def _verb(s3: Server, bucket: str, *words: str) -> Cost:
    return run([*HOLDFAST, *words, *where(bucket)], s3.environment)


def _row(name: str, cost: Cost, requests: Counter[str]) -> tuple[str, ...]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in requests.most_common())
    say(f"  {name}: {cost.seconds:.2f} s, {kinds}")
    return name, f"{cost.seconds:.2f}", f"{requests.total():,}", kinds, f"{cost.memory / 1e6:.0f}"


@contextmanager
def _environment(s3: Server) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(s3.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

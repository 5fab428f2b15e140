"""Do some work repeatedly, each time in a new process that is killed one moment later than before.

A moment is a system call that makes something durable, visible or gone (`CALLS`), or a named
failpoint. Nothing sleeps: the n-th moment is found by counting. Between two moments a process only
writes bytes into files that have no name yet, which the traced kills of test_syscalls.py reach.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from holdfast import failpoint as failpoints
from holdfast.assets.aliases import all_current
from holdfast.assets.versions import versions
from holdfast.bundle import check_files, check_tree, verify
from holdfast.copies.verify_store import verify_snapshot
from holdfast.defaults import SHARED
from holdfast.manifest import MANIFEST, Manifest
from holdfast.store import open_store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER, WORKLOAD

CALLS = ("fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir")
NEVER = "commit.files-written@1000000=raise"  # switches the counting on, and never strikes


@dataclass
class Place:
    """A volume and a directory store below one directory, which can be copied."""

    root: Path
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def volume(self) -> Volume:
        return Volume(self.root / "volume", "run-a")

    @property
    def application(self) -> Volume:
        return Volume(self.root / "application", "serve", "model")

    @property
    def got(self) -> Path:
        return self.root / "got"

    @property
    def store(self) -> Path:
        return self.root / "store/project/stack"

    @property
    def catalog(self) -> Catalog:
        return Catalog(open_store(self.store.as_uri()), OWNER)

    def copy(self, root: Path) -> Place:
        shutil.copytree(self.root, root, symlinks=True)
        return Place(root)

    def check(self) -> None:
        """Nothing incomplete passes for complete: what has its final name has all its bytes."""
        for number in self.volume.generations():
            assert self.volume.damaged(number) == []
            for bundle in self.volume.bundles(number):
                verify(bundle.path)
        for number in self.application.generations():
            for bundle in self.application.bundles(number):
                verify(bundle.path)
        if self.got.exists():
            manifest = Manifest.parse((self.got / MANIFEST).read_bytes())
            check_tree(self.got, manifest)
            assert check_files(self.got, manifest.files) == []
        if self.store.exists():
            for workload in (WORKLOAD, *SHARED.values()):
                listing = self.catalog.listing(workload)
                assert listing.damaged == {}
                for snapshot in listing.snapshots:
                    assert verify_snapshot(self.catalog, snapshot, record=False).ok

    def has(self) -> dict[str, list[str]]:
        """The names of the bundles in each generation, and of those in snapshots."""
        found = {
            str(number): [bundle.name for bundle in self.volume.bundles(number)]
            for number in self.volume.generations()
        }
        if self.store.exists():
            known = self.catalog.snapshots(WORKLOAD)
            found["snapshots"] = [ref.name for snapshot in known for ref in snapshot.bundles]
            for kind, workload in SHARED.items():
                found[workload] = sorted({str(one) for one in versions(self.catalog, kind)})
                moves = all_current(self.catalog.store, workload)
                found[f"{workload}, aliases"] = [f"{one.alias} {one.version}" for one in moves]
        newest = self.application.newest_valid(quarantine=False)
        found["application"] = [newest.name] if newest else []
        found["got"] = sorted(path.name for path in self.got.glob("*"))
        return found

    def leftovers(self) -> list[str]:
        hidden = [".tmp-*", ".pull-*", ".stage-*", "store/project/stack/.tmp/*"]
        return [str(path) for what in hidden[:3] for path in self.root.rglob(what)] + [
            str(path) for path in self.root.glob(hidden[3])
        ]


Work = Callable[[Place], object]


def kill_at_every_call(template: Place, scratch: Path, work: Work) -> Iterator[Place]:
    """The place as a kill right before the n-th call left it, for each n; the last one is the
    place after work that nobody killed."""
    for number in count(1):
        place = template.copy(scratch / f"call-{number}")
        killed = dies(partial(_count_calls, number), work, place)
        yield place
        shutil.rmtree(place.root)
        if not killed:
            return


def kill_at(template: Place, scratch: Path, work: Work, failpoint: str) -> Place:
    """The place as a kill at ``name@n`` left it."""
    place = template.copy(scratch / failpoint)

    def arm() -> None:
        failpoints._passed.clear()
        os.environ[failpoints.ENVIRONMENT] = f"{failpoint}=kill"

    assert dies(arm, work, place), f"{failpoint} was never reached"
    return place


def passes(template: Place, scratch: Path, work: Work) -> Counter[str]:
    """How often undisturbed work passes each failpoint."""
    place = template.copy(scratch / "counted")
    failpoints._passed.clear()
    os.environ[failpoints.ENVIRONMENT] = NEVER
    try:
        work(place)
    finally:
        del os.environ[failpoints.ENVIRONMENT]
    return Counter(failpoints._passed)


def dies(arm: Callable[[], None], work: Work, place: Place) -> bool:
    """Whether a process that does the work is killed; fails when it ends in any other way."""
    child = os.fork()
    if not child:
        try:
            arm()
            work(place)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.waitstatus_to_exitcode(status) == 0
    return killed


def _count_calls(number: int) -> None:
    """From now on this process dies right before its ``number``-th call."""
    left, lock = number, threading.Lock()

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def before(*args: object, **named: object) -> object:
            nonlocal left
            with lock:
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return before

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))

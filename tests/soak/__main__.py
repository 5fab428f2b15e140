"""A long run: train, be killed, lose things, go on. `make soak CYCLES=300`, or with fewer cycles.

Each cycle trains on two ranks until it is killed, at a random named moment or at a random step from
outside; then some of these happen at random, each perhaps killed in the middle and done again: a
push, a prune, a restore to a random snapshot, its undoing, the loss of the whole volume, a flipped
bit. Then the next pod starts, with its `pull --if-empty`.

At any time each bundle must be, bit for bit, the one that an undisturbed training wrote at its
step; each snapshot must be whole; each start must go on from the newest valid state; and no kill
may cost more than two intervals. Ends with 1 at the first violation, and leaves all to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from holdfast import failpoint as failpoints
from holdfast.copies.prune import prune
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.defaults import Select
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch, switch_to_generation
from holdfast.retention import Policy
from testkit.stores import GRACE, WORKLOAD, age
from tests.holdfast.faults.killing import Place, dies

EVERY = 4  # steps between two saves
STEPS_PER_CYCLE = 6
KEEP = Policy(keep_last=4, hourly=0, daily=0, weekly=0, monthly=0)
SAVING = sorted(n for n in failpoints.FAILPOINTS if n.startswith(("save.", "commit.")))


class Violation(Exception):
    """The promise was broken."""


@dataclass
class Soak:
    """One volume and one store, and what an undisturbed training wrote: ``truth`` by step."""

    place: Place
    steps: int
    dice: random.Random
    truth: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def metrics(self) -> Path:
        return self.place.root / "metrics.jsonl"

    def reference(self) -> None:
        alone = Place(self.place.root.with_name("undisturbed"))
        if train(alone, self.steps, keep=100_000).wait():
            raise Violation("the undisturbed training failed")
        for bundle in alone.volume.bundles():
            self.truth[bundle.step or 0] = bundle.manifest.content
        shutil.rmtree(alone.root)

    def cycle(self) -> str:
        """One life of a pod, and what happens between two; returns what happened."""
        told = [self.life()]
        for name, act in self.acts():
            self.do(act)
            self.counts[name] += 1
            told.append(name)
        self.check()
        return ", ".join(told)

    def life(self, undisturbed: bool = False) -> str:
        """Pull if empty, train, be killed; check where it went on and what it lost."""
        expected = self.newest()
        self.do(partial(recover, start=Start.REQUIRE if expected else Start.AUTO))
        self.metrics.unlink(missing_ok=True)
        saves, at = self.dice.randrange(1, 4), self.dice.randrange(1, 3 * EVERY)
        inside = self.dice.random() < 0.5 and not undisturbed
        point = f"{self.dice.choice(SAVING)}@{saves}=kill" if inside else ""
        process = train(self.place, self.steps, point)
        if not inside and not undisturbed:
            while process.poll() is None and len(self.events("step")) < at:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        end_all(self.place.root)
        began = [event["step"] for event in self.events("resume")] or [0]
        done = [event["step"] for event in self.events("step")] or began
        if undisturbed and code:
            raise Violation(f"the last training ended with {code}")
        if self.events("step") and began[0] != expected:
            raise Violation(f"went on from step {began[0]} instead of {expected}")
        if done[-1] - self.newest() > 2 * EVERY:
            raise Violation(f"killed at step {done[-1]}, the newest state is {self.newest()}")
        self.counts["trainings killed" if code else "trainings that ended"] += 1
        return f"{point or 'kill from outside'}: {began[0]} → {done[-1]} → {self.newest()}"

    def acts(self) -> list[tuple[str, Callable[[Place], object]]]:
        """What happens between two lives, at random."""
        dice, place = self.dice, self.place
        chosen: list[tuple[str, Callable[[Place], object]]] = []
        if place.volume.bundles() and dice.random() < 0.7:
            chosen.append(("push", protect))
        if dice.random() < 0.3:
            chosen.append(("prune", tidy))
        known = place.catalog.snapshots(WORKLOAD) if place.store.exists() else []
        if known and (draw := dice.random()) < 0.8:
            if draw < 0.2:
                chosen.append(("volume lost", lose))
            elif draw < 0.4:
                chosen.append(("bit flipped", partial(flip, seed=dice.random())))
            elif draw < 0.6:
                number = (place.volume.present() or 0) + 1
                chosen.append(("restore", partial(restore, pick=dice.random(), to=number)))
            elif len(found := place.volume.generations()) > 1:
                to = found[-1] + 1
                chosen.append(("undo", partial(undo, to=to)))
        return chosen

    def do(self, act: Callable[[Place], object]) -> None:
        """Do it in a process that is perhaps killed at a failpoint, and then once more."""

        def arm() -> None:
            failpoints._passed.clear()
            names = self.dice.sample(sorted(failpoints.FAILPOINTS), 4)
            os.environ[failpoints.ENVIRONMENT] = ",".join(f"{name}=kill" for name in names)

        self.dice.random()  # another sample in the next child
        if dies(arm, act, self.place):
            self.counts["verbs killed"] += 1
            if dies(lambda: None, act, self.place):
                raise Violation("killed by nobody")

    def newest(self) -> int:
        """The step to go on from: of the newest valid bundle, else of the latest snapshot."""
        if valid := self.place.volume.newest_valid(quarantine=False):
            return valid.step or 0
        known = self.place.catalog.snapshots(WORKLOAD) if self.place.store.exists() else []
        return int(known[0].bundles[0].labels["step"]) if known else 0

    def check(self) -> None:
        volume = self.place.volume
        for number in volume.generations():
            for bundle in volume.bundles(number):
                if bundle.manifest.content != self.truth[bundle.step or 0]:
                    raise Violation(f"{bundle.path} is not what an undisturbed training wrote")
        if self.place.store.exists():
            listing = self.place.catalog.listing(WORKLOAD)
            if listing.damaged:
                raise Violation(f"damaged snapshots: {listing.damaged}")
            for snapshot in listing.snapshots:
                if not verify_snapshot(self.place.catalog, snapshot, record=False).ok:
                    raise Violation(f"snapshot {snapshot.id} is not whole")
        left = list(self.place.root.glob("volume/run-a/.pull-*"))
        if len(left) > 1:
            raise Violation(f"left over: {left}")

    def events(self, kind: str) -> list[dict[str, int]]:
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in whole if event["event"] == kind]


def train(place: Place, steps: int, failpoint: str = "", keep: int = 3) -> subprocess.Popen[bytes]:
    place.root.mkdir(parents=True, exist_ok=True)
    settings = {
        "volume": place.root / "volume",
        "run": "run-a",
        "data": corpus(place),
        "metrics": place.root / "metrics.jsonl",
        "preset": "tiny",
        "ranks": 2,
        "steps": steps,
        "save-every": EVERY,
        "when-busy": "wait",
        "keep": keep,
        "max-restarts": 0,
        "attempts": 1000,
        "timeout": 60,
    }
    command = [sys.executable, "-m", "training"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    environment = os.environ | {failpoints.ENVIRONMENT: failpoint, "SOAK": str(place.root)}
    with (place.root / "training.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=log, stderr=log
        )


def corpus(place: Place) -> Path:
    """What it learns from: a text of its own, which nobody edits during a long run."""
    folder = place.root.with_name("corpus")
    if not folder.exists():
        folder.mkdir()
        words = random.Random(7).choices(["hold", "fast", "rope", "knot", "sail", "keel"], k=8000)
        (folder / "words.txt").write_text(" ".join(words))
    return folder


def end_all(root: Path) -> None:
    """The pod is gone: kill what is left of our own training, and wait for it."""
    mark = f"SOAK={root}".encode()
    while True:
        ours = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environment.read_bytes().split(b"\0"):
                    ours.append(int(environment.parent.name))
            except OSError:
                continue
        for process in ours:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not ours:
            return
        time.sleep(0.01)


def recover(place: Place, start: Start) -> None:
    pull_if_empty(place.volume, place.catalog, WORKLOAD, start)


def protect(place: Place) -> None:
    place.volume.newest_valid(quarantine=True)
    if place.volume.bundles():
        push(place.volume, place.catalog, WORKLOAD, select=Select.ALL, patience=0)


def tidy(place: Place) -> None:
    if place.store.exists():
        age(place.store, 3 * GRACE + timedelta(minutes=1))
        prune(place.catalog, WORKLOAD, KEEP, grace=GRACE, patience=0)


def lose(place: Place) -> None:
    shutil.rmtree(place.volume.root, ignore_errors=True)


def flip(place: Place, seed: float) -> None:
    dice = random.Random(seed)
    for bundle in place.volume.bundles()[:1]:
        path = bundle.path / dice.choice(bundle.manifest.files).path
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        draft = path.with_name(".damaged")
        draft.write_bytes(data)  # its own inode: other generations may link to the same file
        draft.replace(path)


def restore(place: Place, pick: float, to: int) -> None:
    if place.volume.present() != to:
        known = place.catalog.snapshots(WORKLOAD)
        chosen = known[int(pick * len(known))]
        switch(place.volume, stage(place.volume, place.catalog, chosen).id)


def undo(place: Place, to: int) -> None:
    if place.volume.present() != to and place.volume.bundles(to - 2):
        switch_to_generation(place.volume, to - 2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="to repeat the choices of a run")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    work = Path(tempfile.mkdtemp(prefix="holdfast-soak-"))
    place = Place(work / "disturbed")
    place.store.parents[1].mkdir(parents=True)
    soak = Soak(place, given.cycles * STEPS_PER_CYCLE + 2 * EVERY, random.Random(seed))
    print(f"soak: {given.cycles} cycles, {soak.steps} steps, seed {seed}, in {work}", flush=True)
    began = time.monotonic()
    try:
        soak.reference()
        for number in range(1, given.cycles + 1):
            print(f"{number:4d} {soak.cycle()}", flush=True)
        soak.life(undisturbed=True)
        soak.check()
        if soak.newest() != soak.steps:
            raise Violation(f"ended at step {soak.newest()} instead of {soak.steps}")
    except (Violation, AssertionError) as error:
        print(f"soak: VIOLATION: {error} (seed {seed}; all is kept in {work})", flush=True)
        return 1
    shutil.rmtree(work)
    told = ", ".join(f"{count} {name}" for name, count in soak.counts.most_common())
    minutes = (time.monotonic() - began) / 60
    print(f"soak: {given.cycles} cycles in {minutes:.1f} minutes, bit-identical at the end: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

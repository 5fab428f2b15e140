"""Restores of owners that run, wait, are evicted, or change their mind in the middle."""

import random
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from tests.e2e import kube
from tests.queues.journal import violations
from tests.queues.owners import NAMESPACE
from tests.queues.scene import Scene


class State(StrEnum):
    """What the owner does when its restore begins, and during it."""

    RUNNING = "running"
    """Admitted, or in no queue."""
    WAITING = "waiting"
    """Not admitted, or suspended by a person."""
    EVICTED = "evicted"
    """Its pods are told to end at the moment at which the restore begins."""
    EVICTED_MEANWHILE = "evicted meanwhile"
    ADMITTED_MEANWHILE = "admitted meanwhile"


#: In these the restore may fail, since the owner is not as it was found; never harm.
MAY_FAIL = (State.EVICTED_MEANWHILE, State.ADMITTED_MEANWHILE)
#: A change in the middle of a restore comes after so many seconds at most.
_MIDDLE_SECONDS = 12.0


@dataclass
class Outcome:
    """One restore: what happened, and everything that was wrong about it."""

    scene: Scene
    state: State
    seconds: float = 0.0
    restored: bool = False
    said: str = ""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        end = "restored" if self.restored else f"failed: {self.said}"
        text = f"{self.scene.name:16} {self.state:18} {self.seconds:5.1f} s  {end}"
        return "\n".join([text, *(f"    WRONG: {each}" for each in self.wrong)])


def states(scene: Scene) -> list[State]:
    """Those that an owner can be in: only a queue evicts."""
    return list(State) if scene.owner.queued else [State.RUNNING, State.WAITING]


def restore(scene: Scene, state: State, dice: random.Random) -> Outcome:
    """Bring the owner into the state, restore it to a random snapshot, and judge what came of it.

    Afterwards it runs again, whatever happened.
    """
    outcome = Outcome(scene, state)
    snapshot, step = dice.choice(sorted(scene.snapshots.items()))
    delay = dice.uniform(0, _MIDDLE_SECONDS)
    _bring_into(scene, state)
    before, generation, pods = len(scene.lines()), scene.generation(), scene.pods()
    replicas = scene.replicas()
    began = time.monotonic()
    with _meanwhile(scene, state, delay):
        done = _run(scene, snapshot)
    outcome.seconds = time.monotonic() - began
    outcome.restored = done.returncode == 0
    outcome.said = (done.stderr.strip().splitlines() or [""])[-1]
    if (now := scene.replicas()) != replicas:
        outcome.wrong.append(f"it had {replicas} replicas and has {now}")
    try:
        _judge(outcome, step, before, generation, pods)
    except AssertionError as error:  # a wait that has ended in vain
        outcome.wrong.append(str(error).splitlines()[0])
    outcome.wrong += violations(scene.lines())
    return outcome


def _bring_into(scene: Scene, state: State) -> None:
    if state in (State.RUNNING, State.EVICTED_MEANWHILE):
        return
    if scene.owner.queued:
        scene.hold()
    else:
        scene.suspend(True)
    if state is not State.EVICTED:
        scene.waits()


@contextmanager
def _meanwhile(scene: Scene, state: State, delay: float) -> Iterator[None]:
    """The queue changes its mind in the middle of what is done here."""
    acts: dict[State, Callable[[], None]] = {
        State.EVICTED_MEANWHILE: scene.hold,
        State.ADMITTED_MEANWHILE: scene.release,
    }
    timer = threading.Timer(delay, acts[state]) if state in acts else None
    if timer:
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.join()


def _run(scene: Scene, snapshot: str) -> subprocess.CompletedProcess[str]:
    return kube.holdfast(
        "restore",
        f"--snapshot={snapshot}",
        f"--pause={scene.pause}",
        f"--workload={scene.name}",
        f"--claim={scene.name}",
        f"--namespace={NAMESPACE}",
        "--timeout=150",
    )


def _judge(outcome: Outcome, step: int, before: int, generation: int, pods: list[str]) -> None:
    """What was waiting waits, what ran runs; and it goes on from the snapshot, or as if nothing
    had been asked."""
    scene, state = outcome.scene, outcome.state
    if not outcome.restored and state not in MAY_FAIL:
        outcome.wrong.append(f"the restore failed: {outcome.said}")
    if marks := scene.marks():
        outcome.wrong.append(f"a restore's marks stay on the owner: {marks}")
    if state in (State.WAITING, State.EVICTED, State.EVICTED_MEANWHILE):
        scene.waits()
        opened = [line for line in scene.lines()[before:] if line.what == "opens"]
        if state is not State.EVICTED_MEANWHILE and opened:
            outcome.wrong.append(f"{len(opened)} writers opened the run while it had to wait")
        if scene.owner.queued:
            scene.release()
        else:
            scene.suspend(False)
    elif not outcome.restored and pods and scene.pods() == pods:
        return  # nothing was paused: it goes on
    first = scene.writes_after(before)
    if outcome.restored and state not in MAY_FAIL and first.step != step:
        outcome.wrong.append(f"it went on from step {first.step}, not from {step}")
    now = scene.generation()
    kube.wait(f"{scene.name} writes generation {now}", lambda: scene.lines()[-1].generation == now)
    if outcome.restored and now <= generation:
        outcome.wrong.append(f"generation {now} after a restore of generation {generation}")
    if not outcome.restored and now > generation:
        outcome.wrong.append(f"a restore that failed has made generation {now}")


def run(scenes: list[Scene], number: int, seed: int, at_once: int) -> list[Outcome]:
    """So many restores over all owners and states, each owner one after the other."""
    told = threading.Lock()
    outcomes: list[Outcome] = []

    def of_one(scene: Scene, share: int) -> None:
        dice = random.Random(f"{seed} {scene.name}")
        turn = states(scene)
        for count in range(share):
            if count % len(turn) == 0:
                dice.shuffle(turn)
            outcome = restore(scene, turn[count % len(turn)], dice)
            with told:
                outcomes.append(outcome)
                print(f"{len(outcomes):4}/{number}  {outcome}", flush=True)

    shares = [number // len(scenes) + (n < number % len(scenes)) for n in range(len(scenes))]
    with ThreadPoolExecutor(at_once) as pool:
        for future in [pool.submit(of_one, *each) for each in zip(scenes, shares, strict=True)]:
            future.result()
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """As docs/queues.md has it: for each owner and state, how many, how long, what was wrong."""
    groups: dict[tuple[str, State], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault((each.scene.name, each.state), []).append(each)
    lines = ["| owner | when the restore began | restored | refused or failed | median | wrong |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for (name, state), found in sorted(groups.items()):
        counts = Counter(one.restored for one in found)
        seconds = statistics.median(one.seconds for one in found)
        wrong = sum(bool(one.wrong) for one in found)
        lines.append(f"| {name} | {state} | {counts[True]} | {counts[False]} | {seconds:.0f} s "
                     f"| {wrong} |")  # fmt: skip
    return "\n".join(lines)

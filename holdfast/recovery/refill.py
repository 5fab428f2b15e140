"""Make sure that a starting pod has a state to resume from, on its volume or from the store.

`holdfast.recovery.recover` is the table of what is done when; this module finds out where in the
table a pod is, and does it. The store has a few seconds to answer, whatever it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from holdfast import bundle as bundles
from holdfast.bundle import Bundle
from holdfast.copies.followed import HELD, hold, moment
from holdfast.copies.pull import pull_locked, remove_leftovers
from holdfast.copies.remembered import recall, remember, rolled_back
from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    InvalidBundle,
    Mismatch,
    NoSnapshot,
    OwnerMismatch,
    RecoveryStopped,
    StoreError,
    StoreUnreachable,
)
from holdfast.labels import newness
from holdfast.progress import SILENT, Progress
from holdfast.recovery.recover import Action, Decision, Start, StoreState, VolumeState, decide
from holdfast.recovery.writers import void_stages
from holdfast.store.documents import Snapshot
from holdfast.store.lock import run_lock
from holdfast.store.snapshot import Catalog, PassedOver
from holdfast.volume import Volume

#: seconds within which a starting pod knows whether the store answers
ANSWER = 15.0
ANSWER_WHEN_VALID = 5.0


@dataclass(frozen=True)
class _Answer:
    """What the store has of this run, and the error if it does not answer."""

    state: StoreState
    problem: HoldfastError | None = None
    passed_over: tuple[PassedOver, ...] = ()


def pull_if_empty(
    volume: Volume,
    catalog: Catalog | None,
    workload: str,
    start: Start,
    *,
    answer: float = ANSWER,
    progress: Progress = SILENT,
) -> Decision:
    """Make sure that this run's trainer has a state to resume from: the table of `recover`.

    Every byte of the newest bundle of the present generation is read. A bundle that fails is
    quarantined and the one before is tried. Without a valid one the latest snapshot of this run is
    pulled, or the one before if its data are damaged. ``catalog`` None means that no store was
    given. Waits at most ``answer`` seconds for the store's answer; copying has no such limit.
    A stage that waits for its switch is voided first: see `holdfast.recovery.writers`.

    Raises:
        RecoveryStopped: there is no state, and a start from step 0 was not asked for.
        StoreError, OwnerMismatch: the store is needed but cannot be used now; a retry may help.
    """
    if voided := void_stages(volume):
        progress.note(f"voided stage {', '.join(voided)}: a restore may not switch to it any more")
    newest = volume.bundles()[:1]
    try:
        valid = bundles.verify(newest[0].path) if newest else None
    except (InvalidBundle, OSError):
        valid = None  # checked again, and quarantined, under the lock
    if valid is not None:
        found = _ask(volume, catalog, workload, min(answer, ANSWER_WHEN_VALID))
        return _use(volume, valid, found, start)
    with run_lock(volume.run_path) as held:
        if held:
            remove_leftovers(volume.run_path)
        valid = volume.newest_valid(quarantine=True)
        found = _ask(volume, catalog, workload, answer)
        if valid is not None:
            return _use(volume, valid, found, start)
        state = VolumeState.BAD if volume.has_bad() else VolumeState.NONE
        decision = decide(state, found.state, start)
        decision = replace(
            decision, generation=volume.present() or 1, passed_over=found.passed_over
        )
        match decision.decision:
            case Action.PULL if catalog is not None:
                return _refill(volume, catalog, workload, decision, progress)
            case Action.STOP if found.state is StoreState.LOST:
                raise _stopped(volume, decision.reason, found.passed_over)
            case Action.STOP:
                raise RecoveryStopped(f"run '{volume.run}': {decision.reason}")
            case Action.RETRY:
                raise found.problem or StoreUnreachable(
                    f"run '{volume.run}': {decision.reason}: give --store"
                )
    return decision


def _ask(volume: Volume, catalog: Catalog | None, workload: str, answer: float) -> _Answer:
    """What the store has of this run.

    Its first answers must all come within ``answer`` seconds. The search for a snapshot of this run
    among those of others has as long again for each step, as long as there are steps.
    """
    if catalog is None:
        return _Answer(StoreState.UNREACHABLE)
    soon = catalog.within(answer)
    passed_over: list[PassedOver] = []
    try:
        soon.check_owner()
        index = soon.index(workload)
        passed_over += rolled_back(volume, soon, workload, index)
        for found in soon.candidates(workload, index=index, answer=answer):
            if found.run in (None, volume.run):
                if isinstance(found, PassedOver):
                    passed_over.append(found)
                elif not found.has(volume.kind):
                    passed_over.append(_of_another_kind(found, volume))
                else:
                    if not passed_over:
                        remember(volume, catalog, found)
                    return _Answer(StoreState.SNAPSHOT, None, tuple(passed_over))
    except (StoreError, DeadlineExceeded, OwnerMismatch) as error:
        return _Answer(StoreState.UNREACHABLE, error, tuple(passed_over))
    known, _ = recall(volume, catalog, workload)
    if known and not passed_over:
        passed_over.append(PassedOver(known, "the volume knows it, the store does not have it"))
    state = StoreState.LOST if passed_over else StoreState.EMPTY
    return _Answer(state, None, tuple(passed_over))


def _use(volume: Volume, valid: Bundle, found: _Answer, start: Start) -> Decision:
    decision = decide(VolumeState.VALID, found.state, start)
    reason = f"{decision.reason} ({found.problem})" if found.problem else decision.reason
    return replace(
        decision,
        bundle=valid.name,
        generation=volume.present() or 1,
        reason=reason,
        passed_over=found.passed_over,
    )


def _refill(
    volume: Volume,
    catalog: Catalog,
    workload: str,
    decision: Decision,
    progress: Progress,
) -> Decision:
    """Pull the latest snapshot, or the one before if its data are damaged, and so on.

    Snapshots that failed an earlier verification are tried last.
    """
    failed = {record.snapshot for record in catalog.failures(workload)}
    passed_over = list(decision.passed_over)

    def in_turn() -> Iterator[Snapshot]:
        doubtful = []
        for found in catalog.candidates(workload, volume.run):
            if isinstance(found, PassedOver):
                if found not in passed_over:
                    passed_over.append(found)
            elif not found.has(volume.kind):
                if (other := _of_another_kind(found, volume)) not in passed_over:
                    passed_over.append(other)
            elif found.id in failed:
                doubtful.append(found)
                reason = "it failed its last verification"
                passed_over.append(PassedOver(found.id, reason, volume.run))
            else:
                yield found
        yield from doubtful

    for snapshot in in_turn():
        generation = max(snapshot.generation, decision.generation)
        into = volume.generation_path(generation)
        try:
            pulled = pull_locked(snapshot, catalog, into, volume.run_path, progress)
        except (Mismatch, NoSnapshot) as error:
            progress.note(f"snapshot {snapshot.id} cannot be used: {error}; trying the one before")
            passed_over.append(PassedOver(snapshot.id, str(error), volume.run))
            continue
        if held := moment(snapshot.labels.get(HELD)):
            hold(into, held, origin=snapshot.id, run=volume.run)
        newer = tuple(one for one in passed_over if one.snapshot > snapshot.id)
        if not newer:
            remember(volume, catalog, snapshot)
        mine = [b for b in pulled if volume.kind in (None, b.manifest.kind)]
        newest = max(mine, key=lambda b: newness(b.name, b.manifest.labels))
        reason = f"{decision.reason}: pulled {snapshot.id}"
        if newer:
            reason += f"; passed over {', '.join(one.snapshot for one in newer)}"
        return Decision(Action.PULLED, newest.name, generation, reason, newer)
    raise _stopped(volume, "all snapshots in the store are damaged or missing", passed_over)


def _of_another_kind(snapshot: Snapshot, volume: Volume) -> PassedOver:
    kinds = ", ".join(sorted({ref.kind for ref in snapshot.bundles}))
    return PassedOver(
        snapshot.id,
        f"it holds a {kinds}, and this run goes on from a {volume.kind}: see --kind",
        snapshot.run,
    )


def _stopped(volume: Volume, reason: str, passed_over: Sequence[PassedOver]) -> RecoveryStopped:
    listed = "; ".join(f"{one.snapshot}: {one.reason}" for one in passed_over)
    return RecoveryStopped(
        f"run '{volume.run}': {reason} ({listed}): restore the store from its versions or a"
        " replica; or accept the loss with `holdfast delete` for each of them"
    )

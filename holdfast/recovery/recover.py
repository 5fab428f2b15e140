"""What a starting pod does: a table of what the volume holds and what the store answers.

| volume, store    | has a snapshot | lost all | empty                          | unreachable |
|------------------|----------------|----------|--------------------------------|-------------|
| a valid bundle   | use            | use      | use                            | use         |
| only bad ones    | pull           | stop     | stop                           | retry       |
| none at all      | pull           | stop     | fresh (`start: require`: stop) | retry       |

"lost all": there is no snapshot that can be used, but there are damaged ones, or numbers of missing
ones, or the volume remembers one.

Never start again from step 0 by accident: "empty" is the answer to a LIST that succeeded.

The trainer starts after this decision, and in its pod again without a new one. It has no access to
the store; where it finds no valid bundle it goes by what the decision file says of the store then:

| volume, decision file | pulled or used, or cannot be read | fresh                     | no file  |
|-----------------------|-----------------------------------|---------------------------|----------|
| only bad ones         | retry                             | retry                     | stop     |
| none at all           | retry                             | fresh (`require`: stop)   | the same |

A retry is a new pod, which asks the store again: the trainer ends with 74, which no rule of its
Job restarts in place.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.store.snapshot import PassedOver


class VolumeState(StrEnum):
    """What this run has on the volume, after verifying every byte of its newest bundle."""

    VALID = "valid"
    BAD = "bad"
    NONE = "none"


class StoreState(StrEnum):
    """What the store has of this run."""

    SNAPSHOT = "snapshot"
    LOST = "lost"
    EMPTY = "empty"
    UNREACHABLE = "unreachable"


class Pulled(StrEnum):
    """What the decision file of `holdfast pull --if-empty` tells a trainer."""

    NOT_ASKED = "not asked"  # no decision file is configured: no store behind this training
    UNKNOWN = "unknown"  # one is configured, but cannot be read
    FRESH = "fresh"  # the volume was empty and so was the store
    STATE = "state"  # there was a state: on the volume, or pulled to it

    @classmethod
    def told_by(cls, file: Path | None) -> Pulled:
        """What this decision file tells; None where no pull is asked for one."""
        if file is None:
            return cls.NOT_ASKED
        try:
            decision = json.loads(file.read_text())["decision"]
        except (OSError, ValueError, KeyError, TypeError):
            return cls.UNKNOWN
        return cls.FRESH if decision == "fresh" else cls.STATE


class Start(StrEnum):
    """The setting `start`: what a run may do that has no state anywhere."""

    AUTO = "auto"
    FRESH = "fresh"
    REQUIRE = "require"


class Action(StrEnum):
    """USE, PULLED and FRESH are outcomes; PULL is what to do next; STOP must not be retried."""

    USE = "use"
    PULL = "pull"
    PULLED = "pulled"
    FRESH = "fresh"
    STOP = "stop"
    RETRY = "retry"


@dataclass(frozen=True)
class Decision:
    """What was decided, on which bundle of which generation the run goes on, and why.

    ``passed_over`` are the newer snapshots in the store that cannot be used.
    """

    decision: Action
    bundle: str | None
    generation: int
    reason: str
    passed_over: tuple[PassedOver, ...] = ()


def decide(volume: VolumeState, store: StoreState, start: Start) -> Decision:
    """The table. ``bundle`` and ``generation`` are for the caller to fill in."""
    match volume, store, start:
        case VolumeState.VALID, StoreState.UNREACHABLE, _:
            action, reason = Action.USE, "the volume has a valid bundle; the store is unreachable"
        case VolumeState.VALID, _, _:
            action, reason = Action.USE, "the volume has a valid bundle"
        case _, StoreState.SNAPSHOT, _:
            action, reason = Action.PULL, f"the volume has {_has(volume)}, the store has a snapshot"
        case _, StoreState.UNREACHABLE, _:
            action = Action.RETRY
            reason = f"the volume has {_has(volume)} and the store is unreachable: will be retried"
        case _, StoreState.LOST, _:
            action = Action.STOP
            reason = f"the volume has {_has(volume)}, and the store lost all snapshots of this run"
        case VolumeState.BAD, StoreState.EMPTY, _:
            action = Action.STOP
            reason = (
                "the volume has only bad bundles and the store has no snapshot of this run: look"
                " into .quarantine, correct the store's address, or give the run a new name"
            )
        case VolumeState.NONE, StoreState.EMPTY, Start.REQUIRE:
            action = Action.STOP
            reason = (
                "there is no state on the volume or in the store and start is 'require': correct"
                " the store's address or the run's name, or set start to auto"
            )
        case _:
            action, reason = Action.FRESH, "there is no state on the volume or in the store"
    return Decision(action, None, 1, reason)


def decide_in_trainer(volume: VolumeState, pulled: Pulled, start: Start) -> Decision:
    """The second table: USE, FRESH, STOP or RETRY. ``bundle`` is for the caller to fill in."""
    match volume, pulled, start:
        case VolumeState.VALID, _, _:
            action, reason = Action.USE, "the volume has a valid bundle"
        case _, Pulled.STATE | Pulled.UNKNOWN, _:
            said = "there was one" if pulled is Pulled.STATE else "nothing readable"
            action = Action.RETRY
            reason = (
                f"no valid bundle on the volume, and the decision file says {said}: a new pod has"
                " to recover it"
            )
        case VolumeState.BAD, Pulled.FRESH, _:
            action = Action.RETRY
            reason = "only bad bundles on the volume: a new pod has to look into the store"
        case VolumeState.BAD, _, _:
            action = Action.STOP
            reason = (
                "only bad bundles on the volume, and no store to recover from: restore one, or"
                " start anew under a new run name"
            )
        case _, _, Start.REQUIRE:
            action = Action.STOP
            reason = (
                "no bundle on the volume and start is 'require': restore one, or allow step 0 with"
                " start 'auto'"
            )
        case _:
            action, reason = Action.FRESH, "no bundle on the volume: starting at step 0"
    return Decision(action, None, 1, reason)


def remember(file: Path | None, bundle: str) -> None:
    """Record in a decision file that says `fresh` that this training has a state now.

    The init container does not run again when the trainer is restarted in its pod. Without this, a
    volume that is lost meanwhile would look like a first start.
    """
    from holdfast import durable
    from holdfast.manifest import canonical

    if file is not None and Pulled.told_by(file) is Pulled.FRESH:
        reason = "the training saved it after a fresh start"
        fields = {"decision": "use", "bundle": bundle, "reason": reason}
        with suppress(OSError):  # a full scratch volume must not end the training
            durable.write_durably(file, canonical(fields))


def _has(volume: VolumeState) -> str:
    return "only bad bundles" if volume is VolumeState.BAD else "no bundle"

"""What a starting pod does: a table of what the volume holds and what the store answers.

| volume, store    | has a snapshot | empty                              | unreachable |
|------------------|----------------|------------------------------------|-------------|
| a valid bundle   | use            | use                                | use         |
| only bad ones    | pull           | stop                               | retry       |
| none at all      | pull           | fresh (`start: require`: stop)     | retry       |

Never start again from step 0 by accident: "empty" is the answer to a LIST that succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class VolumeState(StrEnum):
    """What this run has on the volume, after verifying every byte of its newest bundle."""

    VALID = "valid"
    BAD = "bad"
    NONE = "none"


class StoreState(StrEnum):
    """What the store has of this run."""

    SNAPSHOT = "snapshot"
    EMPTY = "empty"
    UNREACHABLE = "unreachable"


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
    """What was decided, on which bundle of which generation the run goes on, and why."""

    decision: Action
    bundle: str | None
    generation: int
    reason: str


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


def _has(volume: VolumeState) -> str:
    return "only bad bundles" if volume is VolumeState.BAD else "no bundle"

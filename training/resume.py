"""What becomes of each setting after a resume, and which of them have changed.

Every setting of `Config` is in one of four classes. Those that are compared are kept in a label of
each bundle, so that a resume can say what has changed since, and what that does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from training.config import Config

LABEL = "settings"


class Effect(StrEnum):
    """What a changed setting does after a resume."""

    TRAINING = "applies from this step on"  # and the bits are not those of the old settings
    OPERATION = "applies"  # the bits stay the same
    REFUSED = "refused"  # the state does not fit: exit code 76
    PLACE = "not compared"  # where things are, and what to do without a bundle


EFFECTS: Mapping[str, Effect] = {
    "volume": Effect.PLACE,
    "run": Effect.PLACE,
    "start": Effect.PLACE,
    "decision": Effect.PLACE,
    "rendezvous": Effect.PLACE,
    "metrics": Effect.PLACE,
    "port": Effect.PLACE,
    "preset": Effect.PLACE,  # a name for five of those below
    "layers": Effect.REFUSED,
    "width": Effect.REFUSED,
    "heads": Effect.REFUSED,
    "block": Effect.REFUSED,
    "data": Effect.TRAINING,
    "steps": Effect.TRAINING,
    "batch": Effect.TRAINING,
    "dropout": Effect.TRAINING,
    "rate": Effect.TRAINING,
    "warmup": Effect.TRAINING,
    "seed": Effect.TRAINING,
    "parallel": Effect.TRAINING,
    "loaders": Effect.TRAINING,  # a bundle holds their state
    "ranks": Effect.TRAINING,
    "nodes": Effect.TRAINING,
    "threads": Effect.TRAINING,
    "keep": Effect.OPERATION,
    "min_nodes": Effect.OPERATION,
    "save_every": Effect.OPERATION,
    "save_minutes": Effect.OPERATION,
    "save_timeout": Effect.OPERATION,
    "when_busy": Effect.OPERATION,
    "refused_saves": Effect.OPERATION,
    "log_every": Effect.OPERATION,
    "timeout": Effect.OPERATION,
    "max_restarts": Effect.OPERATION,
    "rejoin": Effect.OPERATION,
    "heartbeat": Effect.OPERATION,
    "attempts": Effect.OPERATION,
    "code": Effect.PLACE,  # a label of its own, as are the parent and the image
    "parent": Effect.PLACE,
    "model": Effect.PLACE,
    "tracking_timeout": Effect.PLACE,
    "shutdown_timeout": Effect.OPERATION,
}

#: With another value of one of these, a rank's own part of a bundle (loader, random numbers) is of
#: no use: it starts at the cursor of all ranks, as with another number of ranks.
_OF_A_RANK = frozenset({"batch", "seed", "data", "loaders"})


@dataclass(frozen=True)
class Change:
    """A setting that differs from the one that the bundle was saved with."""

    setting: str
    then: Any
    now: Any

    @property
    def changes_bits(self) -> bool:
        """Whether training goes on with other bits than without the change."""
        return EFFECTS[self.setting] is Effect.TRAINING

    def __str__(self) -> str:
        return f"{self.setting}: {self.then} → {self.now}: {EFFECTS[self.setting]}"


def as_label(config: Config, corpus_digest: str) -> dict[str, str | int]:
    """The settings that a resume compares, as the label of a bundle. Data are told by content."""
    return {LABEL: json.dumps(_compared(config, corpus_digest), sort_keys=True)}


def changes(
    labels: Mapping[str, str | int], config: Config, corpus_digest: str
) -> list[Change] | None:
    """What has changed since the bundle was saved; None if it does not tell its settings."""
    try:
        then = json.loads(str(labels[LABEL])).items()
    except (KeyError, ValueError, AttributeError):
        return None
    now = _compared(config, corpus_digest)
    return [Change(key, value, now[key]) for key, value in then if now.get(key, value) != value]


def fits_ranks(
    labels: Mapping[str, str | int], config: Config, corpus_digest: str, world_size: int
) -> bool:
    """Whether each rank can go on from its own part of the bundle."""
    changed = changes(labels, config, corpus_digest)
    if changed is None:  # of an earlier version, which kept them in its fingerprint alone
        changed = []
    same = not _OF_A_RANK & {change.setting for change in changed}
    return same and labels.get("world_size") == world_size


def _compared(config: Config, corpus_digest: str) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    values = config.model_dump(mode="json") | {"data": corpus_digest[:16]}
    return {key: values[key] for key, effect in EFFECTS.items() if effect is not Effect.PLACE}

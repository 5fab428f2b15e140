"""What is kept: snapshots, by a policy, and the last good state. It reads no store and no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

T = TypeVar("T")


class Dated(Protocol):
    """What retention needs to know about a snapshot."""

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> datetime: ...
    @property
    def sequence(self) -> int: ...
    @property
    def healthy(self) -> bool | None: ...


@dataclass(frozen=True)
class Policy:
    """How many snapshots to keep. The rules add up: what any of them keeps is kept.

    ``keep_last`` counts snapshots; the others count periods (UTC, ISO weeks) that have snapshots,
    and keep the last snapshot of each.
    """

    keep_last: int = 7
    hourly: int = 24
    daily: int = 7
    weekly: int = 4
    monthly: int = 6

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"invalid retention {name} {value}: expected 0 or more")


_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda t: (t.year, t.month, t.day, t.hour),
    "daily": lambda t: (t.year, t.month, t.day),
    "weekly": lambda t: t.isocalendar()[:2],
    "monthly": lambda t: (t.year, t.month),
}


def select_keep(
    snapshots: Iterable[Dated],
    policy: Policy,
    *,
    pinned: Iterable[str] = (),
    verified: Mapping[str, bool] | None = None,
) -> dict[str, list[str]]:
    """The IDs to keep, each with its reasons. What is not in the result may be dropped.

    ``verified`` holds the result of the last verification of those that had one. Whatever the
    policy says, the newest snapshot, the last that verified, pinned ones and the last good one (see
    `last_good`) are kept. One that failed verification does not count towards a rule, so that an
    older one is kept instead.
    """
    verified = verified or {}
    ordered = sorted(snapshots, key=lambda s: (s.sequence, s.id), reverse=True)
    reasons: dict[str, list[str]] = {}

    def keep(snapshot: Dated, why: str) -> None:
        reasons.setdefault(snapshot.id, []).append(why)

    for snapshot in ordered[:1]:
        keep(snapshot, "newest")
    for snapshot in [s for s in ordered if verified.get(s.id)][:1]:
        keep(snapshot, "last verified")
    wanted = set(pinned)
    for snapshot in (s for s in ordered if s.id in wanted):
        keep(snapshot, "pinned")
    sound = [s for s in ordered if verified.get(s.id, True)]
    for number, snapshot in enumerate(sound[: policy.keep_last], start=1):
        keep(snapshot, f"last {number} of {policy.keep_last}")
    for rule, period in _PERIODS.items():
        count = getattr(policy, rule)
        seen: set[tuple[int, ...]] = set()
        for snapshot in sound:
            if len(seen) == count:
                break
            if (slot := period(snapshot.created)) not in seen:
                seen.add(slot)
                keep(snapshot, rule)
    good = last_good(sound, lambda snapshot: snapshot.healthy)
    if good is not None and good.id not in reasons:
        keep(good, "last good")
    return reasons


def last_good(newest_first: Sequence[T], mark: Callable[[T], bool | None]) -> T | None:
    """The newest that is marked good; where none is, the newest that is not marked bad.

    It is never removed by keep-K or retention, however many bad ones come after it.
    """
    for marks in ((True,), (True, None)):
        for found in newest_first:
            if mark(found) in marks:
                return found
    return None

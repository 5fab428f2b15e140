"""The numbers of a workload's snapshots: ``sequences/<workload>/<ten digits>.json``.

A push takes the next number before it writes its snapshot. So a number without a snapshot shows
that a snapshot is missing, or that a push was killed in between. Who deletes a snapshot on purpose
says so beside its number (``<ten digits>-withdrawn.json``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import AlreadyExists, Mismatch, NotFound, StoreDenied, StoreError
from holdfast.manifest import Component, Document, canonical, check_name
from holdfast.store.base import Store
from holdfast.store.documents import MAX_SEQUENCE

_NOTE = re.compile(r"(\d{10})(-withdrawn)?\.json", re.ASCII)


class _Taken(Document):
    """What such an object holds. ``run`` is missing where an earlier version took the number."""

    claim: str
    run: Component | None = None


@dataclass(frozen=True)
class Claim:
    """A number that was taken, and when by the store's clock. ``withdrawn``: it has no snapshot, on
    purpose."""

    number: int
    modified: datetime
    withdrawn: bool


def key(workload: str, number: int) -> str:
    """Where the claim of a number lies."""
    return f"sequences/{workload}/{number:010d}.json"


def claims(store: Store, workload: str) -> list[Claim]:
    """The numbers that were taken and are not tidied away yet, ascending.

    Foreign objects are ignored, and so is a number out of range.
    """
    taken: dict[int, datetime] = {}
    withdrawn: set[int] = set()
    for info in store.list(f"sequences/{check_name(workload)}/"):
        number = _number(workload, info.key)
        if number is None:
            continue
        if info.key == key(workload, number):
            taken[number] = info.modified
        else:
            withdrawn.add(number)
    return [Claim(n, modified, n in withdrawn) for n, modified in sorted(taken.items())]


def take(store: Store, workload: str, run: str, taken: Iterable[int]) -> int:
    """Take the number after all of ``taken``. No two pushes ever get the same one."""
    number = max(taken, default=0) + 1
    data = canonical({"claim": secrets.token_hex(16), "run": run})
    for candidate in range(number, min(number + 100, MAX_SEQUENCE + 1)):
        try:
            store.put_small(key(workload, candidate), data, if_absent=True)
        except AlreadyExists:
            continue
        return candidate
    raise StoreError(
        f"store {store.url}: sequence number {number} and those after it are taken: try again; see"
        f" sequences/{workload}/ in the store"
    )


def withdraw(store: Store, workload: str, number: int) -> None:
    """Note that this number has no snapshot, on purpose."""
    store.put_small(f"sequences/{workload}/{number:010d}-withdrawn.json", b"{}", if_absent=True)


def settled(store: Store, workload: str, newest: int, before: datetime) -> list[str]:
    """The keys of notes that are of no use any more: older, and of numbers below the newest
    snapshot's."""
    return [
        info.key
        for info in store.list(f"sequences/{check_name(workload)}/")
        if (number := _number(workload, info.key)) is not None
        and number < newest
        and info.modified < before
    ]


def run_of(store: Store, workload: str, number: int) -> str | None:
    """The run whose push took a number; None where that is unknown."""
    try:
        return _Taken.model_validate_json(store.get(key(workload, number))).run
    except (NotFound, Mismatch, StoreDenied, ValueError):
        return None


def _number(workload: str, name: str) -> int | None:
    match = _NOTE.fullmatch(name.removeprefix(f"sequences/{workload}/"))
    return int(match[1]) if match and 1 <= int(match[1]) <= MAX_SEQUENCE else None

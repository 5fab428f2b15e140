"""Whether a listing is complete. Some servers and proxies cut one off and do not say so.

A listing of S3 comes in pages, each with a token for the next. A server that forgets the token, or
says too early that a page was the last, makes a client believe that the rest does not exist. So
every listing is checked by one more request for the names after its last one: an honest server has
none. That also completes a listing that was cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from holdfast.errors import StoreError
from holdfast.store.base import ObjectInfo

CUT_OFF = "it cuts listings off without saying so"
UNCHECKED = "it ignores start-after, so whether its listings are complete cannot be checked"

#: lists the objects after a key, or all of them, in pages that the server chooses
Lister = Callable[[str | None], Iterable[ObjectInfo]]


def list_completely(objects_after: Lister) -> tuple[list[ObjectInfo], str]:
    """All objects, sorted by the UTF-8 bytes of the key, and why they may not be all, or "".

    Raises StoreError for a server that lists the same object twice: it ignores the token of the
    page that is asked for, and would go on for ever.
    """
    problem = ""
    found = _collect(objects_after(None))
    while found:
        last = max(found, key=str.encode)
        further = _collect(objects_after(last))
        if any(_before(info, last) for info in further.values()):
            problem = problem or UNCHECKED
            break
        more = further.keys() - found.keys()
        if not more:
            break
        if not problem and _cut_off(objects_after, last, more):
            problem = CUT_OFF
        found |= further
    return sorted(found.values(), key=lambda info: info.key.encode()), problem


def _before(info: ObjectInfo, last: str) -> bool:
    """Whether start-after was ignored for this object.

    A folder marker ``a/b/`` is empty, and obstore calls it ``a/b``: it may come after ``a/b-c``.
    """
    key = info.key if info.size else f"{info.key}/"
    return key.encode() <= last.encode()


def _cut_off(objects_after: Lister, last: str, more: set[str]) -> bool:
    """Whether a listing lacks names that exist before and after it; others came meanwhile."""
    missing = more - _collect(objects_after(None)).keys()
    return bool(missing and missing & _collect(objects_after(last)).keys())


def _collect(objects: Iterable[ObjectInfo]) -> dict[str, ObjectInfo]:
    found: dict[str, ObjectInfo] = {}
    for info in objects:
        if found.get(info.key) == info:
            raise StoreError(
                f"the store lists '{info.key}' twice, so its listings cannot be used: use a store"
                " that pages its listings as S3 does"
            )
        found[info.key] = info
    return found

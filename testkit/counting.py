"""A store that counts the requests made to it."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, cast

from holdfast.store.base import Store

PAGE = 1000  # keys that S3 lists per request
_SILENT = ("url", "parallel", "listing_problem", "within")


def counted(store: Store) -> tuple[Store, Counter[str]]:
    """The same store, and the number of requests made through it so far, by method."""
    counting = _Counting(store)
    return cast(Store, counting), counting.requests


class _Counting:
    """Passes every call on to a store and counts the requests that it costs on S3, by method.

    A list costs one request per 1,000 keys. The others are counted once, though `put_small` also
    looks at what it wrote, and a file above 8 MiB is sent in parts.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counting = threading.Lock()
        self.requests: Counter[str] = Counter()

    def within(self, seconds: float | None) -> _Counting:
        other = _Counting(self._store.within(seconds))
        other._counting, other.requests = self._counting, self.requests
        return other

    def list(self, prefix: str = "") -> Any:
        found = list(self._store.list(prefix))
        self._count("list", max(1, -(-len(found) // PAGE)))
        return iter(found)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name in _SILENT or not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            self._count(name, 1)
            return value(*args, **options)

        return call

    def _count(self, name: str, amount: int) -> None:
        with self._counting:
            self.requests[name] += amount

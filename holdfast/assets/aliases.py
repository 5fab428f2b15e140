"""Aliases: names such as `production` for a version, moved by appending a record.

``aliases/<workload>/<name>/<alias>/<ten digits>.json``, each created if absent. The greatest number
is what the alias means now, and the others are its history: nothing is ever replaced or deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from pydantic import Field

from holdfast.errors import AlreadyExists, Mismatch, NotFound, StoreError
from holdfast.manifest import Component, Document, Sha256, Time
from holdfast.store.base import Store
from holdfast.store.documents import MAX_SEQUENCE, Snapshot, SnapshotId
from holdfast.store.records import read_at_once

_KEY = re.compile(r"aliases/([^/]+)/([^/]+)/([^/]+)/(\d{10})\.json", re.ASCII)


class Alias(Document):
    """One record: from ``created`` on the alias means this version."""

    format: Literal[1] = 1
    workload: Component
    name: Component
    alias: Component
    sequence: Annotated[int, Field(ge=1, le=MAX_SEQUENCE)]
    version: str
    snapshot: SnapshotId
    content: Sha256
    created: Time

    @property
    def key(self) -> str:
        place = f"aliases/{self.workload}/{self.name}/{self.alias}"
        return f"{place}/{self.sequence:010d}.json"

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """Read the record that lies at ``key``. Raises Mismatch unless it belongs there."""
        try:
            found = cls.model_validate_json(data)
        except ValueError as error:
            raise Mismatch(f"'{key}' is damaged: it is not the record of an alias") from error
        if found.to_bytes() != data or found.key != key:
            raise Mismatch(f"'{key}' is damaged, or the record of another alias")
        return found


def current(store: Store, workload: str, name: str, alias: str) -> Alias | None:
    """What an alias means now; None if there is no such alias.

    Raises Mismatch if its newest record is damaged: an older one would be a wrong answer.
    """
    keys = [info.key for info in store.list(f"aliases/{workload}/{name}/{alias}/")]
    newest = max((key for key in keys if _KEY.fullmatch(key)), default=None)
    return None if newest is None else Alias.parse(store.get(newest), newest)


def all_current(store: Store, workload: str, name: str | None = None) -> list[Alias]:
    """What every alias of a name (of all names) means now, by name and alias."""
    newest: dict[tuple[str, str], str] = {}
    for key in _keys(store, workload, name):
        _, _, of, alias, _ = key.split("/")
        newest[of, alias] = max(key, newest.get((of, alias), ""))
    return _read(store, newest.values())


def history(store: Store, workload: str, name: str) -> list[Alias]:
    """Every record of a name's aliases, the latest first."""
    found = _read(store, _keys(store, workload, name))
    return sorted(found, key=lambda one: (one.created, one.sequence), reverse=True)


def append(store: Store, snapshot: Snapshot, version: str, alias: str) -> Alias:
    """Let the alias mean this version from now on, after whatever it meant before."""
    workload, name = snapshot.workload, snapshot.run
    now = store.now()
    numbers = [int(key[-15:-5]) for key in _keys(store, workload, name, alias)]
    first = max(numbers, default=0) + 1
    for sequence in range(first, first + 100):
        record = Alias(
            workload=workload,
            name=name,
            alias=alias,
            sequence=sequence,
            version=version,
            snapshot=snapshot.id,
            content=snapshot.bundles[0].content,
            created=now,
        )
        try:
            store.put_small(record.key, record.to_bytes(), if_absent=True)
        except AlreadyExists:
            continue
        return record
    raise StoreError(f"alias '{alias}' of '{name}' was moved by others 100 times: try again")


def _keys(store: Store, workload: str, name: str | None, alias: str | None = None) -> Iterator[str]:
    below = "/".join(part for part in ("aliases", workload, name, alias) if part)
    return (info.key for info in store.list(f"{below}/") if _KEY.fullmatch(info.key))


def _read(store: Store, keys: Iterable[str]) -> list[Alias]:
    def read(key: str) -> Alias | None:
        try:
            return Alias.parse(store.get(key), key)
        except NotFound:
            return None

    return [found for found in read_at_once(read, sorted(keys)) if found]

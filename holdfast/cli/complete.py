"""What a shell offers for a word: names of bundles and snapshots, soon or not at all.

A key press must not wait for a store that does not answer, nor show an error: what is not found
within a second is not offered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.cli.output import said_above_bar
from holdfast.defaults import DOCTOR_MEMORY

SECONDS = 1.0


def targets(ctx: Any, incomplete: str) -> list[str]:
    """Bundles on the volume, and snapshots in the store."""
    return _offer(incomplete, lambda: _bundles(ctx.params), lambda: _snapshots(ctx.params))


def snapshots(ctx: Any, incomplete: str) -> list[str]:
    """Snapshots in the store, newest first, and the words that mean one."""
    return _offer(incomplete, lambda: _snapshots(ctx.params))


def _offer(incomplete: str, *sources: Callable[[], Iterator[str]]) -> list[str]:
    """What the sources find in time."""
    found: list[str] = []

    def look(source: Callable[[], Iterator[str]]) -> None:
        with suppress(BaseException):
            found.extend(source())

    threads = [threading.Thread(target=look, args=[one], daemon=True) for one in sources]
    with said_above_bar(lambda line: None):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS / len(threads))
    fitting = [name for name in found if name.startswith(incomplete) and name.isprintable()]
    return list(dict.fromkeys(fitting))


def _bundles(values: dict[str, Any]) -> Iterator[str]:
    from holdfast.volume import Volume

    root: Path = values["volume"]
    runs = [values["run"]] if values.get("run") else [path.name for path in root.iterdir()]
    for run in runs:
        for _, bundle in Volume(root, run, None).history():
            yield bundle.name


def _snapshots(values: dict[str, Any]) -> Iterator[str]:
    from holdfast.store import open_store
    from holdfast.store.documents import SNAPSHOT_ID
    from holdfast.store.snapshot import Catalog

    yield "latest"
    catalog = Catalog(open_store(values["store"], memory=DOCTOR_MEMORY, deadline=SECONDS))
    yield from filter(SNAPSHOT_ID.fullmatch, reversed(list(catalog.written(values["workload"]))))

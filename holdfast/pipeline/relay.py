"""Read in a thread of its own what another transfer sends: from one bucket into another.

obstore takes an upload's pieces inside its own event loop, and there no download of obstore's can
be waited for (it panics). So the pieces are fetched elsewhere, a few ahead.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

#: pieces that are fetched ahead, of at most 2 MiB each
AHEAD = 2
_POLL_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Piece(Generic[T]):
    piece: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


def relay(pieces: Iterator[T]) -> Iterator[T]:
    """The same pieces and the same exception, fetched by a thread that ends with this iterator."""
    waiting: queue.Queue[_Piece[T] | _End] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: _Piece[T] | _End) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def fetch() -> None:
        try:
            for piece in pieces:
                if not put(_Piece(piece)):
                    return
        except BaseException as error:
            put(_End(error))
        else:
            put(_End())

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    try:
        while True:
            found = waiting.get()
            if isinstance(found, _End):
                if found.error is not None:
                    raise found.error
                return
            yield found.piece
    finally:
        stopped.set()
        thread.join()

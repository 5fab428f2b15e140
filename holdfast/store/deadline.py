"""The moment by which the calls to a store must have ended, whatever the storage does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from holdfast.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """So many seconds from now; None sets no limit."""

    def __init__(self, url: str, seconds: float | None) -> None:
        self.seconds = seconds
        self._url = url
        self._expires = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Raise DeadlineExceeded once the time is up."""
        if self._expires is not None and time.monotonic() > self._expires:
            raise self._exceeded()

    def run(self, request: Callable[[], T]) -> T:
        """The result of a blocking request, or DeadlineExceeded when the time is up before.

        With a limit the request runs in a thread, which is left behind at the end: a disk that
        hangs cannot be interrupted, and a request to a server ends by its own time-outs.
        """
        if self._expires is None:
            return request()
        self.check()
        future: Future[T] = Future()
        threading.Thread(target=_settle, args=(future, request), daemon=True).start()
        return self.wait(future)

    def wait(self, future: Future[T]) -> T:
        """The same for something that was begun earlier."""
        left = None if self._expires is None else max(0.0, self._expires - time.monotonic())
        try:
            return future.result(left)
        except TimeoutError:
            if future.done():  # the request's own
                raise
            raise self._exceeded() from None

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"store {self._url} gave no answer within {self.seconds:g} s: check the storage, the"
            " network and the endpoint, or raise the deadline"
        )


def _settle(future: Future[T], request: Callable[[], T]) -> None:
    try:
        future.set_result(request())
    except BaseException as error:
        future.set_exception(error)

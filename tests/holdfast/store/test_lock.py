"""The locks have one holder at a time, none for ever, and nobody waits for ever."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.errors import DeadlineExceeded
from holdfast.store import open_store
from holdfast.store.base import Store
from holdfast.store.lock import HOLD, run_lock, store_lock
from testkit.stores import WORKLOAD, age


def test_one_process_holds_the_lock_of_a_workload_and_the_next_gets_it_afterwards(
    store: Store,
) -> None:
    with store_lock(store, WORKLOAD, patience=0) as first:
        with store_lock(store, WORKLOAD, patience=0) as second:
            assert (first, second) == (True, False)
        with store_lock(store, "other", patience=0) as other:
            assert other
        with store_lock(store, WORKLOAD, patience=0) as still:
            assert not still  # a process that did not get the lock does not free it
    with store_lock(store, WORKLOAD, patience=0) as next_one:
        assert next_one


def test_of_many_processes_that_ask_at_once_one_gets_the_lock(store: Store) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:

        def take(_: int) -> bool:
            return stack.enter_context(store_lock(store, WORKLOAD, patience=0))

        assert sum(pool.map(take, range(8))) == 1


def test_a_lock_that_was_left_behind_is_taken_over_by_one(store_directory: Path) -> None:
    store = open_store(store_directory.as_uri())
    with store_lock(store, WORKLOAD, patience=0) as killed:
        assert killed
        age(store_directory, HOLD + timedelta(seconds=1))
        with store_lock(store, WORKLOAD, patience=0) as successor:
            assert successor
            with store_lock(store, WORKLOAD, patience=0) as late:
                assert not late


def test_a_run_is_locked_by_one_process_and_others_wait_no_longer_than_told(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run") as held:
        assert held
        with (
            pytest.raises(DeadlineExceeded, match="another process"),
            run_lock(tmp_path / "run", patience=0.01),
        ):
            pass
    with run_lock(tmp_path / "run", patience=0.01) as again:
        assert again


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"someone's notes",
        b"[" * 100_000,
        b'{"holder":"me"}',
        b'{"holder": null}',
        b"\xff" * 45,
    ],
)
def test_a_lock_that_none_of_ours_wrote_keeps_nobody_waiting(store: Store, found: bytes) -> None:
    store.put_small(f"locks/{WORKLOAD}.json", found)

    with store_lock(store, WORKLOAD, patience=0) as held:
        assert held
        with store_lock(store, WORKLOAD, patience=0) as second:
            assert not second


def test_a_lock_from_a_clock_that_was_years_ahead_keeps_nobody_waiting(
    store_directory: Path,
) -> None:
    store = open_store(store_directory.as_uri())
    with store_lock(store, WORKLOAD, patience=0):
        age(store_directory, -timedelta(days=3660))
        with store_lock(store, WORKLOAD, patience=0) as heir:
            assert heir


def test_where_a_lock_cannot_be_nobody_waits_for_it(store_directory: Path) -> None:
    store = open_store(store_directory.as_uri())
    (store_directory / f"locks/{WORKLOAD}.json/a-directory").mkdir(parents=True)

    began = time.monotonic()
    with store_lock(store, WORKLOAD, patience=60) as held:
        assert not held
    assert time.monotonic() - began < 30

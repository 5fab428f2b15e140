"""Several real processes at once: pushes, pulls, a push beside keep-K, locks with a slow owner.

Push beside prune is in test_push_beside_prune.py, which searches through orders of operations.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.push import PushReport, push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.errors import HoldfastError
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.store import open_store
from holdfast.store.lock import HOLD, store_lock
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER, WORKLOAD, age, keys


def test_pushes_at_once_end_with_one_copy_and_snapshots_that_are_all_whole(
    volume: Volume, store_url: str, save: Callable[..., Bundle]
) -> None:
    """Nobody waits for the lock. Shown to fail: with a `claim_sequence` that takes the next number
    without creating it."""
    at_once = 3
    start = Barrier(at_once)

    def push_one(_: int) -> PushReport:
        mine = Volume(volume.root, volume.run)
        start.wait()
        return push(mine, Catalog(open_store(store_url), OWNER), WORKLOAD, patience=0)

    for step in (100, 200):
        save(step)
        with ThreadPoolExecutor(at_once) as pool:
            reports = list(pool.map(push_one, range(at_once)))
        assert {report.bundles[0].name for report in reports} == {f"step-{step:08d}"}

    catalog = Catalog(open_store(store_url), OWNER)
    known = catalog.snapshots(WORKLOAD)
    assert len({snapshot.sequence for snapshot in known}) == len(known)
    assert {ref.name for s in known[:1] for ref in s.bundles} == {"step-00000200"}
    assert all(verify_snapshot(catalog, s, record=False).ok for s in known)
    assert len(keys(catalog.store, "manifests")) == 2
    assert len(keys(catalog.store, "data")) == 4


def test_a_push_beside_keep_k_never_names_what_it_did_not_copy(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    """The trainer saves and keeps one, as fast as it can, until eight pushes are done. Shown to
    fail: with a push that passes over files that vanished instead of the bundle."""
    files = {f"part{number}": bytes([number]) * 99 for number in range(12)}
    save(1, **files)

    def push_or_give_up(_: int) -> None:
        with suppress(HoldfastError):  # its newest bundle was removed three times in a row
            push(volume, catalog, WORKLOAD, patience=0)

    with ThreadPoolExecutor(1) as pool:
        done = pool.map(push_or_give_up, range(8))
        pushing = pool.submit(list, done)
        step = 1
        while not pushing.done():
            step += 1
            save(step, **files)
            Volume(volume.root, volume.run).keep(1)

    pushing.result()
    push(volume, catalog, WORKLOAD, patience=0)
    listing = catalog.listing(WORKLOAD)
    assert listing.damaged == {}
    for snapshot in listing.snapshots:
        assert verify_snapshot(catalog, snapshot, record=False).ok
    assert listing.snapshots[0].bundles[0].name == f"step-{step:08d}"


def test_of_four_pods_that_start_at_once_one_pulls_and_all_go_on_from_it(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    """Shown to fail: without `run_lock` in `pull_if_empty`: each of them pulls."""
    saved = save(100, large=bytes(3 << 20))
    push(volume, catalog, WORKLOAD)
    volume.root.rename(volume.root.with_name("lost"))
    volume.root.mkdir()

    pods = [start_pod(volume, catalog, volume.root.with_name(f"pod-{n}")) for n in range(4)]
    for child, _ in pods:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    said = sorted(answer.read_text() for _, answer in pods)
    assert said == ["pulled step-00000100", *["use step-00000100"] * 3]
    assert verify(volume.generation_path(1) / saved.name).manifest == saved.manifest
    assert not list(volume.run_path.glob(".pull-*"))


def start_pod(volume: Volume, catalog: Catalog, answer: Path) -> tuple[int, Path]:
    child = os.fork()
    if not child:
        try:
            decision = pull_if_empty(volume, catalog, WORKLOAD, Start.REQUIRE)
            answer.write_text(f"{decision.decision} {decision.bundle}")
            os._exit(0)
        finally:
            os._exit(1)
    return child, answer


def test_an_owner_that_was_only_slow_does_not_free_the_lock_of_its_successor(
    store_directory: Path,
) -> None:
    """Shown to fail: with a release in `store_lock` that does not say which lock it means."""
    store = open_store(store_directory.as_uri())
    slow = store_lock(store, WORKLOAD, patience=0)
    assert slow.__enter__()
    age(store_directory, HOLD + timedelta(seconds=1))

    with store_lock(store, WORKLOAD, patience=0) as successor:
        assert successor
        slow.__exit__(None, None, None)  # it goes on, and finishes
        with store_lock(store, WORKLOAD, patience=0) as third:
            assert not third


def test_a_push_that_was_frozen_is_still_correct_when_it_goes_on(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frozen right before its snapshot; another pushes and takes its lock; then it goes on. Shown
    to fail: with a `claim_sequence` that takes the next number without creating it."""
    save(100)
    claim = catalog.claim_sequence
    other = Catalog(open_store(store_directory.as_uri()), OWNER)

    def frozen(workload: str, run: str) -> int:
        number = claim(workload, run)
        lock = store_directory / f"locks/{WORKLOAD}.json"
        os.utime(lock, (0, lock.stat().st_mtime - HOLD.total_seconds() - 1))
        push(Volume(volume.root, volume.run), other, WORKLOAD, patience=0)
        return number

    monkeypatch.setattr(catalog, "claim_sequence", frozen)
    push(volume, catalog, WORKLOAD)

    known = other.snapshots(WORKLOAD)
    assert sorted(snapshot.sequence for snapshot in known) == [1, 2]
    assert all(verify_snapshot(other, s, record=False).ok for s in known)
    assert len(keys(other.store, "manifests")) == 1

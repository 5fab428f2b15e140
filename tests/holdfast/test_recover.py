"""The recovery table, cell by cell, and then for real on a volume and a store."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.push import push
from holdfast.errors import (
    DeadlineExceeded,
    OwnerMismatch,
    RecoveryStopped,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)
from holdfast.recovery.recover import (
    Action,
    Pulled,
    Start,
    StoreState,
    VolumeState,
    decide,
    decide_in_trainer,
)
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch
from holdfast.store import open_store
from holdfast.store.directory import DirectoryStore
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.s3 import Proxy
from testkit.stores import OWNER, WORKLOAD

VALID, BAD, NONE = VolumeState
SNAPSHOT, LOST, EMPTY, UNREACHABLE = StoreState
USE, PULL, FRESH, STOP, RETRY = (
    Action.USE,
    Action.PULL,
    Action.FRESH,
    Action.STOP,
    Action.RETRY,
)
TABLE = [
    (VALID, SNAPSHOT, USE),
    (VALID, LOST, USE),
    (VALID, EMPTY, USE),
    (VALID, UNREACHABLE, USE),
    (BAD, SNAPSHOT, PULL),
    (BAD, LOST, STOP),
    (BAD, EMPTY, STOP),
    (BAD, UNREACHABLE, RETRY),
    (NONE, SNAPSHOT, PULL),
    (NONE, LOST, STOP),
    (NONE, UNREACHABLE, RETRY),
]


@pytest.mark.parametrize("start", Start)
@pytest.mark.parametrize(("volume", "store", "action"), TABLE)
def test_each_state_of_volume_and_store_leads_to_its_action(
    volume: VolumeState, store: StoreState, action: Action, start: Start
) -> None:
    assert decide(volume, store, start).decision is action


# The second table: no sound bundle is on the volume of a trainer.
IN_A_TRAINER = [
    # bad ones?  start          what the pull before it said   what must happen
    (False, Start.AUTO, Pulled.NOT_ASKED, FRESH),
    (False, Start.FRESH, Pulled.NOT_ASKED, FRESH),
    (False, Start.REQUIRE, Pulled.NOT_ASKED, STOP),
    (True, Start.AUTO, Pulled.NOT_ASKED, STOP),
    (True, Start.FRESH, Pulled.NOT_ASKED, STOP),
    (True, Start.REQUIRE, Pulled.NOT_ASKED, STOP),
    (False, Start.AUTO, Pulled.FRESH, FRESH),
    (False, Start.FRESH, Pulled.FRESH, FRESH),
    (False, Start.REQUIRE, Pulled.FRESH, STOP),
    (True, Start.AUTO, Pulled.FRESH, RETRY),
    (True, Start.FRESH, Pulled.FRESH, RETRY),
    (True, Start.REQUIRE, Pulled.FRESH, RETRY),
    *((bad, s, p, RETRY) for bad in (False, True) for s in Start
      for p in (Pulled.STATE, Pulled.UNKNOWN)),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "start", "pulled", "action"), IN_A_TRAINER)
def test_what_a_trainer_does_without_a_valid_bundle(
    bad: bool, start: Start, pulled: Pulled, action: Action
) -> None:
    decision = decide_in_trainer(BAD if bad else NONE, pulled, start)

    assert decision.decision is action
    assert decision.reason


@pytest.mark.parametrize(
    ("start", "action"), [(Start.AUTO, FRESH), (Start.FRESH, FRESH), (Start.REQUIRE, STOP)]
)
def test_step_zero_needs_an_empty_volume_an_empty_store_and_permission(
    start: Start, action: Action
) -> None:
    assert decide(NONE, EMPTY, start).decision is action


def test_an_unreachable_store_is_mentioned_though_it_is_not_needed() -> None:
    assert "unreachable" in decide(VALID, UNREACHABLE, Start.AUTO).reason


def lose(volume: Volume) -> None:
    volume.root.rename(volume.root.with_name("lost"))


def test_a_first_start_begins_at_step_zero_and_writes_no_bundle(
    volume: Volume, catalog: Catalog
) -> None:
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.bundle, decision.generation) == (FRESH, None, 1)
    assert volume.generations() == []
    assert list(catalog.store.list()) == []


def test_a_valid_bundle_is_used_and_the_volume_is_left_alone(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    save(100)
    before = sorted(volume.root.rglob("*"))

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.bundle) == (USE, "step-00000100")
    assert sorted(volume.root.rglob("*")) == before


def test_a_lost_volume_is_refilled_from_the_latest_snapshot(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    for step in (100, 200):
        saved = save(step)
        push(volume, catalog, WORKLOAD)
    lose(volume)

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.REQUIRE)

    assert (decision.decision, decision.bundle, decision.generation) == (
        Action.PULLED,
        "step-00000200",
        1,
    )
    assert verify(volume.generation_path(1) / saved.name).manifest == saved.manifest
    again = pull_if_empty(volume, catalog, WORKLOAD, Start.REQUIRE)
    assert (again.decision, again.bundle) == (USE, "step-00000200")


def test_a_bad_newest_bundle_is_set_aside_for_the_one_before(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], flip: Callable[..., None]
) -> None:
    save(100)
    flip(save(200).path / "rank-0/model.bin")

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.bundle) == (USE, "step-00000100")
    assert [path.name[:13] for path in volume.quarantined()] == ["step-00000200"]


def test_a_volume_with_bad_bundles_only_is_refilled_under_the_same_name(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], flip: Callable[..., None]
) -> None:
    saved = save(100)
    push(volume, catalog, WORKLOAD)
    flip(saved.path / "rank-0/model.bin")

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.bundle) == (Action.PULLED, "step-00000100")
    assert verify(volume.generation_path(1) / saved.name).manifest == saved.manifest


def test_bad_bundles_and_an_empty_store_stop_for_good(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], flip: Callable[..., None]
) -> None:
    flip(save(100).path / "rank-0/model.bin")

    for _ in range(2):  # also when it is quarantined already
        with pytest.raises(RecoveryStopped, match="only bad bundles") as stopped:
            pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)
        assert stopped.value.exit_code == 76


def test_require_does_not_start_without_a_state(volume: Volume, catalog: Catalog) -> None:
    with pytest.raises(RecoveryStopped, match="require"):
        pull_if_empty(volume, catalog, WORKLOAD, Start.REQUIRE)


def test_another_runs_snapshots_are_not_this_runs_state(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    save(100)
    push(volume, catalog, WORKLOAD)

    decision = pull_if_empty(Volume(volume.root, "run-b"), catalog, WORKLOAD, Start.AUTO)

    assert decision.decision is FRESH


def test_a_damaged_latest_snapshot_gives_way_to_the_one_before(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    flip: Callable[..., None],
) -> None:
    save(100)
    push(volume, catalog, WORKLOAD)
    save(200)
    latest = push(volume, catalog, WORKLOAD)
    flip(store_directory / latest.bundles[0].data / "rank-0/model.bin")
    lose(volume)

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.decision, decision.bundle) == (Action.PULLED, "step-00000100")
    assert latest.snapshot in decision.reason
    assert [b.name for b in volume.bundles()] == ["step-00000100"]


@pytest.mark.parametrize("what", ["data", "snapshots"])
def test_a_store_with_damaged_snapshots_only_is_not_an_empty_store(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    flip: Callable[..., None],
    what: str,
) -> None:
    save(100)
    push(volume, catalog, WORKLOAD)
    for path in (store_directory / what).rglob("*"):
        if path.is_file():
            flip(path, 7)
    lose(volume)

    with pytest.raises(RecoveryStopped, match="damaged"):
        pull_if_empty(volume, Catalog(catalog.store, OWNER), WORKLOAD, Start.AUTO)
    assert volume.bundles() == []


def test_a_restored_generation_is_refilled_as_the_present_one(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    save(100)
    early = push(volume, catalog, WORKLOAD).snapshot
    save(200)
    push(volume, catalog, WORKLOAD)
    switch(volume, stage(volume, catalog, catalog.read(WORKLOAD, early)).id)
    push(volume, catalog, WORKLOAD)
    lose(volume)

    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

    assert (decision.bundle, decision.generation) == ("step-00000100", 2)


def test_a_store_of_another_owner_is_refused_when_it_is_needed(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle]
) -> None:
    save(100)
    push(volume, catalog, WORKLOAD)
    other = Catalog(catalog.store, "project/other")

    assert pull_if_empty(volume, other, WORKLOAD, Start.AUTO).decision is USE
    lose(volume)
    with pytest.raises(OwnerMismatch, match="belongs to 'project/stack'"):
        pull_if_empty(volume, other, WORKLOAD, Start.AUTO)


def test_without_a_store_only_a_valid_bundle_helps(
    volume: Volume, save: Callable[..., Bundle]
) -> None:
    with pytest.raises(StoreUnreachable, match="--store"):
        pull_if_empty(volume, None, WORKLOAD, Start.AUTO)
    save(100)
    assert pull_if_empty(volume, None, WORKLOAD, Start.AUTO).decision is USE


@pytest.mark.s3
def test_a_store_that_never_answers_does_not_keep_a_pod_waiting(
    volume: Volume,
    save: Callable[..., Bundle],
    s3_url: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.silent = True
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    catalog = Catalog(open_store(s3_url), OWNER)

    with pytest.raises(Exception, match=r"no answer within 0\.3 s"):
        pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO, answer=0.3)
    save(100)
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO, answer=0.3)
    assert decision.decision is USE
    assert "unreachable" in decision.reason


@pytest.mark.parametrize("call", ["_open", "_walk", "_info"])
def test_a_store_that_hangs_in_a_system_call_does_not_keep_a_pod_waiting(
    volume: Volume,
    catalog: Catalog,
    save: Callable[..., Bundle],
    store_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """As a directory does whose server is gone, while it opens a file, lists, or looks at one."""
    (store_directory / "snapshots" / WORKLOAD).mkdir(parents=True)
    never = threading.Event()
    monkeypatch.setattr(DirectoryStore, call, lambda *_: never.wait())

    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
        pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO, answer=0.3)
    save(100)
    decision = pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO, answer=0.3)
    assert decision.decision is USE
    assert "unreachable" in decision.reason
    never.set()


def test_a_store_that_answers_with_nonsense_does_not_stop_a_pod_that_needs_nothing_of_it(
    volume: Volume, catalog: Catalog, save: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nonsense(*_: object) -> None:
        raise StoreError("the store lists 'x' twice")

    monkeypatch.setattr(DirectoryStore, "list", nonsense)
    save(100)
    assert pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO).decision is USE


def test_an_unmounted_store_is_no_reason_to_begin_again(volume: Volume, tmp_path: Path) -> None:
    catalog = Catalog(open_store((tmp_path / "mount/project/stack").as_uri()), OWNER)

    with pytest.raises(StoreDenied, match="mount"):
        pull_if_empty(volume, catalog, WORKLOAD, Start.AUTO)

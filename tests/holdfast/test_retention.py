"""Retention is a pure function: what it keeps, and what it never drops."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from holdfast.retention import Policy, select_keep

NOON = datetime(2026, 8, 21, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Taken:
    id: str
    created: datetime
    sequence: int
    healthy: bool | None = None


def every(count: int, step: timedelta) -> list[Taken]:
    """So many snapshots, the newest at noon; `s0` is the newest."""
    return [Taken(f"s{n}", NOON - n * step, 1000 - n) for n in range(count)]


def only(**counts: int) -> Policy:
    return Policy(**(dict.fromkeys(vars(Policy()), 0) | counts))


def test_keep_last_counts_snapshots() -> None:
    assert list(select_keep(every(9, timedelta(hours=1)), only(keep_last=3))) == ["s0", "s1", "s2"]


def test_a_period_keeps_its_last_snapshot() -> None:
    kept = select_keep(every(100, timedelta(hours=6)), only(daily=3))

    assert list(kept) == ["s0", "s3", "s7"]  # noon today; 18:00 of the two days before


def test_a_period_without_snapshots_does_not_use_up_a_place() -> None:
    taken = [Taken("new", NOON, 3), Taken("old", NOON - timedelta(days=90), 2)]

    assert set(select_keep(taken, only(daily=2))) == {"new", "old"}


def test_the_order_is_that_of_the_sequence_and_not_of_a_clock() -> None:
    taken = [Taken("first", NOON, 1), Taken("second", NOON - timedelta(days=1), 2)]

    assert list(select_keep(taken, only(keep_last=1))) == ["second"]


def test_a_snapshot_that_failed_verification_fills_no_place() -> None:
    taken = every(4, timedelta(hours=1))

    kept = select_keep(taken, only(keep_last=2), verified={"s0": False, "s1": False})

    assert list(kept) == ["s0", "s2", "s3"]


def test_an_empty_policy_keeps_the_newest_the_last_verified_and_the_pinned() -> None:
    taken = every(9, timedelta(days=40))

    kept = select_keep(taken, only(), pinned=["s7"], verified={"s3": True, "s5": True, "s1": False})

    assert kept == {"s0": ["newest"], "s3": ["last verified"], "s7": ["pinned"]}


snapshots = st.lists(
    st.tuples(st.integers(0, 24 * 400), st.integers(1, 10**6)),
    max_size=40,
    unique_by=lambda pair: pair[1],
).map(lambda pairs: [Taken(f"s{n}", NOON - timedelta(hours=h), n) for h, n in pairs])
policies = st.builds(Policy, *[st.integers(0, 6)] * 5)
results = st.dictionaries(st.integers(1, 10**6).map(lambda n: f"s{n}"), st.booleans())


@given(snapshots, policies, st.data())
def test_what_must_stay_stays_and_nothing_unknown_is_kept(
    taken: list[Taken], policy: Policy, data: st.DataObject
) -> None:
    ids = [snapshot.id for snapshot in taken]
    pinned = set(data.draw(st.lists(st.sampled_from(ids)))) if ids else set()
    verified = {name: data.draw(st.booleans()) for name in ids if data.draw(st.booleans())}

    kept = select_keep(taken, policy, pinned=pinned, verified=verified)

    assert pinned <= set(kept) <= set(ids)
    if taken:
        assert max(taken, key=lambda s: s.sequence).id in kept
    good = [s for s in taken if verified.get(s.id)]
    if good:
        assert max(good, key=lambda s: s.sequence).id in kept
    unpinned = set(kept) - pinned
    assert len(unpinned) <= sum(vars(policy).values()) + 2


@given(snapshots, policies, st.data())
def test_pruning_twice_drops_nothing_more(
    taken: list[Taken], policy: Policy, data: st.DataObject
) -> None:
    verified = {s.id: data.draw(st.booleans()) for s in taken if data.draw(st.booleans())}
    kept = set(select_keep(taken, policy, verified=verified))

    again = select_keep([s for s in taken if s.id in kept], policy, verified=verified)

    assert set(again) == kept


@given(snapshots, policies)
def test_a_larger_policy_keeps_no_less(taken: list[Taken], policy: Policy) -> None:
    larger = Policy(**{name: count + 1 for name, count in vars(policy).items()})

    assert set(select_keep(taken, policy)) <= set(select_keep(taken, larger))


def test_the_last_good_snapshot_stays_behind_any_number_of_bad_ones() -> None:
    marks = [False, False, False, None, True, True]
    taken = [Taken(f"s{n}", NOON, 1000 - n, mark) for n, mark in enumerate(marks)]

    kept = select_keep(taken, only(keep_last=2))

    assert kept == {"s0": ["newest", "last 1 of 2"], "s1": ["last 2 of 2"], "s4": ["last good"]}


def test_where_none_is_marked_good_the_last_not_marked_bad_stays() -> None:
    marks = [False, None, None]
    taken = [Taken(f"s{n}", NOON, 1000 - n, mark) for n, mark in enumerate(marks)]

    assert list(select_keep(taken, only(keep_last=1))) == ["s0", "s1"]


def test_a_good_snapshot_that_failed_verification_is_not_the_last_good_one() -> None:
    taken = [
        Taken("new", NOON, 3, False),
        Taken("damaged", NOON, 2, True),
        Taken("old", NOON, 1, True),
    ]

    assert list(select_keep(taken, only(), verified={"damaged": False})) == ["new", "old"]

"""Which delivered segments go: the unwanted, the old, and the oldest of too many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipper.retention.policy import DeletableSegment, oldest, oldest_first, to_delete


def kept(number: int, *, age: float, size: int = 10, save: bool = True) -> DeletableSegment:
    return DeletableSegment(spool="s", number=number, bytes=size, age=age, save=save)


def doomed(
    *segments: DeletableSegment, seconds: float = 100.0, size: int = 1000
) -> list[int | None]:
    return sorted(
        one.number or 0 for one in to_delete(segments, max_seconds=seconds, max_bytes=size)
    )


def test_what_nobody_wants_goes_at_once() -> None:
    assert doomed(kept(1, age=0.0, save=False), kept(2, age=0.0)) == [1]


def test_what_is_too_old_goes_and_what_is_just_young_enough_stays() -> None:
    assert doomed(kept(1, age=100.5), kept(2, age=100.0), kept(3, age=5.0)) == [1]


def test_of_too_many_bytes_the_oldest_go() -> None:
    segments = [kept(number, age=50.0 - number) for number in range(1, 6)]
    assert doomed(*segments, size=30) == [1, 2]


def test_a_segment_that_fills_the_bound_exactly_stays() -> None:
    assert doomed(kept(1, age=1.0, size=30), size=30) == []
    assert doomed(kept(1, age=1.0, size=31), size=30) == [1]


def test_nothing_may_be_kept_at_all() -> None:
    assert doomed(kept(1, age=1.0), size=0) == [1]
    assert doomed(kept(1, age=0.001), seconds=0.0) == [1]


def test_nothing_there_is_nothing_to_delete() -> None:
    assert doomed() == []


SEGMENTS = st.lists(
    st.builds(
        DeletableSegment,
        spool=st.just("s"),
        number=st.integers(1, 99),
        bytes=st.integers(0, 100),
        age=st.floats(0, 200),
        save=st.booleans(),
    )
)


@settings(deadline=None)
@given(SEGMENTS)
def test_what_stays_is_wanted_young_and_within_the_bound(segments: list[DeletableSegment]) -> None:
    gone = to_delete(segments, max_seconds=100, max_bytes=250)
    stays = list(segments)
    for one in gone:
        stays.remove(one)
    assert sum(one.bytes for one in stays) <= 250
    assert all(one.save and one.age <= 100 for one in stays)


@settings(deadline=None)
@given(SEGMENTS)
def test_nothing_goes_without_a_reason(segments: list[DeletableSegment]) -> None:
    roomy = [one for one in segments if one.save and one.age <= 100]
    assert list(to_delete(roomy, max_seconds=100, max_bytes=10**9)) == []


def place(spool: str, number: int | None, *, age: float, size: int = 10) -> DeletableSegment:
    return DeletableSegment(spool=spool, number=number, bytes=size, age=age, save=True)


@pytest.mark.promise("G11")
def test_for_room_the_oldest_go_and_no_more_than_needed() -> None:
    segments = [place("a", 1, age=30), place("b", 1, age=50), place("c", 1, age=40)]
    assert [one.spool for one in oldest(segments, 11)] == ["b", "c"]
    assert [one.spool for one in oldest(segments, 10)] == ["b"]
    assert list(oldest(segments, 0)) == []
    assert len(oldest(segments, 1000)) == 3


@pytest.mark.promise("G11")
def test_a_spool_is_deleted_from_its_beginning_whatever_was_touched_last() -> None:
    segments = [place("a", 1, age=5), place("a", 2, age=50), place("b", 1, age=20)]
    order = [(one.spool, one.number) for one in oldest_first(segments)]
    assert order == [("a", 1), ("a", 2), ("b", 1)]


@given(SEGMENTS, st.integers(0, 500))
def test_what_goes_for_room_is_enough_and_without_its_last_it_would_not_be(
    segments: list[DeletableSegment], excess: int
) -> None:
    gone = oldest(segments, excess)
    if len(gone) < len(segments):
        assert sum(one.bytes for one in gone) >= excess
    if gone:
        assert sum(one.bytes for one in gone[:-1]) < excess

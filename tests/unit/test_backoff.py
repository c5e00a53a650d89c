"""The wait before the next try: full jitter below a bound that doubles, and the receiver's wish."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from shipper.delivery.backoff import (
    ALARM_FIRST_SECONDS,
    CAP_SECONDS,
    FIRST_SECONDS,
    RETRY_AFTER_CAP,
    Backoff,
    asked,
)

DRAWS = 2000


@pytest.fixture(autouse=True)
def _same_chances_every_time() -> Iterator[None]:
    state = random.getstate()
    random.seed(20240102)
    yield
    random.setstate(state)


def draws(failures: int, *, alarm: bool = False, cap: float = CAP_SECONDS) -> list[float]:
    """Many waits after the same number of failures in a row."""
    return [Backoff(cap=cap, failures=failures - 1).failed(alarm=alarm) for _ in range(DRAWS)]


@pytest.mark.parametrize("failures", [1, 2, 3, 5, 7, 8, 50, 2000])
@pytest.mark.parametrize(("alarm", "first"), [(False, FIRST_SECONDS), (True, ALARM_FIRST_SECONDS)])
def test_waits_fill_the_whole_range_below_a_doubling_bound(
    failures: int, alarm: bool, first: float
) -> None:
    bound = min(first * 2.0 ** min(failures - 1, 100), CAP_SECONDS)
    waits = draws(failures, alarm=alarm)
    assert 0 <= min(waits) < bound * 0.02
    assert bound * 0.98 < max(waits) <= bound
    # The mean of so many even draws lies within a few hundredths of the middle.
    assert abs(sum(waits) / DRAWS / bound - 0.5) < 0.03


def test_trouble_that_needs_an_operator_is_asked_about_more_slowly_from_the_start() -> None:
    assert sum(draws(1, alarm=True)) > 5 * sum(draws(1))


def test_a_cap_below_the_first_wait_does_not_shorten_that_one() -> None:
    assert max(draws(1, cap=0.1)) > 0.4
    assert max(draws(9, cap=0.1)) <= FIRST_SECONDS


def test_each_failure_counts_and_a_success_begins_anew() -> None:
    backoff = Backoff()
    for expected in (1, 2, 3):
        backoff.failed()
        assert backoff.failures == expected
    backoff.succeeded()
    assert backoff.failures == 0
    assert backoff.failed() <= FIRST_SECONDS


def test_a_failure_without_end_neither_overflows_nor_waits_longer_than_the_cap() -> None:
    assert 0 <= Backoff(failures=10**6).failed() <= CAP_SECONDS


@pytest.mark.parametrize("wish", [1.0, 30.0, RETRY_AFTER_CAP])
def test_the_receivers_wish_is_kept_and_spread_by_at_most_a_second(wish: float) -> None:
    waits = [asked(Backoff(failures=9).failed(), wish) for _ in range(DRAWS)]
    assert min(waits) >= wish
    assert max(waits) <= wish + 1.0
    assert max(waits) - min(waits) > 0.5


def test_a_wish_for_no_wait_at_all_is_none() -> None:
    """Repeated without end it would be no backoff."""
    waits = [asked(Backoff(failures=9).failed(), 0.0) for _ in range(DRAWS)]
    assert max(waits) > CAP_SECONDS / 2


@pytest.mark.parametrize("wish", [601.0, 1e9, float("inf")])
def test_an_unreasonable_wish_is_cut(wish: float) -> None:
    assert RETRY_AFTER_CAP <= asked(Backoff().failed(), wish) <= RETRY_AFTER_CAP + 1.0

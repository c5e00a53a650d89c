"""Lanes come up when they are due, the longest waiting first, and none is taken twice at once."""

from __future__ import annotations

import threading

import pytest

from shipper.delivery.scheduler import Scheduler
from tests.kit.shipping import Clock

NEVER = float("inf")
LONG = 60.0


class Setup:
    """A scheduler whose keys are due when a test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.due: dict[str, float] = {}
        self.scheduler: Scheduler[str] = Scheduler(self.due.__getitem__, self.clock)

    def put(self, key: str, after: float = 0.0) -> None:
        self.due[key] = self.clock.now + after
        self.scheduler.put(key)

    def release(self, key: str, after: float) -> None:
        self.due[key] = self.clock.now + after
        self.scheduler.release(key)

    def is_due(self) -> bool:
        with self.scheduler._lock:
            wait = self.scheduler._settle_top(None)
        return wait is not None and wait <= 0

    def taken(self) -> list[str | None]:
        """Everything that can be taken now, without waiting for more."""
        keys: list[str | None] = []
        while self.is_due():
            keys.append(self.scheduler.take())
        return keys


@pytest.fixture
def setup() -> Setup:
    return Setup()


@pytest.mark.promise("G15")
def test_the_one_that_is_due_longest_comes_first(setup: Setup) -> None:
    for key, after in (("c", -1.0), ("a", -3.0), ("b", -2.0)):
        setup.put(key, after)
    assert setup.taken() == ["a", "b", "c"]


def test_of_those_due_at_once_the_first_put_comes_first(setup: Setup) -> None:
    for key in "bca":
        setup.put(key)
    assert setup.taken() == ["b", "c", "a"]


def test_nothing_comes_up_before_its_time(setup: Setup) -> None:
    setup.put("a", 5.0)
    assert setup.taken() == []
    setup.clock.pass_by(5.0)
    assert setup.taken() == ["a"]


def test_what_is_never_due_does_not_come_up(setup: Setup) -> None:
    setup.put("a", NEVER)
    setup.clock.pass_by(1e12)
    assert setup.taken() == []


def test_what_is_taken_is_not_given_to_another(setup: Setup) -> None:
    setup.put("a")
    assert setup.taken() == ["a"]
    assert not setup.scheduler.is_idle()
    setup.put("a")
    assert setup.taken() == []
    setup.release("a", 0.0)
    assert setup.scheduler.is_idle()
    assert setup.taken() == ["a"]


def test_what_is_put_twice_comes_up_once_at_the_earlier_time(setup: Setup) -> None:
    setup.put("a", 9.0)
    setup.put("a", 2.0)
    setup.put("a", 5.0)
    setup.due["a"] = setup.clock.now + 2.0
    setup.clock.pass_by(2.0)
    assert setup.taken() == ["a"]
    setup.clock.pass_by(100.0)
    assert setup.taken() == []


def test_what_was_put_off_meanwhile_waits_on(setup: Setup) -> None:
    setup.put("a", 1.0)
    setup.due["a"] = setup.clock.now + 10.0
    setup.clock.pass_by(1.0)
    assert setup.taken() == []
    setup.clock.pass_by(9.0)
    assert setup.taken() == ["a"]


def test_the_end_sends_everyone_home(setup: Setup) -> None:
    got: list[str | None] = []
    waiting = [
        threading.Thread(target=lambda: got.append(setup.scheduler.take())) for _ in range(3)
    ]
    for thread in waiting:
        thread.start()
    setup.scheduler.close()
    for thread in waiting:
        thread.join(LONG)
    assert got == [None, None, None]
    setup.put("a")
    assert setup.scheduler.take() is None


def test_who_waits_is_woken_by_what_becomes_due(setup: Setup) -> None:
    setup.put("later", 1e6)
    got: list[str | None] = []
    waiting = threading.Thread(target=lambda: got.append(setup.scheduler.take()), daemon=True)
    waiting.start()
    setup.put("now")
    waiting.join(LONG)
    assert got == ["now"]


def test_queues_are_served_apart_and_a_key_may_change_its_queue() -> None:
    slow: set[str] = set()
    clock = Clock()
    scheduler: Scheduler[str] = Scheduler(lambda key: clock.now, clock, lambda key: key in slow)
    scheduler.put("a")
    scheduler.put("b")
    assert scheduler.take(False) == "a"
    slow.add("a")
    scheduler.release("a")
    assert scheduler.take(False) == "b"
    assert scheduler.take(True) == "a"
    slow.clear()
    scheduler.release("a")
    assert scheduler.take(False) == "a"

"""The background thread: tends when woken, runs tasks in order, ends when told, is robust."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from spooler import background, stderr
from spooler.background import BackgroundThread
from tests.kit import spools


def once(work: Callable[[], object]) -> Callable[[], bool]:
    """A task that does `work` and does not want to come back."""

    def task() -> bool:
        work()
        return False

    return task


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may depend on the tick: only being woken moves the thread."""
    monkeypatch.setattr(background, "TICK_SECONDS", 3600.0)
    monkeypatch.setattr(stderr, "_reported", {})


def test_waking_tends() -> None:
    tended = threading.Semaphore(0)
    one = BackgroundThread(tended.release)
    one.start()
    assert tended.acquire(timeout=spools.PATIENCE_SECONDS)
    one.wake()
    assert tended.acquire(timeout=spools.PATIENCE_SECONDS)
    one.finish(once(lambda: None), spools.PATIENCE_SECONDS)


def test_a_wake_during_tending_is_not_lost() -> None:
    tending, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def maintain() -> None:
        if tending.is_set():
            again.set()
        tending.set()
        go_on.wait(spools.PATIENCE_SECONDS)

    one = BackgroundThread(maintain)
    one.start()
    assert tending.wait(spools.PATIENCE_SECONDS)
    one.wake()
    go_on.set()
    assert again.wait(spools.PATIENCE_SECONDS)
    one.finish(once(lambda: None), spools.PATIENCE_SECONDS)


def test_tasks_run_in_order_and_the_last_one_last() -> None:
    ran: list[str] = []
    one = BackgroundThread(lambda: None)
    one.add(once(lambda: ran.append("first")))
    one.add(once(lambda: ran.append("second")))
    one.start()
    one.finish(once(lambda: ran.append("last")), spools.PATIENCE_SECONDS)
    assert ran == ["first", "second", "last"]
    assert not one._thread.is_alive()


def test_a_task_that_returns_true_comes_back() -> None:
    turns: list[int] = []
    done = threading.Event()
    one = BackgroundThread(lambda: None)

    def task() -> bool:
        turns.append(len(turns))
        one.wake()
        if len(turns) == 3:
            done.set()
        return len(turns) < 3

    one.add(task)
    one.start()
    assert done.wait(spools.PATIENCE_SECONDS)
    one.finish(once(lambda: None), spools.PATIENCE_SECONDS)
    assert turns == [0, 1, 2]


def test_finishing_does_not_wait_for_what_hangs() -> None:
    inside, leave = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        leave.wait(spools.PATIENCE_SECONDS)

    one = BackgroundThread(hang)
    one.start()
    assert inside.wait(spools.PATIENCE_SECONDS)
    one.finish(once(lambda: None), 0.01)
    assert one._thread.is_alive()
    assert one._thread.daemon, "nor does the interpreter"
    leave.set()
    one._thread.join(spools.PATIENCE_SECONDS)
    assert not one._thread.is_alive()


@pytest.mark.promise("G2")
def test_a_task_that_raises_costs_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []

    def broken() -> bool:
        raise ZeroDivisionError("ours")

    one = BackgroundThread(lambda: None)
    one.add(broken)
    one.add(once(lambda: ran.append("next")))
    one.start()
    one.finish(once(lambda: ran.append("last")), spools.PATIENCE_SECONDS)
    assert ran == ["next", "last"]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.promise("G2")
def test_a_signal_handler_may_wake_it_while_it_is_being_woken() -> None:
    """`Event.set` takes a lock that the interrupted call may hold: the training thread hung."""
    one = BackgroundThread(lambda: None)
    seen = spools.interrupt(threading.__file__, one.wake, 0, lambda: None)
    assert seen == 0, "no lock of Python's own is taken"
    assert spools.interrupt(background.__file__, one.wake, 10**6, lambda: None) > 0
    for at in range(100):
        spools.interrupt(background.__file__, one.wake, at, one.wake)


@pytest.mark.promise("G2")
def test_a_thread_that_the_system_refuses_is_started_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = threading.Event()
    one = BackgroundThread(lambda: None)
    one.add(once(ran.set))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not one.start()
        assert not one.start()
        one.finish(once(lambda: None), 0.0)
    assert capsys.readouterr().err.count("cannot start its thread") == 1
    two = BackgroundThread(lambda: None)
    two.add(once(ran.set))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not two.start()
    assert two.start()
    assert two.start(), "it runs"
    assert ran.wait(spools.PATIENCE_SECONDS), "what was handed over meanwhile is done"
    two.finish(once(lambda: None), spools.PATIENCE_SECONDS)


def test_at_the_interpreters_end_no_thread_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: False)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not BackgroundThread(lambda: None).start()
    assert capsys.readouterr().err == ""


def refuse(_thread: threading.Thread) -> None:
    """What Python says at a limit of processes."""
    raise RuntimeError("can't start new thread")

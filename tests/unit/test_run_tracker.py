"""Runs of several trackers in one process, and calls that something interrupts."""

from __future__ import annotations

import _weakrefset
import signal
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from spooler.hooks import detection_task, guard, run_tracker, wrappers
from spooler.hooks.run_tracker import RunTracker
from spooler.hooks.tracked_run import TrackedRun
from spooler.hooks.wrappers import wrap_call
from spooler.recorder import Recorder
from tests.kit import spools


class Run(TrackedRun):
    """A run of any tracker."""

    def __init__(self, tracker: str) -> None:
        super().__init__(f"of {tracker}")
        self.tracker = tracker

    def facts(self) -> dict[str, Any]:
        return {}


class Stopped(Exception):
    """Of the user's."""


@pytest.fixture
def runs(mine: Recorder, monkeypatch: pytest.MonkeyPatch) -> RunTracker:
    for module in (run_tracker, guard, wrappers, detection_task):
        monkeypatch.setattr(module, "recorder", lambda: mine)
    return RunTracker()


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """What brings a signal whose handler raises."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_a_run_whose_calls_waited_until_its_end_leads_nothing_after_it(
    runs: RunTracker, mine: Recorder
) -> None:
    silent, waiting, later = Run("wandb"), Run("tensorboard"), Run("transformers")
    runs.begin(silent)
    runs.log_unless_led(waiting, 1, False, {"a": 1}, True)
    runs.finish(waiting)
    runs.finish(silent)
    runs.expect(later)
    runs.log_unless_led(later, 1, False, {"a": 1}, True)
    assert mine.steps == {"of tensorboard": 1, "of transformers": 1}


@pytest.mark.parametrize("file", [weakref.__file__, _weakrefset.__file__, run_tracker.__file__])
def test_runs_may_begin_while_another_thread_logs(
    file: str, runs: RunTracker, mine: Recorder
) -> None:
    """At every bytecode of what lists the runs, as threads switch there."""
    begun: list[Run] = []
    led = Run("tensorboard")

    def begin() -> None:
        begun.append(Run("spooler"))
        runs.expect(begun[-1])

    def log() -> None:
        runs.log_unless_led(led, 1, True, {"a": 1}, True)

    begin()
    log()
    at, seen = 0, 1
    while at < seen:
        seen = spools.interrupt(file, log, at, begin)
        del begun[1:]
        at += 1
    assert mine.recorded["step"] == 1 + at


def test_a_run_that_nothing_has_announced_is_led_too(runs: RunTracker, mine: Recorder) -> None:
    leader, led = Run("wandb"), Run("mlflow")
    runs.begin(leader)
    runs.log(leader, 1, True, {"a": 1}, True)
    runs.log_unless_led(led, 1, True, {"a": 1}, True)
    assert mine.recorded["step"] == 1


def test_a_step_that_the_user_interrupts_is_counted(
    mine: Recorder, runs: RunTracker, interrupt: Callable[[], None]
) -> None:
    def observe(_told: Any, _accepted: bool, _result: Any) -> None:
        interrupt()

    class Client:
        log = wrap_call(lambda _self, value: (value,), observe, lambda _self, value: value)

    with pytest.raises(Stopped):
        Client().log(1)
    assert mine.dropped == {"interrupted": 1}

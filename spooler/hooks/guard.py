"""Calls our code so that nothing of ours reaches the program, and counts what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spooler import async_exceptions
from spooler.hooks.tracked_run import TrackedRun
from spooler.recorder import Recorder, recorder


def guarded(observe: Callable[[Any], None], subject: Any) -> None:
    """Call `observe(subject)`; count what it raises, except what is the user's."""
    try:
        observe(subject)
    except async_exceptions.ours(Exception) as error:
        count(error)


def guarded_step(observe: Callable[[Any], None], subject: Any) -> None:
    """As `guarded`. A step that an exception of the user's interrupts is counted."""
    try:
        observe(subject)
    except BaseException as error:
        if not async_exceptions.is_async(error):
            count(error)
            return
        if not async_exceptions.interrupted_here(error) and not is_counted(error):
            with async_exceptions.suppress(Exception):
                recorder().interrupted()
        raise


def count(error: BaseException) -> None:
    """Count a failure of ours. Where even that fails, training continues."""
    with async_exceptions.suppress(Exception):
        recorder().bug(error)


def is_counted(error: BaseException) -> bool:
    """Whether it passed the recorder with the step, not only with the run before it."""
    announcing = async_exceptions.passed_through(error, TrackedRun.announce)
    return async_exceptions.passed_through(error, Recorder.record) and not announcing

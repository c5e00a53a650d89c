"""A training loop that is interrupted at random instants: `interrupted ERROR WAY STATE TIMES SEED`.

It logs in a tight loop until a time limit has raised `ERROR` so many times, and prints what it
knows as JSON. `WAY` says how the limit comes: by a `signal` handler of one of several shapes, by
the interpreter's `own` handler (which has no Python frame), or `async` from another thread. In the
state `failing` nothing can be recorded; in `reopening` the spool is opened after each interruption.
"""

from __future__ import annotations

import ctypes
import functools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from spooler import recorder
from spooler.recorder import Recorder

raised = 0


class Preempted(Exception):
    """A class of the user's own."""


ERRORS: dict[str, type[BaseException]] = {
    each.__name__: each
    for each in (
        *(TimeoutError, OSError, ValueError, IndexError, RuntimeError, KeyError, OverflowError),
        *(Preempted, KeyboardInterrupt),
    )
}
ERROR: type[BaseException] = TimeoutError  # the one that is asked for


class Scalar:
    """A number of a library's, which is asked for its value while it is encoded."""

    dtype = "float32"
    shape = ()

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return float(self.value)


def handler(_number: int, _frame: FrameType | None) -> None:
    global raised
    raised += 1
    raise ERROR("time is up")


def forgetful(number: int, frame: FrameType | None) -> None:
    """Walks up the stack, as one that prints it does."""
    while frame is not None:
        frame = frame.f_back
    handler(number, frame)


def with_more(_more: str, number: int, frame: FrameType | None) -> None:
    handler(number, frame)


class Limit:
    """Handlers that are no plain functions."""

    def method(self, number: int, frame: FrameType | None) -> None:
        handler(number, frame)

    def __call__(self, *arguments: Any) -> None:
        handler(*arguments)


SHAPES: tuple[Callable[..., Any], ...] = (
    handler,
    forgetful,
    Limit().method,
    Limit(),
    functools.partial(with_more, "more"),
    functools.partial(Limit().method),
    lambda *arguments: handler(*arguments),
)


class Signal:
    """Interrupts by a timer's signal."""

    def __init__(
        self, rng: random.Random, shapes: tuple[Callable[..., Any], ...], longest: float
    ) -> None:
        self._rng = rng
        self._shapes = shapes
        self._longest = longest  # seconds

    def arm(self) -> None:
        signal.signal(signal.SIGALRM, self._rng.choice(self._shapes))
        signal.setitimer(signal.ITIMER_REAL, self._rng.uniform(2e-6, self._longest))

    def disarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Asynchronous:
    """Interrupts from another thread, as watchdogs do."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._main = threading.main_thread().ident
        self._go = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def arm(self) -> None:
        self._go.release()

    def disarm(self) -> None:
        pass

    def _run(self) -> None:
        global raised
        while True:
            self._go.acquire()
            end = time.perf_counter() + self._rng.uniform(2e-6, 200e-6)
            while time.perf_counter() < end:
                pass
            raised += 1
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._main or 0), ctypes.py_object(ERROR)
            )


def has_begun(error: BaseException) -> bool:
    """Whether the recorder had been entered: before that, there was no record to count."""
    trace, code = error.__traceback__, Recorder.record.__code__
    while trace is not None:
        if trace.tb_frame.f_code is code and trace.tb_lineno > code.co_firstlineno:
            return True
        trace = trace.tb_next
    return False


def main() -> None:
    global ERROR
    _, name, way, state, times, seed = sys.argv
    ERROR = ERRORS[name]
    rng = random.Random(int(seed))
    mine = recorder.recorder()
    recorder._RETRY_SECONDS = 0.0
    if state in ("sound", "rotating"):
        # Opening takes longer than the limits. And while a thread is being started, CPython may
        # take it for the one that an asynchronous exception is meant for.
        mine.record("before", {})
    own = (signal.default_int_handler,)
    longest = 10e-3 if state == "reopening" else 200e-6
    limit = (
        Asynchronous(rng)
        if way == "async"
        else Signal(rng, own if way == "own" else SHAPES, longest)
    )
    value = (lambda number: number) if way == "async" else Scalar
    caught, number, tried = 0, 0, list[int]()
    for _ in range(int(times)):
        if state == "reopening":
            writer, mine._writer = mine._writer, None
            if writer is not None:
                writer.close()
        number += 1
        try:
            limit.arm()
            # The interruption ends the loop. One that comes later would replace the next one.
            end = time.monotonic() + 30
            while time.monotonic() < end:
                number += 1
                mine.record("step", {"n": number, "loss": value(number)})
                tried.append(number)
        except ERROR as error:
            caught += 1
            if has_begun(error) and (not tried or tried[-1] != number):
                tried.append(number)
        limit.disarm()
    after = mine.record("after", {"n": 0})
    told = {
        "raised": raised if way != "own" else int(times),
        "caught": caught,
        "tried": tried,
        "after": after,
        "dropped": dict(mine.dropped),
        "recorded": dict(mine.recorded),
        "nesting": mine._writer._nesting if mine._writer else 0,
        "locked": [not _is_free(lock) for lock in _locks(mine)],
    }
    print(json.dumps(told))


def _locks(mine: Recorder) -> list[Any]:
    return [mine._lock, *([mine._writer._gate, mine._writer._tending] if mine._writer else [])]


def _is_free(lock: Any) -> bool:
    """Whether another thread gets it."""
    got: list[bool] = []

    def take() -> None:
        if lock.acquire(timeout=60):
            lock.release()
            got.append(True)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(got)


if __name__ == "__main__":
    main()

"""Odd ways to call `Run.log`, each against one run. Imported by `scenario.py`."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


def refusing(run: Any, data: dict[str, Any], **how: Any) -> None:
    """Log what some version of wandb may refuse."""
    try:
        run.log(data, **how)
    except (TypeError, ValueError):
        run.log({f"refused {name}": 1 for name in data})


def given(run: Any) -> None:
    """Steps that are no plain integers, each followed by a call without one."""
    import numpy as np

    class Indexed:
        def __index__(self) -> int:
            return 1010

        def __gt__(self, other: int) -> bool:
            return other < 1010

    steps = [np.int64(1000), np.int32(1001), np.array(1002), np.uint8(3), np.float64(2000), 2001.0]
    for number, step in enumerate([*steps, np.array([7]), Indexed(), 2**40, np.int64(2**41)]):
        refusing(run, {f"given {number}": number}, step=step)
        run.log({f"counted {number}": number})


def lower(run: Any) -> None:
    """Wandb discards what comes with a lower step than before, also where it ends a step."""
    for data, how in (
        ({"a": 10}, {"step": 10}),
        ({"a": 11}, {}),
        ({"a": 5}, {"step": 5}),
        ({"b": 10}, {"step": 10}),
        ({"b": 11}, {"step": 11}),
        ({"a": 12}, {"step": 11, "commit": True}),
        ({"c": 3}, {"step": 3, "commit": True}),
        ({"a": 13}, {}),
        ({"n": 1}, {"step": -1}),
    ):
        run.log(data, **how)
    refusing(run, {"bad": object}, step="no step")
    run.log({"last": 14})


def parts(run: Any) -> None:
    """Every mixture of step and commit."""
    for number, how in enumerate(
        [
            {"commit": False},
            {"commit": True},
            {"commit": False},
            {"step": 5},
            {"commit": False},
            {"step": 5, "commit": True},
            {},
            {"step": 8, "commit": False},
            {},
            {"step": 20},
            {"step": 30, "commit": True},
            {"commit": 0},
            {"commit": 1},
        ]
    ):
        run.log({f"x{number}": number}, **how)
        run.log({}, commit=False)
    run.log({}, commit=True)
    run.log({})
    run.log({"end": 1})


class _Colour(enum.Enum):
    RED = 1


class _Mode(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class _Losses:
    main: float = 0.5
    extra: Any = None


def kinds(run: Any) -> None:
    """Values whose numbers wandb takes out of an object."""
    for name, value in {
        "enum": _Colour.RED,
        "flag": _Mode.READ | _Mode.WRITE,
        "dataclass": _Losses(),
        "nested": _Losses(extra=_Losses(extra=_Colour.RED)),
        "map": {"enum": _Colour.RED, "dataclass": _Losses()},
    }.items():
        refusing(run, {name: value})


def threads(run: Any) -> None:
    def log(index: int) -> None:
        for number in range(100):
            run.log({f"thread {index}": number})

    started = [threading.Thread(target=log, args=(index,)) for index in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    run.log({"end": 1})


class _Pausing(dict):  # type: ignore[type-arg]
    """Data that does something in the middle of a call: wandb copies it, and then sends it."""

    def __init__(self, data: dict[str, Any], pause: Callable[[], Any]) -> None:
        super().__init__(data)
        self._pause = pause

    def copy(self) -> dict[str, Any]:
        self._pause()
        return dict(self)


def greenlets(run: Any) -> None:
    """In the middle of each call another greenlet runs."""
    if importlib.util.find_spec("greenlet") is None:
        return
    import greenlet

    def log(index: int) -> None:
        for number in range(20):
            run.log(_Pausing({f"greenlet {index}": number}, hub.switch))

    hub = greenlet.getcurrent()
    waiting = [greenlet.greenlet(log) for _ in range(3)]
    for index, one in enumerate(waiting):
        one.switch(index)
    while waiting := [one for one in waiting if not one.dead]:
        for one in waiting:
            one.switch()
    run.log({"end": 1})


def handler(run: Any) -> None:
    """In the middle of each call a signal handler logs."""
    count = 0

    def log(_signal: int, _frame: Any) -> None:
        nonlocal count
        count += 1
        run.log({"handler": count})

    signal.signal(signal.SIGUSR1, log)
    for number in range(20):
        run.log(_Pausing({"main": number}, lambda: signal.raise_signal(signal.SIGUSR1)))
    run.log({"end": 1})


def _log_in_child(run: Any, name: str) -> None:
    import spooler

    spooler.install()
    for number in range(5):
        run.log({"loss": number, name: number})


def _children(method: str) -> Callable[[Any], None]:
    def log(run: Any) -> None:
        context = multiprocessing.get_context(method)
        for number in range(3):
            run.log({"loss": 0.5 + number})
        for name in ("left", "right"):
            child = context.Process(target=_log_in_child, args=(run, name))
            child.start()
            child.join()
            assert child.exitcode == 0
        run.log({"loss": 9.5})

    return log


def exiting(run: Any) -> None:
    """A forked child that leaves as a program does, with the handlers of the interpreter's end."""
    run.log({"loss": 0})
    child = os.fork()
    if child == 0:
        raise SystemExit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def raising(run: Any) -> None:
    run.log({"loss": 0})
    raise ValueError("the program's own")


def exiting_with_3(run: Any) -> None:
    run.log({"loss": 0})
    sys.exit(3)


def interrupted_at_once(_run: Any) -> None:
    """Detection runs, and imports what it needs."""
    signal.raise_signal(signal.SIGINT)


def ending(run: Any) -> None:
    run.log({"loss": 0})


CALLS: dict[str, Callable[[Any], None]] = {
    **{one.__name__: one for one in (given, lower, parts, kinds, threads, greenlets, handler)},
    **{method: _children(method) for method in ("fork", "spawn", "forkserver")},
    **{one.__name__: one for one in (exiting, raising, exiting_with_3, interrupted_at_once)},
    "ending": ending,
}

"""Tells an exception that was raised through our code from one that our code has raised.

A signal handler of the user's (a time limit, a preemption) runs between two instructions of
whatever runs at that moment. What it raises there belongs to the user, though it comes up through
our frames. An error of ours never belongs to the user. Pure, but for a look at the handlers
installed.

Known by its frame: CPython calls a handler with the frame that it interrupts, and so does it call
a trace function. An asynchronous exception (`PyThreadState_SetAsyncExc`) has no frame of its own.
It is made from its class alone, without arguments, or is of a class that our code cannot raise.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from types import CodeType, FrameType, FunctionType, MethodType, TracebackType
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound=BaseException)

_VARARGS = 0x04  # of `co_flags`: the function takes *args
# Where code of the user's objects is called: `item`, `__str__`, `write`. An exception there may be
# theirs and still no interruption.
_CALLS_OTHERS = (
    "spooler.records.values",
    "spooler.spool.codec",
    "spooler.dlrover.metric",
    "spooler.stderr",
    "spooler.hooks",
    "spooler.direct",
    "spooler.log_handler",
    "spooler.diagnosis",
    "spooler.collectors",
    "spooler.dlrover.master_client",
)
# The interpreter raises these without arguments.
_BARE = (MemoryError, StopIteration, AssertionError)


def is_async(error: BaseException) -> bool:
    """Whether `error`, just caught, was raised through our code and has to be raised on."""
    return not isinstance(error, Exception) or is_from_outside(error)


def is_from_outside(error: BaseException) -> bool:
    """As `is_async`, for where called code may leave by `SystemExit`: that one is its own."""
    entries = list(_entries(error.__traceback__))
    return _is_of_handler(entries) or _is_asynchronous(error, entries)


def ours(*kinds: type[_Error]) -> tuple[type[_Error], ...]:
    """For an `except` clause: these kinds, or none for what was raised through our code."""
    error = sys.exc_info()[1]
    return kinds if isinstance(error, kinds) and not is_async(error) else ()


def passed_through(error: BaseException, function: Callable[..., Any]) -> bool:
    """Whether `error` came up through the body of `function`, not only through its call."""
    code = function.__code__
    return any(
        entry.tb_frame.f_code is code and entry.tb_lineno > code.co_firstlineno
        for entry in _entries(error.__traceback__)
    )


def uncovered(error: BaseException, handled: BaseException | None) -> BaseException:
    """`error`, or the user's exception that it was raised over.

    Clean-up code of the standard library fails when it does not expect an exception there:
    `Thread.start` raises KeyError when a handler raises just after the thread has begun.

    Args:
        error: what was caught.
        handled: what the caller was handling before, `sys.exc_info()[1]`. It is not looked at.
    """
    covered = error.__context__
    while covered is not None and covered is not handled:
        if is_async(covered):
            return covered
        covered = covered.__context__
    return error


def interrupted_here(error: BaseException) -> bool:
    """Whether `error` interrupted the very frame that caught it, between what that frame calls."""
    entries = list(_entries(error.__traceback__))
    return is_async(error) and (len(entries) == 1 or _is_of_handler(entries[:2]))


class suppress(contextlib.suppress):  # noqa: N801 - it takes the place of contextlib's
    """As `contextlib.suppress`, but not for what was raised through us."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        ends = bool(super().__exit__(kind, error, trace))
        return ends and error is not None and not is_async(error)


def _entries(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_of_handler(entries: list[TracebackType]) -> bool:
    frames = [entry.tb_frame for entry in entries]
    if any(_was_given(frame, caller) for caller, frame in pairwise(frames)):
        return True
    # A handler may have forgotten the frame: it walked up the stack with the same name.
    codes = {frame.f_code for frame in frames[1:] if _top(_module(frame)) != "spooler"}
    return bool(codes) and not codes.isdisjoint(_codes_of_handlers())


def _was_given(frame: FrameType, caller: FrameType) -> bool:
    code, known = frame.f_code, frame.f_locals
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _VARARGS)
    for name in code.co_varnames[:count]:
        value = known.get(name)
        if value is caller or (type(value) is tuple and any(item is caller for item in value)):
            return True
    return False


def _codes_of_handlers() -> Iterator[CodeType]:
    for number in range(1, _signal.NSIG):  # `signal` would make an enumeration of each answer
        handler: Any = _signal.getsignal(number)
        while type(handler) in (partial, MethodType):
            handler = handler.func if type(handler) is partial else handler.__func__
        if type(handler) is not FunctionType:
            handler = type(handler).__call__
        if type(handler) is FunctionType:
            yield handler.__code__


def _is_asynchronous(error: BaseException, entries: list[TracebackType]) -> bool:
    if not entries or isinstance(error, _BARE):
        return False
    last = _module(entries[-1].tb_frame)
    if not _is_known(last):
        return False  # raised by the code of an object, or of a function put in place of another
    if not error.args:
        return not type(error).__module__.startswith(("msgpack", "spooler"))
    names = [_module(entry.tb_frame) for entry in entries]
    ours = [name for name in names if _top(name) == "spooler"]
    if not ours or ours[-1].startswith(_CALLS_OTHERS):
        return False
    return not _is_known(type(error).__module__)


def _is_known(module: str) -> bool:
    """Whether it is one of ours, of msgpack's or of the standard library's."""
    top = _top(module)
    if top in ("spooler", "msgpack", "builtins") or top in sys.stdlib_module_names:
        return True
    return top.startswith("namedtuple_")  # code that the standard library makes


def _top(module: str) -> str:
    return module.partition(".")[0]


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))

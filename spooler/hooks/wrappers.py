"""Puts wrappers around the functions of a library.

What a signal handler raises while our code runs is the user's, and is raised again
(`spooler.async_exceptions`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from spooler import async_exceptions
from spooler.hooks.guard import count, guarded, guarded_step, is_counted
from spooler.hooks.run_tracker import runs
from spooler.recorder import recorder

_MARK = "_lens_ship_original"


def wrap_functions(places: list[tuple[Any, str]], wrappers: Mapping[str, Any]) -> None:
    """Wrap the function under each (owner, name) with the wrapper factory of that name.

    A function gets one wrapper, which takes its place everywhere, so that it can be pickled.
    """
    runs.finish_at_exit()
    made: dict[int, Any] = {}  # id of an original -> its one wrapper
    for owner, name in places:
        original = vars(owner).get(name)
        if callable(original) and not hasattr(original, _MARK):
            if id(original) not in made:
                made[id(original)] = _disguise(wrappers[name](original), original)
            setattr(owner, name, made[id(original)])


def unwrap_functions(places: list[tuple[Any, str]]) -> None:
    for owner, name in places:
        original = getattr(vars(owner).get(name), _MARK, None)
        if original is not None:
            setattr(owner, name, original)


def _disguise(wrapper: Any, original: Any) -> Any:
    """Give the wrapper the signature of its original: some callers ask without unwrapping."""
    if not hasattr(original, "__wrapped__"):
        import inspect

        wrapper.__signature__ = inspect.signature(original)
    setattr(wrapper, _MARK, original)
    return wrapper


def wrap_log(hook: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method that logs. The functions of `hook` say what is recorded.

    - `before_log(self)`: what has to be read before the tracker's own call.
    - `observe_log(self, before, *args, **kwargs)`: called when that call has returned.
    - `known_run(self)`: the `TrackedRun`, None if there is none yet.
    - `missed_log(self)`, optional: called when a call may have been accepted, and not observed.
    """

    @functools.wraps(original)
    def log(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = None
        try:
            before = hook.before_log(self)
        except async_exceptions.ours(Exception) as error:
            count(error)
        # Not in the handler above: an error of the tracker's would carry ours with it.
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            if async_exceptions.interrupted_here(error):
                _interrupted(hook, self, error)  # the tracker had already accepted it
            _missed(hook, self)
            raise
        if before is None:
            _missed(hook, self)
            return result
        try:
            hook.observe_log(self, before, *args, **kwargs)
        except BaseException as error:
            if async_exceptions.is_async(error):
                if not async_exceptions.interrupted_here(error):  # else all is done
                    _interrupted(hook, self, error)
                    _missed(hook, self)
                raise
            count(error)
            _missed(hook, self)
        return result

    return log


def wrap_call(
    told: Callable[..., Any],
    observe: Callable[..., None],
    original: Callable[..., Any],
    fill: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Wrap a method whose arguments are read before it runs, or that is recorded if it raised.

    Args:
        told: called first, with the same arguments. What it returns of them is given to `observe`.
        observe: called after the method with that, whether it was accepted (it did not raise), and
            what it returned. Not called if there is nothing to observe, None.
        original: the method.
        fill: called before `told` with the positional and the named arguments: it may fill in the
            named ones, and returns the positional ones.
    """

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        subject, problem = None, None
        try:
            args = args if fill is None else fill(args, kwargs)
            subject = told(self, *args, **kwargs)
        except async_exceptions.ours(Exception) as error:  # unless the arguments are wrong
            problem = error
        accepted, returned = False, None
        try:
            returned = original(self, *args, **kwargs)
            accepted = True
            return returned
        finally:
            if subject is not None:
                guarded_step(lambda one: observe(one, accepted, returned), subject)
            elif problem is not None and accepted:
                count(problem)

    return call


def wrap_end(observe: Callable[[Any], None], original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method: `observe(self)` is called once it has returned or raised."""

    @functools.wraps(original)
    def end(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            guarded(observe, self)

    return end


def _missed(hook: Any, subject: Any) -> None:
    missed_log = getattr(hook, "missed_log", None)
    if missed_log is not None:
        guarded(missed_log, subject)


def _interrupted(hook: Any, subject: Any, error: BaseException) -> None:
    """Count a step that the tracker has accepted, unless the recorder has done so."""
    with async_exceptions.suppress(Exception):
        known = hook.known_run(subject)
        if (known is None or not known.ignored) and not is_counted(error):
            recorder().interrupted()

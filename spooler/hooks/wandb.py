"""The hook on wandb.

Wrapped are `wandb.init` and, on the class, `Run.log` (which `wandb.log`, Lightning and the Hugging
Face Trainer call), `Run.define_metric`, `Run._finish` (which `finish`, `wandb.finish` and a `with`
block call) and `Run._config_callback` (which `wandb.config` calls when it has changed).
"""

from __future__ import annotations

import functools
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from spooler import stderr
from spooler.hooks.axes import RunAxes
from spooler.hooks.guard import guarded
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.hooks.wrappers import unwrap_functions, wrap_end, wrap_functions, wrap_log
from spooler.records import axis

_RUN_MODULE = "wandb.sdk.wandb_run"
# Under this key a Run object carries our state: in its __dict__, because wandb refuses new
# attributes. With the object it comes and goes.
_STATE = "_lens_ship_state"
# From this version on, wandb gives a row that lacks its axis 0 before the first value of the axis.
_AXES_BEGIN_AT_0 = (0, 18)


def wrap(wandb: Any) -> None:
    stderr.debug("Installing WandB hook...")
    log = functools.partial(wrap_log, sys.modules[__name__])
    finish = functools.partial(wrap_end, _observe_finish)
    wrappers = {"init": _wrap_init, "log": log, "_finish": finish}
    wrappers |= {"define_metric": _wrap_define_metric, "_config_callback": _wrap_config_callback}
    wrap_functions(_places(wandb), wrappers)
    _rebind(wandb)
    if wandb.run is not None:
        missed_log(wandb.run)  # what it logged while it was not wrapped


def unwrap(wandb: Any) -> None:
    if _RUN_MODULE in sys.modules:  # else it is another module of the name wandb
        unwrap_functions(_places(wandb))
        _rebind(wandb)


def _places(wandb: Any) -> list[tuple[Any, str]]:
    """Where the wrapped functions live: module attributes first, then the class."""
    modules = [wandb, getattr(wandb, "sdk", None), sys.modules.get("wandb.sdk.wandb_init")]
    places: list[tuple[Any, str]] = [
        (module, "init") for module in modules if module is not None and hasattr(module, "init")
    ]
    run_class = sys.modules[_RUN_MODULE].Run
    names = ("log", "define_metric", "_finish", "_config_callback")
    return [*places, *((run_class, name) for name in names)]


def _rebind(wandb: Any) -> None:
    """A run that is active already has put its bound methods on the module: take the new ones."""
    for name in ("log", "define_metric"):
        bound_to: Any = getattr(getattr(wandb, name, None), "__self__", None)
        if bound_to is not None and bound_to is wandb.run:
            setattr(wandb, name, getattr(bound_to, name))


class _WandbRun(TrackedRun):
    """A run of wandb; wandb's settings are asked before properties that may wait.

    wandb numbers the calls in a process of its own, in the order in which they arrive there, and
    tells no number back. This object counts as that process does, so calls of several threads,
    greenlets and signal handlers have numbers of their own. Which of two such calls at one moment
    has arrived first remains unknown. So do the calls of other processes.
    """

    tracker = "wandb"

    def __init__(self, subject: Any, next_step: int = 0) -> None:
        settings = getattr(subject, "_settings", None)
        run_id = getattr(settings, "run_id", None) or getattr(subject, "id", None) or "unknown"
        super().__init__(
            str(run_id),
            ignored=bool(getattr(settings, "_noop", False)),
            pid=getattr(subject, "_init_pid", None),  # of another process if it was pickled
        )
        self._subject = weakref.ref(subject)  # which carries this object
        self.next_step = next_step  # of a call that names none
        self._discarded = 0  # calls that only wandb's counter in this process has counted
        # The receiver of a shared run numbers the calls of all its processes.
        self.shared = bool(getattr(settings, "_shared", False))

    def number(self, closed: bool) -> int:
        """The number of a call that names no step.

        Between reading and writing there is no call and no jump, so CPython runs neither another
        thread nor a signal handler there.
        """
        number = self.next_step
        self.next_step = number + closed
        return number

    def number_given(self, step: int, before: int, closed: bool) -> int | None:
        """The number of a call that names `step`, None if wandb has discarded the call.

        Args:
            step: what the call names.
            before: `next_step` when the call began. Against a later one, of other threads, wandb
                may have accepted it.
            closed: the call ends the step.
        """
        if step < before:
            self._discarded += closed
            return None
        following = step + closed
        if following > self.next_step:
            self.next_step = following
        return step

    def catch_up(self, local_step: int) -> None:
        """Count on from wandb's counter in this process, after calls that were not observed.

        It lags when threads have called at one moment: then it changes nothing.
        """
        local_step -= self._discarded
        if local_step > self.next_step:
            self.next_step = local_step

    def facts(self) -> dict[str, Any]:
        subject = self._subject()
        settings = getattr(subject, "_settings", None)

        def text(value: Any) -> str:
            return value if isinstance(value, str) else ""

        return {
            "project": text(getattr(settings, "project", None)),
            "name": text(getattr(settings, "run_name", None)) or text(getattr(subject, "_name", 0)),
            "entity": text(getattr(settings, "entity", None)),
            "group": text(getattr(settings, "run_group", None)),
            "job_type": text(getattr(settings, "run_job_type", None)),
            "tags": [str(tag) for tag in (getattr(settings, "run_tags", None) or ())],
            "mode": text(getattr(settings, "mode", None)),
            "resumed": bool(getattr(settings, "resumed", False)),
            "step": self.next_step,
            "sweep": text(getattr(settings, "sweep_id", None)),
            "tracker_version": str(getattr(sys.modules.get("wandb"), "__version__", "")),
        }

    def config(self) -> Mapping[str, Any]:
        """The run's config, which runs code of wandb's."""
        return dict(getattr(self._subject(), "config"))  # noqa: B009 - it may be gone

    def exit_code(self) -> int | None:
        """The exit code that wandb was told, or has seen: its `ExitHooks.exit` is `sys.exit`."""
        code = getattr(self._subject(), "_exit_code", None)
        if code is None:
            code = getattr(getattr(sys.exit, "__self__", None), "exit_code", None)
        return code if isinstance(code, int) else None


# --- what is recorded -----------------------------------------------------------------------------


def _wrap_init(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        guarded(_observe_init, result)
        return result

    return init


def _wrap_config_callback(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _config_callback(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        guarded(_observe_config, self)
        return result

    return _config_callback


def _wrap_define_metric(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def define_metric(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        guarded(functools.partial(_observe_definition, self), result)
        return result

    return define_metric


def _observe_init(subject: Any) -> None:
    stderr.debug("Intercepted wandb.init()")
    if isinstance(subject, sys.modules[_RUN_MODULE].Run):
        runs.begin(known_run(subject) or _track(subject, _local_step(subject)))


def observe_log(
    subject: Any,
    before: int,
    data: Any = None,
    step: Any = None,
    commit: bool | None = None,
    *_more: Any,
    **named: Any,
) -> None:
    """One accepted `Run.log(data, step, commit)`; further arguments of old versions are idle."""
    tracked = subject.__dict__.get(_STATE) or _track(subject, before)
    if tracked.ignored:
        return
    if step is None or tracked.shared or _is_mirrored():
        closed = commit is None or bool(commit)
        runs.log(tracked, tracked.number(closed), closed, data, False)
        return
    closed = bool(commit)
    number = tracked.number_given(int(step), before, closed)
    if number is not None:
        runs.log(tracked, number, closed, data, True)


def _observe_definition(subject: Any, metric: Any) -> None:
    """An accepted `Run.define_metric`, which returns what it was told; None after the end."""
    tracked = known_run(subject) or _track(subject, _local_step(subject))
    if tracked.ignored or metric is None:
        return
    begins_at_0 = _version() >= _AXES_BEGIN_AT_0
    body = axis.encode(
        run=tracked.run,
        time=time.time(),
        name=metric.name,
        step_metric=metric.step_metric or "",
        step_sync=bool(metric.step_sync),
        overwrite=bool(getattr(metric, "_overwrite", False)),
    )
    runs.define(tracked, tracked.axes or RunAxes(0 if begins_at_0 else None), body)


def _version() -> tuple[int, ...]:
    numbers = str(getattr(sys.modules.get("wandb"), "__version__", "")).split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())


def _is_mirrored() -> bool:
    """Whether wandb copies TensorBoard's steps, and ignores those of its own calls."""
    return bool(getattr(sys.modules.get("wandb"), "patched", {}).get("tensorboard"))


def mirrored_run() -> TrackedRun | None:
    """The run into which wandb copies TensorBoard's steps, None if it copies none."""
    subject = getattr(sys.modules.get("wandb"), "run", None) if _is_mirrored() else None
    tracked = None if subject is None else known_run(subject)
    return None if tracked is None or tracked.ignored else tracked


def missed_log(subject: Any) -> None:
    """A call of `Run.log` may have been accepted without `observe_log`."""
    tracked = known_run(subject)
    if tracked is not None and not tracked.shared and not _is_mirrored():
        tracked.catch_up(_local_step(subject))


def _observe_finish(subject: Any) -> None:
    runs.finish(known_run(subject))


def _observe_config(subject: Any) -> None:
    runs.change_config(known_run(subject))


def known_run(subject: Any) -> _WandbRun | None:
    tracked: _WandbRun | None = subject.__dict__.get(_STATE)
    return tracked


def _track(subject: Any, next_step: int) -> _WandbRun:
    tracked: _WandbRun = subject.__dict__.setdefault(_STATE, _WandbRun(subject, next_step))
    return tracked


def before_log(subject: Any) -> int:
    """The number of the next call without a step, before this one has begun."""
    tracked = subject.__dict__.get(_STATE)
    return _local_step(subject) if tracked is None else tracked.next_step


def _local_step(subject: Any) -> int:
    """How far wandb has counted in this process, without the answer of its own process.

    It is `_local_step` from wandb 0.23 on and `_step` before. The public `Run.step` asks wandb's
    service process and waits for its answer.
    """
    known = subject.__dict__
    number = known.get("_local_step")
    return int(known.get("_step", 0) if number is None else number)

"""The hook on the Trainer of Transformers, with `report_to="none"` too.

Wrapped on `CallbackHandler`, which every Trainer calls, are `on_train_begin`, `on_log` and
`on_train_end`. The process with rank 0 is recorded, as the Trainer's own callbacks do. These run
first: what they log to wandb, MLflow or TensorBoard is recorded there.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from spooler.hooks import run_id
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.hooks.wrappers import unwrap_functions, wrap_call, wrap_functions


def wrap(module: Any) -> None:
    wrappers: dict[str, Callable[..., Any]] = {
        "on_train_begin": functools.partial(wrap_call, _event, _begin),
        "on_log": functools.partial(wrap_call, _log_event, _log),
        "on_train_end": functools.partial(wrap_call, _event, _end),
    }
    wrap_functions([(module.CallbackHandler, name) for name in wrappers], wrappers)


def unwrap(module: Any) -> None:
    names = ("on_train_begin", "on_log", "on_train_end")
    unwrap_functions([(module.CallbackHandler, name) for name in names])


class _TrainerRun(TrackedRun):
    """One training; its output directory tells it from others of the job."""

    tracker = "transformers"

    def __init__(self, arguments: Any) -> None:
        directory = str(getattr(arguments, "output_dir", None) or "")
        super().__init__(run_id.stable(os.environ, "hf", os.path.abspath(directory), directory))
        self._arguments = arguments

    def facts(self) -> dict[str, Any]:
        version = getattr(sys.modules.get("transformers"), "__version__", "")
        name = getattr(self._arguments, "run_name", None)
        return {"name": str(name or ""), "tracker_version": str(version)}

    def config(self) -> Mapping[str, Any]:
        """The training arguments, in which Transformers leaves out what is secret."""
        return dict(self._arguments.to_dict())


_runs: weakref.WeakKeyDictionary[Any, _TrainerRun] = weakref.WeakKeyDictionary()


def _event(handler: Any, args: Any, state: Any, *_more: Any, **_named: Any) -> Any:
    """What is recorded of an event, None in processes that are to log nothing."""
    return (handler, args, state) if state.is_world_process_zero else None


def _log_event(handler: Any, args: Any, state: Any, control: Any, logs: Any, **_named: Any) -> Any:
    """With a copy of the values: callbacks take out those that they do not print."""
    told = _event(handler, args, state)
    return told and (*told, dict(logs or {}))


def _begin(told: Any, _accepted: bool, _result: Any) -> None:
    handler, arguments, _state = told
    runs.begin_unless_led(_run_of(handler, arguments))


def _log(told: Any, _accepted: bool, _result: Any) -> None:
    handler, arguments, state, logs = told
    runs.log_unless_led(_run_of(handler, arguments), int(state.global_step), False, logs, True)


def _end(told: Any, _accepted: bool, _result: Any) -> None:
    runs.finish(_runs.get(told[0]))


def _run_of(handler: Any, arguments: Any) -> _TrainerRun:
    tracked = _runs.get(handler)
    if tracked is None or tracked.finished:
        tracked = _runs[handler] = _TrainerRun(arguments)
    return tracked

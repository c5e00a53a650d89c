"""The hook on MLflow.

Wrapped are methods of `TrackingServiceClient`, which the fluent functions, `MlflowClient`, autolog
and asynchronous logging call. Metrics are recorded too when the call raised, as it does while
MLflow's server is away: such a step is marked as not accepted. Times are exactly those that MLflow
stores, so that sending them to MLflow again adds nothing. MLflow's own system metrics are left out.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.hooks.wrappers import unwrap_functions, wrap_call, wrap_functions

_SYSTEM = "system/"  # MLflow counts their steps apart
_TIMESTAMP = 3  # where the argument stands in a call of `log_metric`


def wrap(module: Any) -> None:
    wrappers: dict[str, Callable[..., Any]] = {
        "create_run": functools.partial(wrap_call, _nothing, _observe_run),
        "log_metric": functools.partial(wrap_call, _metric, _observe_metrics, fill=_fill_time),
        "log_batch": functools.partial(wrap_call, _batch, _observe_metrics),
        "log_param": functools.partial(wrap_call, _param, _observe_metrics),
        "set_terminated": functools.partial(wrap_call, _ended, _observe_end),
    }
    wrap_functions([(module.TrackingServiceClient, name) for name in wrappers], wrappers)


def unwrap(module: Any) -> None:
    names = ("create_run", "log_metric", "log_batch", "log_param", "set_terminated")
    unwrap_functions([(module.TrackingServiceClient, name) for name in names])


class _MlflowRun(TrackedRun):
    """A run that this process has begun, or logs to."""

    tracker = "mlflow"

    def __init__(self, run_id: str, name: str = "", experiment: str = "") -> None:
        super().__init__(run_id)
        self._name = name
        self._experiment = experiment
        self.params: dict[str, Any] = {}
        self.status: int | None = None

    def facts(self) -> dict[str, Any]:
        """What MLflow says of the run; where the experiment has no name here, its id."""
        return {
            "project": os.environ.get("MLFLOW_EXPERIMENT_NAME") or self._experiment,
            "name": self._name,
            "mlflow_run_id": self.run,
            "tracker_version": str(getattr(sys.modules.get("mlflow"), "__version__", "")),
        }

    def config(self) -> Mapping[str, Any]:
        return self.params

    def exit_code(self) -> int | None:
        """0 for a run that has finished, 1 for one that has failed or was killed."""
        return self.status


_runs: dict[str, _MlflowRun] = {}
_last_time = 0  # milliseconds

# What a call says of a run: its id, values by (step or None, milliseconds), parameters.
_Told = tuple[str, dict[tuple[int | None, int], dict[str, Any]], dict[str, Any]]


# --- before a call: what it says ------------------------------------------------------------------


def _nothing(_client: Any, *_arguments: Any, **_named: Any) -> tuple[()]:
    return ()


def _fill_time(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The time in place of MLflow, so that both have the same; no two calls have one time."""
    global _last_time
    now = _last_time = max(int(time.time() * 1000), _last_time + 1)
    if len(args) <= _TIMESTAMP:
        if kwargs.get("timestamp") is None:
            kwargs["timestamp"] = now
    elif args[_TIMESTAMP] is None:
        args = (*args[:_TIMESTAMP], now, *args[_TIMESTAMP + 1 :])
    return args


def _metric(
    _client: Any,
    run_id: str,
    key: str,
    value: Any,
    timestamp: int,
    step: int | None = None,
    *_more: Any,
    **_named: Any,
) -> _Told:
    return run_id, {(step, timestamp): {str(key): value}}, {}


def _batch(
    _client: Any, run_id: str, metrics: Any = (), params: Any = (), *_more: Any, **_named: Any
) -> _Told:
    values: dict[tuple[int | None, int], dict[str, Any]] = {}
    for one in metrics:
        if not one.key.startswith(_SYSTEM):
            values.setdefault((one.step, one.timestamp), {})[one.key] = one.value
    return run_id, values, {one.key: one.value for one in params}


def _param(_client: Any, run_id: str, key: str, value: Any, *_more: Any, **_named: Any) -> _Told:
    return run_id, {}, {str(key): value}


def _ended(
    _client: Any, run_id: str, status: Any = None, *_more: Any, **_named: Any
) -> tuple[str, Any]:
    return run_id, status


# --- after it: what is recorded -------------------------------------------------------------------


def _observe_run(_told: Any, accepted: bool, run: Any) -> None:
    if accepted:
        info = run.info
        name = str(getattr(info, "run_name", None) or "")
        tracked = _MlflowRun(info.run_id, name, str(info.experiment_id))
        _runs[info.run_id] = tracked
        runs.expect(tracked)


def _observe_metrics(told: _Told, accepted: bool, _result: Any) -> None:
    run_id, values, params = told
    tracked = _runs.get(run_id)
    if tracked is None:
        tracked = _runs[run_id] = _MlflowRun(run_id)
    if params:
        known = tracked.params  # MLflow refuses another value for one of these
        tracked.params = {**known, **params} if accepted else {**params, **known}
        runs.change_config(tracked)
    for (step, milliseconds), data in values.items():
        # Each call is a step of its own, with its own time: parts of one step have that of the
        # first.
        number, given = (0, False) if step is None else (int(step), True)
        at = milliseconds / 1000
        runs.log_unless_led(tracked, number, True, data, given, at=at, accepted=accepted)


def _observe_end(told: tuple[str, Any], _accepted: bool, _result: Any) -> None:
    run_id, status = told
    tracked = _runs.pop(run_id, None)
    if tracked is not None:
        tracked.status = 0 if status in (None, "FINISHED") else 1
        runs.finish(tracked)

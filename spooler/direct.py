"""For programs without a tracker: `spooler.log`, and what begins and ends a run.

What was logged is on disk when the call returns. Nothing here raises, whatever it is given: what
cannot be recorded is counted, and reported once on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from spooler._version import __version__
from spooler.async_exceptions import ours
from spooler.hooks import run_id
from spooler.hooks.guard import count, guarded, guarded_step
from spooler.hooks.run_tracker import RunTracker, runs
from spooler.hooks.tracked_run import TrackedRun


class DirectRun(TrackedRun):
    """A run that the program itself has begun; `finish`, a `with` block or the process ends it."""

    tracker = "spooler"

    def __init__(self, run: str, config: Mapping[str, Any] | None = None, **facts: Any) -> None:
        super().__init__(run)
        self._config = dict(config or {})
        self._facts = facts
        self._exit_code: int | None = None
        self._next_step = 0

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: Any = None) -> None:
        """As `spooler.log`, for this run."""
        guarded_step(self._log, (data, step, commit))

    def finish(self, exit_code: int | None = None) -> None:
        self._exit_code = exit_code
        guarded(runs.finish, self)

    def __enter__(self) -> DirectRun:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.finish(0 if error is None else 1)

    def facts(self) -> dict[str, Any]:
        return {**self._facts, "tracker_version": __version__}

    def config(self) -> Mapping[str, Any]:
        return self._config

    def exit_code(self) -> int | None:
        return self._exit_code

    def _log(self, call: tuple[Mapping[str, Any], Any, Any]) -> None:
        data, step, commit = call
        if not isinstance(data, Mapping):
            raise TypeError(
                f"spooler.log takes a map of names to values, not {type(data).__name__}"
            )
        closed = step is None if commit is None else bool(commit)
        number = self._next_step if step is None else int(step)
        self._next_step = number + closed
        named = {name if type(name) is str else str(name): value for name, value in data.items()}
        runs.log(self, number, closed, named, step is not None)


_run: DirectRun | None = None


def start_run(
    name: str = "",
    *,
    project: str = "",
    id: str = "",  # noqa: A002 - as trackers call it
    config: Mapping[str, Any] | None = None,
    tags: Iterable[str] = (),
) -> DirectRun:
    """Begin the run that `spooler.log` logs to, and end the one before.

    Args:
        name: for people.
        project: for people, and part of the id.
        id: of the run. Otherwise it is made from the job (`WORKLOAD_UID`, `SLURM_JOB_ID`, …),
            `project` and `name`: the same in every rank and after a restart.
        config: the run's configuration.
        tags: short texts.
    """
    global _run
    if _run is not None:
        _run.finish()
    try:
        name, project = str(name), str(project)
        place = os.path.abspath(sys.argv[0])
        run = str(id) or run_id.stable(os.environ, "run", place, project, name)
        known = config if isinstance(config, Mapping) else None
        _run = DirectRun(run, known, name=name, project=project, tags=[str(one) for one in tags])
    except ours(Exception) as error:
        count(error)
        _run = DirectRun("run")
    guarded(RunTracker.finish_at_exit, runs)
    guarded(runs.begin, _run)
    return _run


def log(data: Mapping[str, Any], step: int | None = None, *, commit: bool | None = None) -> None:
    """Record values of a step of the run; begins a run if none is active.

    Args:
        data: names and values: numbers (also of numpy and torch), text, booleans, None, maps.
        step: its number. Calls with the same number are parts of one step. Without it calls are
            counted, each a step of its own.
        commit: whether the step ends with this call. `False` without a number: more parts follow.
    """
    run = _run
    if run is None or run.finished:
        run = start_run()
    run.log(data, step, commit)


def finish(exit_code: int | None = None) -> None:
    """End the run. It ends with the process in any case."""
    if _run is not None:
        _run.finish(exit_code)

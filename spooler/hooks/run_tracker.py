"""Records runs, steps and ends of runs for every hook.

A run is known by its own object, so several runs in one process stay apart, and a run that was
started before the hook came is adopted at its first call. `spooler.recorder` counts what could not
be recorded.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import weakref
from collections.abc import Mapping
from typing import Any

from spooler import async_exceptions, config
from spooler.hooks import names, precedence
from spooler.hooks.axes import RunAxes
from spooler.hooks.detection_task import DetectionTask
from spooler.hooks.guard import guarded
from spooler.hooks.tracked_run import TrackedRun
from spooler.recorder import Recorder, recorder
from spooler.records import axis, finish, run_config, step
from spooler.records.axes import AxesOfStep
from spooler.records.values import careful
from spooler.spool import codec
from spooler.spool.identity import Identity

# Between two steps of a run: receivers of time series keep one value for a millisecond, and two
# times that are further apart than one are never rounded to the same.
_APART_SECONDS = 0.0011
_UPDATE_SECONDS = 1.0  # between two records of changes of a configuration


class RunTracker:
    """Records what hooks observe. All methods may raise: `spooler.hooks.guard` calls them."""

    def __init__(self) -> None:
        # Begun, not finished, by id. Not a WeakSet: one cannot be listed while a thread adds to it.
        self._active: weakref.WeakValueDictionary[int, TrackedRun] = weakref.WeakValueDictionary()
        # Tracker and names of each run that has logged: a run that is resumed keeps its names.
        self._decided: dict[str, tuple[str, names.Names]] = {}

    def begin(self, tracked: TrackedRun) -> None:
        """Announce a run unless that is done; the tracker has begun it."""
        if not tracked.ignored and tracked.generation < 0:
            self.announce(recorder(), tracked)

    def begin_unless_led(self, tracked: TrackedRun) -> None:
        """As `begin`, but the run of another tracker comes first if there is one."""
        if self._leaders(tracked):
            self.expect(tracked)
        else:
            self.begin(tracked)

    def expect(self, tracked: TrackedRun) -> None:
        """A run has begun that is announced once something of it is recorded."""
        self._active[id(tracked)] = tracked

    def log_unless_led(
        self,
        tracked: TrackedRun,
        number: int,
        closed: bool,
        data: Any,
        *given: Any,
        **more: Any,
    ) -> None:
        """As `log`, unless another tracker records the same numbers, see `hooks.precedence`."""
        others = len(self._active) - (id(tracked) in self._active)
        leaders = self._leaders(tracked) if others else ()
        waiting = [call[0] for call in tracked.waiting]
        verdict = precedence.verdict([one.last_step for one in leaders], number, waiting)
        if verdict is precedence.RECORD:
            tracked.beside |= {one.run for one in leaders}
            self._settle(tracked)
            self.log(tracked, number, closed, data, *given, **more)
        elif verdict is precedence.WAIT:
            self._active[id(tracked)] = tracked
            # The values as they are now, and their time.
            call = (number, closed, careful(data), *given)
            tracked.waiting.append((*call, {**more, "at": more.get("at") or time.time()}))
        else:
            tracked.waiting.clear()

    def _leaders(self, tracked: TrackedRun) -> list[TrackedRun]:
        if config.chosen_trackers(os.environ):
            return []  # chosen by the user
        mine, pid = recorder(), os.getpid()
        return [
            other
            for other in self._actives()
            if precedence.leads(other.tracker, tracked.tracker)
            and other.run not in tracked.beside
            and (other.pid == pid or other.run in mine.steps)  # else a fork has only left it here
        ]

    def _actives(self) -> list[TrackedRun]:
        known = (found() for found in self._active.valuerefs())
        return [tracked for tracked in known if tracked is not None]

    def _settle(self, tracked: TrackedRun) -> None:
        """Record the calls that waited."""
        while tracked.waiting:
            try:
                *call, more = tracked.waiting.pop(0)
            except async_exceptions.ours(IndexError):
                return  # another thread has taken the last one
            self.log(tracked, *call, **more)

    def log(  # noqa: PLR0913 - the fields of a step
        self,
        tracked: TrackedRun,
        number: int,
        closed: bool,
        data: Any,
        step_given: bool,
        at: float | None = None,
        accepted: bool = True,
        axes: AxesOfStep | None = None,
    ) -> None:
        """Record one call; see `spooler.records.step` for the arguments.

        `at` is its time in Unix seconds if the caller gave it: it is kept as it is.
        """
        mine = recorder()
        if tracked.ready != mine.generation:
            self._prepare(mine, tracked, number)
        now, given = at, step_given
        if now is None:
            now = time.time()
            if now < tracked.next_time and number != tracked.last_step:
                now = tracked.next_time
            tracked.next_time = now + _APART_SECONDS
        if tracked.axes is not None:
            axes = tracked.axes.of_step(data)
        # By position: names would take longer than the rest of it.
        body = step.encode(
            tracked.run, number, now, closed, data, tracked.tracker, given, tracked.inherited, axes
        )
        if tracked.marks:
            body |= tracked.marks
        if not accepted:
            body["accepted"] = False
        if mine.record("step", body):
            tracked.last_step = mine.steps[tracked.run] = number

    def offer(
        self,
        tracked: TrackedRun,
        number: int,
        data: Mapping[str, float],
        *,
        step_given: bool,
        at: float,
        source: dict[str, Any],
    ) -> bool:
        """Record a step that is offered again if the spool refuses it now; whether it is safe."""
        mine = recorder()
        if mine.generation != tracked.ready:
            self._prepare(mine, tracked, number)
        at = max(at, tracked.next_time)
        body = step.encode(
            tracked.run,
            number,
            at,
            False,
            data,
            tracked.tracker,
            step_given,
            tracked.inherited,
            source=source,
        )
        if not mine.append(step.NAME, codec.pack(body | tracked.marks), kept=True):
            return False
        tracked.next_time = at + _APART_SECONDS
        tracked.last_step = mine.steps[tracked.run] = number
        return True

    def define(self, tracked: TrackedRun, axes: RunAxes, body: dict[str, Any]) -> None:
        """Record an accepted definition, the body of an "axis" record, of the run's `axes`.

        Where the run has not been announced to this spool, that follows with it.
        """
        tracked.axes = axes
        mine = recorder()
        if axes.define(body) and tracked.generation == mine.generation:
            mine.record(axis.NAME, body)

    def finish(self, tracked: TrackedRun | None) -> None:
        """Record the end of a run, once."""
        if tracked is None or tracked.ignored or tracked.finished:
            return
        if tracked.pid != os.getpid():
            return  # it goes on in the process that began it
        if tracked.config_changed:
            self._record_update(tracked)
        tracked.finished = True
        if all(one.last_step is None for one in self._leaders(tracked)):
            self._settle(tracked)
        self._active.pop(id(tracked), None)  # which the calls that waited may have begun
        if tracked.generation < 0:
            return  # nothing of it is recorded
        body = finish.encode(
            run=tracked.run,
            time=time.time(),
            step=tracked.last_step,
            exit_code=tracked.exit_code(),
        )
        recorder().record(finish.NAME, body)

    def finish_at_exit(self) -> None:
        """Have `finish_all` called when the interpreter ends."""
        mine = recorder()
        if self.finish_all not in mine.on_close:
            mine.on_close.append(self.finish_all)

    def finish_all(self) -> None:
        """Record the end of runs that are active when the interpreter ends."""
        for tracked in self._actives():
            guarded(self.finish, tracked)

    def announce(self, mine: Recorder, tracked: TrackedRun) -> None:
        """Record which run the following steps belong to; start its detection."""
        first = tracked.generation < 0
        tracked.inherited = tracked.pid != os.getpid()
        if tracked.run in self._decided:
            tracked.names = self._decided[tracked.run][1]
        else:  # until the first step, which may know better
            tracked.names = self._decide(mine, tracked, tracked.facts().get("step", 0))
        body, given = tracked.announce(mine)
        if not first:
            return
        self._active[id(tracked)] = tracked
        mine.defer(DetectionTask(tracked, body, given))
        if os.environ.get(config.COLLECTORS) and tracked.tracker != config.LOG_TRACKER:
            from spooler.diagnosis.start import start_from_environ

            start_from_environ()

    def _prepare(self, mine: Recorder, tracked: TrackedRun, number: int) -> None:
        """Before the first step in a spool: settle the names of the run, and announce it."""
        if tracked.run not in self._decided:
            decided = self._decide(mine, tracked, number)
            self._decided[tracked.run] = tracked.tracker, decided
        known, tracked.names = tracked.names, self._decided[tracked.run][1]
        given = {"sole_writer": tracked.names.sole_writer, "run_prefix": tracked.names.run_prefix}
        tracked.marks = {name: True for name, holds in given.items() if holds}
        if tracked.generation != mine.generation:
            self.announce(mine, tracked)
        elif tracked.names != known:
            tracked.update(mine, {})
        tracked.ready = tracked.generation

    def _decide(self, mine: Recorder, tracked: TrackedRun, number: int) -> names.Names:
        """See `spooler.hooks.names`; `number` is that of the first step."""
        place = config.read(Identity, config.environ())
        chosen = config.read(config.Settings, os.environ)
        others = {
            run: mine.steps.get(run, -1)
            for run, (tracker, _) in list(self._decided.items())
            if run != tracked.run and tracker == tracked.tracker
        }
        job = names.Job(
            rank=place["rank"] or 0,
            world_size=place["world_size"] or 0,
            modules=sys.modules,
            config=tracked.config_or_nothing(),
            sweep=tracked.facts().get("sweep", ""),
            beside=any(one.run in others for one in self._actives()),
            repeats=any(last >= number for last in others.values()),
            alone=tracked.alone,
        )
        try:
            return names.decide(job, chosen["sole_writer"], chosen["run_prefix"])
        except async_exceptions.ours(Exception):  # modules and configurations are the program's
            return names.Names()

    def change_config(self, tracked: TrackedRun | None) -> None:
        """The configuration has changed: record the change soon, on the background thread."""
        mine = recorder()
        if tracked is None or tracked.config_changed or tracked.generation != mine.generation:
            return
        tracked.config_changed = True
        mine.defer(functools.partial(self._update_if_due, tracked))

    def _update_if_due(self, tracked: TrackedRun) -> bool:
        """Whether it is to be called again at the next tick."""
        if not tracked.config_changed:
            return False
        if time.monotonic() < tracked.next_update:
            return True
        self._record_update(tracked)
        return False

    def _record_update(self, tracked: TrackedRun) -> None:
        """Record what has changed. In a new spool the next step announces the run with all."""
        tracked.config_changed = False
        tracked.next_update = time.monotonic() + _UPDATE_SECONDS
        config, recorded = run_config.flat(tracked.config_or_nothing()), tracked.recorded_config
        changed = {name: value for name, value in config.items() if recorded.get(name) != value}
        mine = recorder()
        if not changed or tracked.generation != mine.generation:
            return
        if tracked.update(mine, changed):
            tracked.recorded_config = config


runs = RunTracker()
"""The one of this process."""

"""One run of a tracker, and the records that say which run it is."""

from __future__ import annotations

import abc
import os
import time
from collections.abc import Mapping
from typing import Any

from spooler.async_exceptions import ours
from spooler.hooks import names
from spooler.hooks.axes import RunAxes
from spooler.recorder import Recorder
from spooler.records import axis, run, run_config


class TrackedRun(abc.ABC):
    """One run of a tracker in this process. A hook has a subclass, and keeps one for each run."""

    tracker: str  # the name of its hook
    alone = False  # one rank of the job logs what this run is given, whatever its rank is

    def __init__(self, run_id: str, *, ignored: bool = False, pid: int | None = None) -> None:
        self.run = run_id
        self.ignored = ignored  # the tracker itself is disabled for it
        self.generation = -1  # of the recorder, when the run was last announced
        self.finished = False
        self.pid = pid or os.getpid()  # of the process that began it
        self.inherited = False  # another process has begun it
        self.last_step: int | None = None
        self.next_time = 0.0  # Unix seconds before which the next step is not dated
        self.ready = -1  # the generation of the recorder for which steps may follow
        self.names = names.Names()
        self.marks: dict[str, bool] = {}  # of `names`, the fields of each step
        self.recorded_config: dict[str, run_config.Value] = {}  # in the present spool
        self.config_changed = False  # and not yet recorded
        self.next_update = 0.0  # monotonic seconds before which no change of it is recorded
        self.waiting: list[tuple[Any, ...]] = []  # arguments of calls, see `hooks.precedence`
        self.beside: frozenset[str] = frozenset()  # runs that were seen to lead nothing
        self.axes: RunAxes | None = None  # from the first definition of one on

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """The optional fields of a run record, apart from `tracker`."""

    def config(self) -> Mapping[str, Any]:
        """The run's configuration. May raise."""
        return {}

    def exit_code(self) -> int | None:
        """The exit code of the run, None where the tracker has none."""
        return None

    def announce(self, mine: Recorder) -> tuple[dict[str, Any], dict[str, Any]]:
        """Record the run and its axes; the body of the run record, and the whole configuration.

        The generation is taken after the record: the first record opens the spool.
        """
        self.config_changed = False
        given = self.config_or_nothing()
        self.recorded_config = run_config.flat(given)
        body = self._record(self.recorded_config)
        mine.record(run.NAME, body)
        for defined in self.axes.records if self.axes else ():
            mine.record(axis.NAME, defined)
        self.generation = mine.generation
        return body, given

    def update(self, mine: Recorder, changed: dict[str, run_config.Value]) -> bool:
        """Record what has changed of a run that was announced; whether that is safe."""
        return mine.record(run.NAME, self._record(changed, update=True))

    def config_or_nothing(self) -> dict[str, Any]:
        """The configuration, empty where the tracker's code raises."""
        try:
            return dict(self.config())
        except ours(Exception):
            return {}

    def _record(
        self, config: dict[str, run_config.Value], *, update: bool = False
    ) -> dict[str, Any]:
        return run.encode(
            run=self.run,
            time=time.time(),
            tracker=self.tracker,
            config=config,
            update=update,
            **self.names._asdict(),
            **self.facts(),
        )

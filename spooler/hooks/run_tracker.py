"""Records runs, steps and ends of runs for every hook, and detects what each run works with.

A run is known by its own object, so several runs in one process stay apart, and a run that was
started before the hook came is adopted at its first call. `spooler.recorder` counts what could not
be recorded. What a signal handler raises while our code runs is the user's, and is raised again
(`spooler.async_exceptions`).
"""

from __future__ import annotations

import abc
import functools
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from spooler import async_exceptions, config, detection, stderr
from spooler.hooks import names, precedence
from spooler.hooks.axes import RunAxes
from spooler.recorder import Recorder, recorder
from spooler.records import axis, finish, run, run_config, step
from spooler.records import detection as detection_record
from spooler.records.axes import AxesOfStep
from spooler.records.values import careful
from spooler.spool.identity import Identity

_MARK = "_lens_ship_original"
# Between two steps of a run: receivers of time series keep one value for a millisecond, and two
# times that are further apart than one are never rounded to the same.
_APART_SECONDS = 0.0011
_UPDATE_SECONDS = 1.0  # between two records of changes of a configuration


class TrackedRun(abc.ABC):
    """One run of a tracker in this process. A hook has a subclass, and keeps one for each run."""

    tracker: str  # the name of its hook

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


class RunTracker:
    """Records what hooks observe. All methods may raise: call them through the wrappers below."""

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
        step_given: bool,
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
            self.log(tracked, number, closed, data, step_given, **more)
        elif verdict is precedence.WAIT:
            self._active[id(tracked)] = tracked
            # The values as they are now, and their time.
            call = (number, closed, careful(data), step_given)
            tracked.waiting.append((*call, {**more, "at": more.get("at") or time.time()}))
        else:
            tracked.waiting.clear()

    def _leaders(self, tracked: TrackedRun) -> list[TrackedRun]:
        if os.environ.get(config.TRACKERS):
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
        """Record which run the following steps belong to; start its detection.

        The generation is taken after the record: the first record opens the spool.
        """
        first = tracked.generation < 0
        tracked.inherited = tracked.pid != os.getpid()
        if tracked.run in self._decided:
            tracked.names = self._decided[tracked.run][1]
        else:  # until the first step, which may know better
            tracked.names = self._decide(mine, tracked, tracked.facts().get("step", 0))
        given, tracked.config_changed = _config_of(tracked), False
        tracked.recorded_config = run_config.flat(given)
        body = _run_record(tracked, tracked.recorded_config)
        mine.record(run.NAME, body)
        for defined in tracked.axes.records if tracked.axes else ():
            mine.record(axis.NAME, defined)
        tracked.generation = mine.generation
        if not first:
            return
        self._active[id(tracked)] = tracked
        mine.defer(_Detection(tracked, body, given))
        if os.environ.get(config.COLLECTORS):
            from spooler.diagnosis.agent import start_from_environ

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
            mine.record(run.NAME, _run_record(tracked, {}, update=True))
        tracked.ready = tracked.generation

    def _decide(self, mine: Recorder, tracked: TrackedRun, number: int) -> names.Names:
        """See `spooler.hooks.names`; `number` is that of the first step."""
        place = config.read(Identity, os.environ)
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
            config=_config_of(tracked),
            sweep=tracked.facts().get("sweep", ""),
            beside=any(one.run in others for one in self._actives()),
            repeats=any(last >= number for last in others.values()),
        )
        try:
            return names.decide(job, chosen["sole_writer"], chosen["run_prefix"])
        except Exception as error:  # modules and configurations are the program's
            if async_exceptions.is_async(error):
                raise
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
        config, recorded = run_config.flat(_config_of(tracked)), tracked.recorded_config
        changed = {name: value for name, value in config.items() if recorded.get(name) != value}
        mine = recorder()
        if not changed or tracked.generation != mine.generation:
            return
        if mine.record(run.NAME, _run_record(tracked, changed, update=True)):
            tracked.recorded_config = config


def _run_record(
    tracked: TrackedRun, config: dict[str, run_config.Value], *, update: bool = False
) -> dict[str, Any]:
    return run.encode(
        run=tracked.run,
        time=time.time(),
        tracker=tracked.tracker,
        config=config,
        update=update,
        **tracked.names._asdict(),
        **tracked.facts(),
    )


def _config_of(tracked: TrackedRun) -> dict[str, Any]:
    try:
        return dict(tracked.config())
    except Exception as error:  # a tracker's config runs code of the tracker's
        if async_exceptions.is_async(error):
            raise
        return {}


runs = RunTracker()
"""The one of this process."""


# --- wrappers -------------------------------------------------------------------------------------


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
    """Undo `wrap_functions`."""
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
        except Exception as error:
            if async_exceptions.is_async(error):
                raise
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
        except Exception as error:  # of ours, unless the arguments are wrong
            if async_exceptions.is_async(error):
                raise
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


def guarded(observe: Callable[[Any], None], subject: Any) -> None:
    """Call `observe(subject)`; count what it raises, except what is the user's."""
    try:
        observe(subject)
    except Exception as error:
        if async_exceptions.is_async(error):
            raise
        count(error)


def guarded_step(observe: Callable[[Any], None], subject: Any) -> None:
    """As `guarded`. A step that an exception of the user's interrupts is counted."""
    try:
        observe(subject)
    except BaseException as error:
        if not async_exceptions.is_async(error):
            count(error)
            return
        if not async_exceptions.interrupted_here(error) and not _is_counted(error):
            with async_exceptions.suppress(Exception):
                recorder().interrupted()
        raise


def count(error: BaseException) -> None:
    """Count a failure of ours. Where even that fails, training continues."""
    with async_exceptions.suppress(Exception):
        recorder().bug(error)


def _missed(hook: Any, subject: Any) -> None:
    missed_log = getattr(hook, "missed_log", None)
    if missed_log is not None:
        guarded(missed_log, subject)


def _interrupted(hook: Any, subject: Any, error: BaseException) -> None:
    """Count a step that the tracker has accepted, unless the recorder has done so."""
    with async_exceptions.suppress(Exception):
        known = hook.known_run(subject)
        if (known is None or not known.ignored) and not _is_counted(error):
            recorder().interrupted()


def _is_counted(error: BaseException) -> bool:
    """Whether it passed the recorder with the step, not only with the run before it."""
    announcing = async_exceptions.passed_through(error, RunTracker.announce)
    return async_exceptions.passed_through(error, Recorder.record) and not announcing


# --- detection ------------------------------------------------------------------------------------


class _Detection:
    """Detects on the background thread, and once more when more frameworks have been imported.

    The second detection comes when the set of imported frameworks has changed, and then stayed the
    same for `_SETTLED` ticks: not in the middle of the program's imports.
    """

    _SETTLED = 5

    def __init__(
        self, tracked: TrackedRun, announced: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        self._facts = detection.RunFacts(
            project=announced.get("project", ""),
            name=announced.get("name", ""),
            id=tracked.run,
            config=config,
            tags=tuple(announced.get("tags", ())),
            names={name: announced[name] for name in names.Names._fields if name in announced},
        )
        self._tracker = tracked.tracker
        self._looks = 0
        self._seen: frozenset[str] = frozenset()
        self._candidate: frozenset[str] = frozenset()
        self._quiet = 0

    def __call__(self) -> bool:
        """Run once; whether to be called again at the next tick."""
        try:
            return self._detect_if_due()
        except Exception as error:  # noqa: BLE001 - runs beside training code: nothing escapes
            recorder().bug(error)
            return False

    def _detect_if_due(self) -> bool:
        imported = detection.imported_frameworks(sys.modules)
        if self._looks == 0:
            self._detect(imported)
            return True
        if imported == self._seen:
            return True
        self._quiet = self._quiet + 1 if imported == self._candidate else 0
        self._candidate = imported
        if self._quiet < self._SETTLED:
            return True
        self._detect(imported)
        return False

    def _detect(self, imported: frozenset[str]) -> None:
        self._looks += 1
        self._seen = self._candidate = imported
        found = detection.collect(self._facts, os.environ, sys.modules)
        body = detection_record.encode(
            run=self._facts.id,
            time=time.time(),
            look=self._looks,
            tracker=self._tracker,
            evidence=found["evidence"],
            hints=found["hints"],
        )
        if recorder().record(detection_record.NAME, body):
            hints = found["hints"]
            stderr.debug(
                "Framework detection data queued for reporting\n"
                f"  Detected frameworks: {hints.get('possible_frameworks')}\n"
                f"  Confidence: {hints.get('confidence')}"
            )

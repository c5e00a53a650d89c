"""The zero-code hook on wandb: what the user's calls record, and nothing of it noticeable.

Rules:

- wandb's own method runs first, with exactly the arguments it was given; what it returns or
  raises is what the caller gets. Only a call that wandb accepted is recorded.
- A run is known by its own object, so several runs in one process stay apart, and a run that was
  started before the hook came is adopted at its first call.
- Nothing of ours raises into the caller; `spooler.recorder` counts what could not be recorded.
  What a signal handler raises while our code runs is the user's, and is raised on (`border`).
- A function keeps its identity: one wrapper takes its place everywhere, so that it can be pickled.

Hooked are `wandb.init` and, on the class, `Run.log` (which `wandb.log`, Lightning and the Hugging
Face Trainer call) and `Run._finish` (which `finish`, `wandb.finish` and a `with` block call).
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

from spooler import async_exceptions, config, stderr
from spooler import detection as evidence
from spooler.recorder import Recorder, recorder
from spooler.records import detection, finish, run, step

_MARK = "_lens_ship_original"
_RUN_MODULE = "wandb.sdk.wandb_run"
# Under this key a Run object carries our state: in its __dict__, because wandb refuses new
# attributes; with the object it comes and goes.
_STATE = "_lens_ship_state"


# Runs that have begun in this process and not finished.
_active: weakref.WeakSet[Any] = weakref.WeakSet()


class _RunState:
    """What we know of one run in this process."""

    __slots__ = ("finished", "generation", "ignored", "inherited", "last_step", "pid", "run")

    def __init__(self, run_id: str, *, ignored: bool) -> None:
        self.run = run_id
        self.ignored = ignored  # wandb itself is disabled for it
        self.generation = -1  # the recorder's, when the run was last announced
        self.finished = False
        self.pid = os.getpid()  # of the process that began it
        self.inherited = False  # this one is a forked child of that
        self.last_step: int | None = None


def wrap(wandb: Any) -> None:
    """Put the hook on the imported module `wandb`; calling it twice changes nothing."""
    stderr.debug("Installing WandB hook...")
    mine = recorder()
    if _finish_all not in mine.farewells:
        mine.farewells.append(_finish_all)
    wrappers = {"init": _wrap_init, "log": _wrap_log, "_finish": _wrap_finish}
    made: dict[int, Any] = {}  # id of an original -> its one wrapper
    for owner, name in _places(wandb):
        original = vars(owner).get(name)
        if callable(original) and not hasattr(original, _MARK):
            if id(original) not in made:
                made[id(original)] = _dressed(wrappers[name](original), original)
            setattr(owner, name, made[id(original)])
    _rebind_log(wandb)


def _dressed(wrapper: Any, original: Any) -> Any:
    """The wrapper, looking like its original; some ask for arguments without unwrapping."""
    if not hasattr(original, "__wrapped__"):
        wrapper.__signature__ = inspect.signature(original)
    setattr(wrapper, _MARK, original)
    return wrapper


def unwrap(wandb: Any) -> None:
    """Give the module its own functions back; what is recorded stays recorded."""
    if _RUN_MODULE not in sys.modules:
        return  # something else of the name wandb, which could not be hooked either
    for owner, name in _places(wandb):
        original = getattr(vars(owner).get(name), _MARK, None)
        if original is not None:
            setattr(owner, name, original)
    _rebind_log(wandb)


def _places(wandb: Any) -> list[tuple[Any, str]]:
    """Where the hooked functions live: module attributes first, then the class."""
    modules = [wandb, getattr(wandb, "sdk", None), sys.modules.get("wandb.sdk.wandb_init")]
    places: list[tuple[Any, str]] = [
        (module, "init") for module in modules if module is not None and hasattr(module, "init")
    ]
    run_class = sys.modules[_RUN_MODULE].Run
    return [*places, (run_class, "log"), (run_class, "_finish")]


def _rebind_log(wandb: Any) -> None:
    """A run that is active already has put its bound method on the module: take the new one."""
    bound_to: Any = getattr(wandb.log, "__self__", None)
    if bound_to is not None and bound_to is wandb.run:
        wandb.log = bound_to.log


# --- the wrappers ---------------------------------------------------------------------------------


def _wrap_init(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        _guarded(_observe_init, result)
        return result

    return init


def _wrap_log(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = None
        try:
            before = _counter(self)
        except Exception as error:
            if async_exceptions.is_async(error):
                raise
            _told(error)
        # Not in the handler above: an error of wandb's would carry ours with it.
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            if async_exceptions.interrupted_here(error):
                _interrupted(self, error)  # wandb had already accepted it
            raise
        if before is None:
            return result
        try:
            _observe_log(self, before, *args, **kwargs)
        except BaseException as error:
            if async_exceptions.is_async(error):
                if not async_exceptions.interrupted_here(error):  # else all is done
                    _interrupted(self, error)
                raise
            _told(error)
        return result

    return log


def _wrap_finish(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _finish(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            _guarded(_observe_finish, self)

    return _finish


def _guarded(observe: Callable[[Any], None], subject: Any) -> None:
    try:
        observe(subject)
    except Exception as error:
        if async_exceptions.is_async(error):
            raise
        _told(error)


def _told(error: BaseException) -> None:
    """Count what went wrong; where even that does, training goes on all the same."""
    with async_exceptions.suppress(Exception):
        recorder().bug(error)


def _interrupted(subject: Any, error: BaseException) -> None:
    """Count a step that wandb has accepted, unless the recorder has done so."""
    with async_exceptions.suppress(Exception):
        state = subject.__dict__.get(_STATE)
        is_wanted = state is None or not state.ignored
        if is_wanted and not _is_counted(error):
            recorder().interrupted()


def _is_counted(error: BaseException) -> bool:
    """Whether it has gone through the recorder with the step, not only with the run before it."""
    announcing = async_exceptions.passed_through(error, _announce)
    return async_exceptions.passed_through(error, Recorder.record) and not announcing


# --- what is recorded -----------------------------------------------------------------------------


def _observe_init(subject: Any) -> None:
    stderr.debug("Intercepted wandb.init()")
    run_class = sys.modules[_RUN_MODULE].Run
    if isinstance(subject, run_class):
        state = _state(subject)
        if not state.ignored:
            _announce(recorder(), state, subject)


def _observe_log(
    subject: Any,
    before: int,
    data: Any = None,
    step_given: Any = None,
    commit: bool | None = None,
    *_more: Any,
    **named: Any,
) -> None:
    """One accepted `Run.log(data, step, commit)`; further arguments of old versions are idle."""
    state = subject.__dict__.get(_STATE) or _state(subject)
    if state.ignored:
        return
    if named:
        data = named.get("data", data)
        step_given = named.get("step", step_given)
        commit = named.get("commit", commit)
    mine = recorder()
    if state.generation != mine.generation:
        _announce(mine, state, subject)
    number = before if step_given is None else int(step_given)
    closed = step_given is None if commit is None else bool(commit)
    body = {
        "run": state.run,
        "step": number,
        "time": time.time(),
        "closed": closed,
        "data": data,
    }
    if state.inherited:
        body["inherited"] = True
    if mine.record(step.NAME, body):
        state.last_step = mine.steps[state.run] = number


def _observe_finish(subject: Any) -> None:
    state = subject.__dict__.get(_STATE)
    if state is None or state.ignored or state.finished:
        return
    state.finished = True
    _active.discard(subject)
    code = getattr(subject, "_exit_code", None)
    recorder().record(
        finish.NAME,
        finish.encode(
            run=state.run,
            time=time.time(),
            step=state.last_step,
            exit_code=code if isinstance(code, int) else None,
        ),
    )


def _finish_all() -> None:
    """Runs that are active when the interpreter ends, which wandb itself ends in its own way.

    A run that a forked child has inherited goes on in its parent.
    """
    for active in list(_active):
        if active.__dict__[_STATE].pid == os.getpid():
            _guarded(_observe_finish, active)


def _announce(mine: Recorder, state: _RunState, subject: Any) -> None:
    """Say in the spool which run the following steps belong to; begin to look for evidence.

    The generation is taken after the record: the first record opens the spool.
    """
    first = state.generation < 0
    state.inherited = state.pid != os.getpid()
    mine.record(run.NAME, run.make(run=state.run, time=time.time(), facts=_facts(subject)))
    state.generation = mine.generation
    if first:
        mine.defer(_Look(subject, state.run))
        if os.environ.get(config.COLLECTORS):
            from spooler.diagnosis.agent import start_from_environ

            start_from_environ()


def _state(subject: Any) -> _RunState:
    state: _RunState | None = subject.__dict__.get(_STATE)
    if state is None:
        settings = getattr(subject, "_settings", None)
        ignored = bool(getattr(settings, "_noop", False))
        run_id = getattr(settings, "run_id", None) or getattr(subject, "id", None) or "unknown"
        state = _RunState(str(run_id), ignored=ignored)
        if not ignored:
            _active.add(subject)
        subject.__dict__[_STATE] = state
    return state


def _counter(subject: Any) -> int:
    """The number wandb gives to a step that is logged without one, at this moment.

    It is `_local_step` from wandb 0.23 on and `_step` before; the public `Run.step` asks wandb's
    service process and waits for its answer.
    """
    known = subject.__dict__
    number = known.get("_local_step")
    if number is None:
        number = known.get("_step", 0)
    return number if isinstance(number, int) else 0


def _facts(subject: Any) -> dict[str, Any]:
    """A run's own description; wandb's settings are asked before properties that may wait."""
    settings = getattr(subject, "_settings", None)

    def text(name: str) -> str:
        value = getattr(settings, name, None)
        return value if isinstance(value, str) else ""

    return {
        "project": text("project"),
        "name": text("run_name") or _run_name(subject),
        "entity": text("entity"),
        "group": text("run_group"),
        "job_type": text("run_job_type"),
        "tags": [str(tag) for tag in (getattr(settings, "run_tags", None) or ())],
        "mode": text("mode"),
        "resumed": bool(getattr(settings, "resumed", False)),
        "step": _counter(subject),
        "wandb": str(getattr(sys.modules.get("wandb"), "__version__", "")),
    }


def _run_name(subject: Any) -> str:
    name = getattr(subject, "_name", None)
    return name if isinstance(name, str) else ""


class _Look:
    """Looks for evidence on the keeper's thread, and once more when more has been imported.

    The second look comes when the set of imported frameworks has changed and stayed the same for
    `_SETTLED` ticks, so that a program in the middle of its imports is not looked at half-way.
    """

    _SETTLED = 5

    def __init__(self, subject: Any, run_id: str) -> None:
        self._facts = _evidence_facts(subject, run_id)
        self._run = run_id
        self._looks = 0
        self._seen: frozenset[str] = frozenset()
        self._candidate: frozenset[str] = frozenset()
        self._quiet = 0

    def __call__(self) -> bool:
        """Whether to come back at the next tick."""
        try:
            return self._look_if_due()
        except Exception as error:  # noqa: BLE001 - border with training code: nothing escapes
            recorder().bug(error)
            return False

    def _look_if_due(self) -> bool:
        imported = evidence.imported_frameworks(sys.modules)
        if self._looks == 0:
            self._look(imported)
            return True
        if imported == self._seen:
            return True
        self._quiet = self._quiet + 1 if imported == self._candidate else 0
        self._candidate = imported
        if self._quiet < self._SETTLED:
            return True
        self._look(imported)
        return False

    def _look(self, imported: frozenset[str]) -> None:
        self._looks += 1
        self._seen = self._candidate = imported
        found = evidence.collect(self._facts, os.environ, sys.modules)
        body = detection.make(run=self._run, time=time.time(), look=self._looks, **found)
        if recorder().record(detection.NAME, body):
            hints = found["hints"]
            stderr.debug(
                "Framework detection data queued for reporting\n"
                f"  Detected frameworks: {hints.get('possible_frameworks')}\n"
                f"  Confidence: {hints.get('confidence')}"
            )


def _evidence_facts(subject: Any, run_id: str) -> evidence.RunFacts:
    facts = _facts(subject)
    try:
        configuration = dict(subject.config)
    except Exception as error:  # wandb's config runs code of wandb's
        if async_exceptions.is_async(error):
            raise
        configuration = {}
    return evidence.RunFacts(
        project=facts["project"],
        name=facts["name"],
        id=run_id,
        config=configuration,
        tags=tuple(facts["tags"]),
    )

"""Runs the collectors in the training process, looks for hangs, and judges failures.

Rules:

- Each collector has a daemon thread, so that a slow one delays no other. One more looks for hangs.
  They run from `start` to `stop` or the end of the process, and never delay the end by more than
  `_LAST_SECONDS`. A forked child has none, and collects nothing until it starts its own.
- Nothing that a collector or a client raises ends a thread: it is counted, and reported once.
- No argument raises into training: what cannot be meant counts as not given.
- Without a client of the program's own, reports go to the spool, where one is configured.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from spooler import config
from spooler.async_exceptions import is_async, is_from_outside, ours
from spooler.collectors.log import LogCollector
from spooler.collectors.metric import MetricCollector
from spooler.collectors.stack import StackCollector
from spooler.collectors.stack_dump import StackDumper
from spooler.diagnosis import failures as failure
from spooler.diagnosis import repeats, rules
from spooler.diagnosis.action import DiagnosisAction
from spooler.diagnosis.hang import HangWatch
from spooler.diagnosis.history import FailureHistory
from spooler.dlrover.master_client import SpoolMasterClient
from spooler.recorder import at_end_of_child, recorder
from spooler.records import decision, report, step
from spooler.spool.identity import Identity

logger = logging.getLogger("lens_ship.diagnosis")

_TICK_SECONDS = 1.0
_KEEP_SECONDS = 5.0  # between two signs of life of a collector that waits for its turn
_LAST_SECONDS = 2.0
_BEFORE_RECORDER = -99  # priority at the end of a child of multiprocessing
_FAILURES_LIMIT = 8192
# What DLRover's agent reports a failure as. It makes a master log it, and do nothing.
_LEVEL = "process_error"


@dataclass(kw_only=True)
class _Turn:
    """A collector, when it is due in monotonic seconds, and the thread that it has while we run."""

    collector: Any
    seconds: float
    due: float
    thread: threading.Thread | None = None


class DiagnosisAgent:
    """The agent of this process; `singleton_instance` makes it.

    `training_log_file` is the log to follow, by default the one that `TRAINING_LOG_FILE` names.
    With a `local_world_size` above 1 and py-spy installed, the stacks of the Python processes that
    this one has started are collected too. `errors` goes before `FAILURE_NODE_ERRORS`. Agents that
    start without code collect `in_turn`: of the ranks of a node one takes the periodic stacks.
    """

    _instance: DiagnosisAgent | None = None
    _instance_lock = threading.Lock()

    def __init__(
        self,
        training_log_file: str | os.PathLike[str] | None = "",
        node_rank: int | None = None,
        local_world_size: int | None = None,
        errors: str = "",
        *,
        collectors: frozenset[str] = config.ALL_COLLECTORS,
        in_turn: bool = False,
    ) -> None:
        self.failures: dict[str, int] = {}  # collector -> how often it has raised
        self._settings = settings = config.collectors_from_environ(os.environ)
        rank = _whole(node_rank)
        self._node_rank = rank if rank is not None and rank >= 0 else None
        self._errors = _text(errors)
        self._history = FailureHistory()
        self._client: Any = None
        self._turns: list[_Turn] = []
        self._log = LogCollector(training_log_file)
        self._stack = StackCollector(
            _children if (_whole(local_world_size) or 1) > 1 else (), in_turn=in_turn
        )
        self._hang = HangWatch(settings.hang_seconds if "stack" in collectors else 0.0)
        self._dumper = StackDumper(settings, self._stack)
        self._is_set = False  # by arguments
        self._is_stopped = False  # by the program
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        for collector, seconds, first in (
            (self._log, settings.log_seconds, 0.0),
            (MetricCollector(), settings.metric_seconds, 0.0),
            # At the start there is nothing to see yet.
            (self._stack, settings.stack_seconds, settings.stack_seconds),
        ):
            self._adopt(collector)
            if collector.name in collectors and seconds > 0:
                self._add(collector, seconds, first)

    @classmethod
    def begin(cls, collectors: frozenset[str]) -> None:
        """Start the one agent of this process; without one, one for these `collectors`.

        An agent that the program has stopped stays so until the program starts it.
        """
        lock = cls._instance_lock
        if not lock.acquire(blocking=False):
            return  # it is being started, perhaps by the call that a signal handler has interrupted
        try:
            if cls._instance is None:
                cls._instance = cls(collectors=collectors, in_turn=True)
            agent = cls._instance
            with agent._lock:
                if not agent._is_stopped:
                    agent._begin()
        finally:
            lock.release()

    @classmethod
    def singleton_instance(
        cls,
        training_log_file: str | os.PathLike[str] | None = "",
        node_rank: int | None = None,
        local_world_size: int | None = None,
        errors: str = "",
    ) -> DiagnosisAgent:
        """The one agent of this process, with the arguments of the first call that has any."""
        arguments = (training_log_file, node_rank, local_world_size, errors)
        given = not (training_log_file in ("", None) and node_rank is local_world_size is None)
        given = given or bool(_text(errors))
        with cls._instance_lock:
            agent = cls._instance
            if agent is None:
                agent = cls(*arguments)
            elif given and not agent._is_set:
                agent = agent._replaced(*arguments)
            agent._is_set = agent._is_set or given
            cls._instance = agent
            return agent

    def set_client(self, client: Any) -> None:
        """Report to `client`: any object with `report_diagnosis_agent_metrics`."""
        self._client = client
        for collector in (self._log, self._stack, *self._collectors):
            if hasattr(collector, "set_client"):
                collector.set_client(client)

    def update_config(
        self,
        training_log_file: str | os.PathLike[str] | None = "",
        errors: str = "",
        rank: int = -1,
    ) -> None:
        """Follow this log from now on, look for these errors, have this rank; "" and -1: as before.

        Of the log before, the collector's thread takes the last lines.
        """
        if (given := _whole(rank)) is not None and given >= 0:
            self._node_rank = given
            for collector in (self._log, self._stack, *self._collectors):
                self._adopt(collector)
        self._errors = _text(errors) or self._errors
        log = LogCollector(training_log_file)
        if training_log_file in ("", None) or log.path in (None, self._log.path):
            return
        before, self._log = self._log, log
        self._adopt(log)
        with self._lock:
            for turn in self._turns:
                if turn.collector is before:
                    turn.collector, turn.due = log, time.monotonic()
            if not self.is_running:
                before.close()

    def register_periodical_data_collector(self, collector: Any, time_interval: float) -> None:
        """Have `collector` collect every `time_interval` seconds, beginning at once.

        It needs `is_enabled`, `collect_data` and `store_data`; `set_client` is called where it is.
        """
        self._adopt(collector)
        turn = self._add(collector, _interval(time_interval), 0.0)
        with self._lock:
            if self.is_running:
                self._attend(turn)

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to collect, on threads of its own; does nothing when it has begun."""
        with self._lock:
            self._is_stopped = False
            self._begin()

    def _begin(self) -> None:
        if self.is_running:
            return
        recorder()  # its shutdown is registered before ours, and so comes after it
        self._stopping = threading.Event()
        self._thread = _started("lens-ship-diagnosis", self._run)
        if self._thread is None:
            return
        for turn in self._turns:
            self._attend(turn)
        self._dumper.begin()
        if not at_end_of_child(self._at_exit, _BEFORE_RECORDER):
            atexit.register(self._at_exit)

    def stop(self) -> None:
        """Collect what the log still has, and end; only `start` begins again."""
        with self._lock:
            self._is_stopped = True
            thread, self._thread = self._thread, None
            if thread is None:
                return
            atexit.unregister(self._at_exit)
            self._end(thread)
            for turn in self._turns:
                # A client makes one wait that is alive: what it uses stays open.
                if hasattr(turn.collector, "close") and not _is_alive(turn.thread):
                    self._guarded(_name(turn.collector), turn.collector.close)

    def diagnose_training_failure(
        self, failures: Any = None, restart_count: int = 0
    ) -> DiagnosisAction:
        """What to do about `failures`, a map or whatever describes them; see `diagnosis.rules`.

        The failure is recorded before, and the decision when it is returned. Nothing is done about
        it here.
        """
        described = failure.describe(failures)
        restarts = max(_whole(restart_count) or 0, 0)
        if described.strip():
            self._report_failure(failures, restarts)
        action, seen = self._decide(described, restarts)
        logger.info("Diagnosis: %s: %s", action.action_type.name, action.reason)
        if os.environ.get(config.OUTPUT_PATH):
            recorder().record(
                decision.NAME,
                decision.encode(
                    time=time.time(),
                    action=action.action_type.name,
                    rule=action.rule,
                    reason=action.reason,
                    evidence=action.evidence,
                    seen_in=action.seen_in,
                    restart_count=restarts,
                    failures=described[:_FAILURES_LIMIT],
                    repeats=seen,
                    master=self._spool_client().master_addr,
                    monotonic=time.monotonic(),
                ),
            )
        return action

    def _decide(self, described: str, restarts: int) -> tuple[DiagnosisAction, int]:
        """The action, and how often it has failed like this in a row."""
        log_end, settings = self._log_end(), self._settings
        action = rules.decide(
            described, log_end, restarts, settings.max_restarts, self._node_errors()
        )
        step = max(recorder().steps.values(), default=None)
        exception, last = rules.last_exception(log_end), self._history.last()
        seen = repeats.count(last, action, exception, step, time.time())
        self._history.keep(seen)
        return repeats.limited(action, seen, settings.max_repeats), seen.count

    def _report_failure(self, failures: Any, restarts: int) -> None:
        """Commit the failure. A client of the program's own gets it, too, if that does not wait."""
        rank = config.read(Identity, config.environ())["rank"]
        rank = (self._node_rank or 0) if rank is None else rank
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        arguments = (failure.error_data(failures, rank=rank, when=when), restarts, _LEVEL)
        if os.environ.get(config.OUTPUT_PATH):
            self._spool_client().report_failures(*arguments)
        report_failures = getattr(self._client, "report_failures", None)
        if report_failures is not None and not isinstance(self._client, SpoolMasterClient):
            _in_time("lens-ship-failure", _attempt, report_failures, *arguments)

    def _spool_client(self) -> SpoolMasterClient:
        is_ours = isinstance(self._client, SpoolMasterClient)
        return self._client if is_ours else SpoolMasterClient.singleton_instance()

    def _log_end(self) -> str:
        """The end of the log; "" if it cannot be read in time, as from a server that is gone."""
        found: list[str] = []
        if not _in_time("lens-ship-log-end", lambda: found.append(self._log.tail())):
            return self._log.tail()
        return found[0] if found else ""

    def _node_errors(self) -> rules.NodeErrors:
        """What the operator has named. A pattern without a text is left out, and reported."""
        settings, patterns = self._settings, []
        for pattern in rules.named(settings.node_error_patterns):
            has_text = bool(pattern.replace(rules.ANY, "").strip())
            if has_text:
                patterns.append(pattern)
            if not has_text or "\\" in pattern or ".*" in pattern:
                logger.warning(
                    "The pattern %r of node errors %s. A pattern is a text in which %s stands for"
                    " any text.",
                    pattern,
                    "looks like a regular expression" if has_text else "is ignored",
                    rules.ANY,
                )
        return rules.NodeErrors(
            texts=rules.named(self._errors or settings.node_errors),
            patterns=tuple(patterns),
            codes=settings.node_error_codes,
        )

    # --- the threads ------------------------------------------------------------------------------

    @property
    def _collectors(self) -> list[Any]:
        return [turn.collector for turn in list(self._turns)]

    def _adopt(self, collector: Any) -> None:
        """Give a collector what the agent knows."""
        if self._node_rank is not None and hasattr(collector, "node_rank"):
            collector.node_rank = self._node_rank
        if self._client is not None and hasattr(collector, "set_client"):
            collector.set_client(self._client)

    def _add(self, collector: Any, seconds: float, first: float) -> _Turn:
        turn = _Turn(collector=collector, seconds=seconds, due=time.monotonic() + first)
        self._turns.append(turn)
        return turn

    def _attend(self, turn: _Turn) -> None:
        name = f"lens-ship-{_name(turn.collector)}"
        turn.thread = _started(name, self._take_turns, turn, self._stopping)

    def _replaced(self, *arguments: Any) -> DiagnosisAgent:
        """An agent with these arguments; this one, if it has begun already."""
        if self.is_running:
            logger.warning("The diagnosis agent runs already. New arguments are ignored.")
            return self
        other = type(self)(*arguments)
        other._is_stopped = self._is_stopped
        if self._client is not None:
            other.set_client(self._client)
        return other

    def _run(self) -> None:
        stopping = self._stopping
        self._guarded("stack", self._dumper.report_left_behind)
        while not stopping.wait(_TICK_SECONDS):
            self._guarded("stack", self._look_for_hang, time.monotonic())
            self._guarded("stack", self._dumper.poll)

    def _take_turns(self, turn: _Turn, stopping: threading.Event) -> None:
        collector, name = turn.collector, _name(turn.collector)
        keep = getattr(collector, "keep_turn", None)
        while True:
            if collector is not turn.collector:  # another log was named
                self._guarded(name, _leave, collector)
                collector = turn.collector
                keep = collector.keep_turn
            if stopping.is_set():
                return
            now = time.monotonic()
            if turn.due <= now:
                turn.due = now + turn.seconds
                self._guarded(name, _collect, collector)
            elif keep is not None:
                self._guarded(name, keep)
            stopping.wait(min(max(turn.due - time.monotonic(), 0.0), _KEEP_SECONDS))

    def _look_for_hang(self, now: float) -> None:
        mine = recorder()
        idle = self._hang.look(mine.recorded.get(step.NAME, 0) + sum(mine.dropped.values()), now)
        if idle is not None:
            logger.warning("No step for %.0f s. Reporting the stacks of all threads.", idle)
            self._stack.store_data(self._stack.collect_data(), why=f"{report.HANG}{idle:.0f} s")

    def _guarded(self, name: str, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            if not self._is_own_thread() and is_async(error):
                raise
            first = name not in self.failures
            self.failures[name] = self.failures.get(name, 0) + 1
            if first:
                logger.warning(
                    "The %s collector failed: %s: %s. It is retried. Further failures are counted"
                    " only.",
                    name,
                    type(error).__name__,
                    error,
                )

    def _is_own_thread(self) -> bool:
        """Whether this is a thread of ours, where no exception is meant for the program."""
        mine = (self._thread, *(turn.thread for turn in list(self._turns)))
        return threading.current_thread() in mine

    # --- the end, the fork ------------------------------------------------------------------------

    def _end(self, thread: threading.Thread) -> None:
        """End the threads, and take the last dump and the last lines of the log.

        The log goes before what other collectors may make us wait for.
        """
        deadline = time.monotonic() + _LAST_SECONDS
        self._stopping.set()
        for turn in sorted(self._turns, key=lambda turn: turn.collector is not self._log):
            _join(turn.thread, deadline)
            if turn.collector is self._log and not _is_alive(turn.thread):
                self._guarded("log", _take_last, self._log, deadline)
        _join(thread, deadline)
        if not thread.is_alive():
            self._guarded("stack", self._dumper.poll)
        self._dumper.end()
        self._guarded("stack", self._stack.close)

    def _at_exit(self) -> None:
        """A client of the program's own may wait for a master: no last lines for it then."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if isinstance(self._log.client, SpoolMasterClient):
            self._end(thread)
        else:
            self._dumper.end()

    def _after_fork(self) -> None:
        """In a child there is no thread, and no thread holds a lock."""
        self._thread = None
        for turn in self._turns:
            turn.thread = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()


def _started(name: str, work: Any, *arguments: Any) -> threading.Thread | None:
    """A daemon thread that does `work`; None when the system gives none."""
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except ours(RuntimeError) as error:
        logger.warning("The thread %s cannot start: %s", name, error)
        return None
    return thread


def _in_time(name: str, work: Any, *arguments: Any) -> bool:
    """Do `work`, and wait a little for its end; False without a thread, as at the very end."""
    thread = _started(name, work, *arguments)
    if thread is not None:
        thread.join(_LAST_SECONDS)
    return thread is not None


def _attempt(report_failures: Any, *arguments: Any) -> None:
    try:
        report_failures(*arguments)
    except (Exception, SystemExit) as error:  # a user's client may raise anything
        if is_from_outside(error):
            raise
        logger.warning("The client failed to report the failure to its master: %s", error)


def _join(thread: threading.Thread | None, deadline: float) -> None:
    """Wait for a thread until `deadline`, in monotonic seconds."""
    if thread is not None and thread is not threading.current_thread():
        thread.join(max(deadline - time.monotonic(), 0.0))


def _is_alive(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    """A whole number, also one given as text; None for anything else."""
    if value is None:
        return None
    try:
        return int(value)
    except ours(Exception):  # a number may be an object of any library
        return None


def _interval(seconds: Any) -> float:
    """Seconds between two turns, at least a tick."""
    try:
        given = float(seconds)
    except ours(Exception):  # as above
        given = 0.0
        logger.warning("%r is not a number of seconds. %s s are used.", seconds, _TICK_SECONDS)
    return given if given > _TICK_SECONDS else _TICK_SECONDS


def _collect(collector: Any) -> None:
    if collector.is_enabled() and (data := collector.collect_data()):
        collector.store_data(data)


def _take_last(collector: LogCollector, deadline: float) -> None:
    if not collector.is_enabled():
        return
    while time.monotonic() < deadline:
        lines = collector.collect_data(last=True)
        if not lines or not collector.store_data(lines, more=0):  # each takes its time
            return


def _leave(collector: LogCollector) -> None:
    _take_last(collector, time.monotonic() + _LAST_SECONDS)
    collector.close()


def _name(collector: Any) -> str:
    return getattr(collector, "name", "") or type(collector).__name__


def _children() -> tuple[int, ...]:
    """The processes to ask py-spy about; none without it."""
    from spooler.collectors import pyspy

    return pyspy.child_processes() if pyspy.program() else ()


def _renew() -> None:
    DiagnosisAgent._instance_lock = threading.Lock()
    if DiagnosisAgent._instance is not None:
        DiagnosisAgent._instance._after_fork()


os.register_at_fork(after_in_child=_renew)

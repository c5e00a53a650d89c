"""The status in one sentence, and whether an operator has to act. Pure.

An operator has to act when:

- records are pending and no service runs, or the service is stuck;
- a service with another state ships the same root;
- a spool is not shipped for `STALLED_SECONDS` and some flush intervals, and no outage is why;
- a receiver rejects in a way that no waiting ends (token, address, certificate), or nothing has
  been delivered for `PAUSED_SECONDS`;
- the spool root is full and new records are dropped;
- a spool, a part of it, or a directory below the root cannot be read;
- the files of a spool are gone with records that were not delivered;
- dead letters are kept that have been neither retried nor discarded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from shipper.humanize import counted, duration, sanitize, time_of_day
from shipper.ledger.service_status import OutageRow
from shipper.sinks.outcome import Reason
from shipper.status.model import SinkStatus, SpoolSinkStatus, SpoolStatus, Status
from shipper.status.shared_names import SharedNames
from spooler.config import RUN_PREFIX, SOLE_WRITER

PAUSED_SECONDS = 900.0
STALLED_SECONDS = 300.0
_FLUSHES = 10
_MOST_SHARED = 3
# The spools of a workload have their turns one after the other.
_TURN_SECONDS = 2.0


class HealthState(str, Enum):
    """`DEGRADED`: something waits that continues by itself."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    ACTION_REQUIRED = "action_required"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The most urgent message, and `also` the other ones."""

    level: HealthState
    headline: str
    also: tuple[str, ...] = ()

    @property
    def action_required(self) -> bool:
        return self.level is HealthState.ACTION_REQUIRED

    def to_map(self) -> dict[str, Any]:
        return {**asdict(self), "level": self.level.value}


def summarize(status: Status, *, max_dead_letters: int = 0) -> Summary:
    """The summary; up to so many dead letters require no action."""
    level, messages = HealthState.ACTION_REQUIRED, list(_urgent(status, max_dead_letters))
    if not messages:
        level = HealthState.DEGRADED
        messages = [_outage_text(status, *found) for found in _ongoing(status)]
    if not messages:
        level = HealthState.DEGRADED if _lacks_root(status) else HealthState.HEALTHY
        messages = [_healthy(status)]
    messages += map(_shared_text, status.shared_names[:_MOST_SHARED])
    for name, count in status.unconfigured.items():
        messages.append(f"Sink {name} is not configured: {counted(count, 'record')} unsent")
    return Summary(level=level, headline=messages[0], also=tuple(messages[1:]))


def _urgent(status: Status, max_dead_letters: int) -> Iterator[str]:
    yield from _service(status)
    for sink, outage in _ongoing(status):
        if outage.alarm or status.time - outage.since >= PAUSED_SECONDS:
            yield _outage_text(status, sink, outage)
    if status.disk.full:
        yield (
            "The spool root is full: new records are dropped and counted."
            " Free disk space or raise root_bytes."
        )
    for directory, why in list(status.unreadable_directories.items())[:1]:
        more = len(status.unreadable_directories) - 1
        others = f" (and {more} more)" if more else ""
        yield f"{directory} {why}{others}. Its records are not delivered, see lens-ship check."
    if status.missing:
        yield (
            f"{counted(sum(status.missing.values()), 'record')} of"
            f" {counted(len(status.missing), 'spool')} are gone with their files, undelivered."
            " Put the files back, see lens-ship audit."
        )
    broken = [spool for spool in status.spools if spool.problem]
    if broken:
        problem = broken[0].problem.replace(f"{status.root}/", "")
        others = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield f"{counted(len(broken), 'spool')} cannot be read: {problem}{others}"
    if stalled := stalled_spools(status):
        oldest = min(one.oldest for one in stalled if one.oldest is not None)
        not_shipped = "spool is not" if len(stalled) == 1 else "spools are not"
        yield (
            f"{len(stalled):,} {not_shipped} shipped although the service runs, the oldest record"
            f" is {duration(status.age(oldest))} old. See its log, then restart it: no records are"
            " lost."
        )
    if status.dead_letters > max_dead_letters:
        yield f"{counted(status.dead_letters, 'dead letter')}: see lens-ship dead-letter list"


def _service(status: Status) -> Iterator[str]:
    heartbeat = status.heartbeat
    if status.stuck and heartbeat is not None:
        yield (
            f"The service (pid {heartbeat.pid}) has been stuck since"
            f" {time_of_day(heartbeat.beat, status.time)}. Restart it, no records are lost."
        )
    if status.other_state:
        other = f"--state {sanitize(status.other_state)}"
        if status.running:
            yield f"Another service ships {status.root} with {other}. Stop one: they send twice."
        else:
            yield f"The service of {status.root} runs with {other}. Give the same here."
    if status.running or not status.pending or status.other_state:
        return
    pending = f"{counted(status.pending, 'record')} pending and the service is not running."
    if heartbeat is None:
        yield f"{pending} Start it with lens-ship run."
    elif heartbeat.stopped:
        yield f"{pending} It was stopped at {time_of_day(heartbeat.stopped, status.time)}."
    else:
        yield f"{pending} It exited uncleanly at {time_of_day(heartbeat.beat, status.time)}."


def stalled_spools(status: Status) -> list[SpoolStatus]:
    """Spools of which a sink has delivered nothing for too long, and no outage is the reason."""
    if not status.running or status.heartbeat is None:
        return []
    paused_until = _paused_until(status)
    waiting = Counter(one.workload for one in status.spools if one.pending)

    def is_stalled(spool: SpoolStatus, sink: SpoolSinkStatus) -> bool:
        since = (
            sink.waiting_since or status.time,
            started,
            paused_until[sink.sink, ""],
            paused_until[sink.sink, spool.workload],
        )
        allowed = STALLED_SECONDS + _FLUSHES * spool.flush_interval
        return status.time - max(since) > allowed + _TURN_SECONDS * waiting[spool.workload]

    started = status.heartbeat.started
    return [
        spool
        for spool in status.spools
        if not spool.problem and any(is_stalled(spool, sink) for sink in spool.sinks)
    ]


def _paused_until(status: Status) -> defaultdict[tuple[str, str], float]:
    """When the last outage of a sink or workload ended, infinity while it lasts."""
    known = {spool.workload for spool in status.spools}
    ends = defaultdict[tuple[str, str], float](float)
    for sink in status.sinks:
        for outage in sink.outages:
            # A sink may name its queues otherwise, so that their spools are not known here.
            key = sink.sink, outage.workload if outage.workload in known else ""
            ends[key] = max(ends[key], float("inf") if outage.until is None else outage.until)
    return ends


def _ongoing(status: Status) -> Iterator[tuple[SinkStatus, OutageRow]]:
    """What is wrong now, the first outage of each reason; only a running service knows."""
    for sink in status.sinks if status.running else ():
        by_reason: dict[str, OutageRow] = {}
        for outage in sink.ongoing:
            by_reason.setdefault(outage.reason, outage)
        for outage in by_reason.values():
            yield sink, outage


def _outage_text(status: Status, sink: SinkStatus, outage: OutageRow) -> str:
    reason = Reason.of(outage.reason)
    text = reason.sentence if reason else f"reports {outage.reason}"
    advice = reason.advice if reason else "see its log"
    others = sum(one.reason == outage.reason for one in sink.ongoing) - 1
    workload = ""
    if outage.workload:
        name = sanitize(outage.workload, 80)
        workload = f" (workload {name}{f' and {others} more' if others else ''})"
    backlog = f"{counted(status.pending, 'record')} pending. " if status.pending else ""
    since = time_of_day(outage.since, status.time)
    text = _capital(f"{sink.sink} {text}{workload} since {since}.")
    return f"{backlog}{text} {_capital(advice)}."


def _shared_text(shared: SharedNames) -> str:
    earlier, later, workload = (
        sanitize(text, 80) for text in (shared.earlier, shared.later, shared.workload)
    )
    names = ", ".join(sanitize(name, 40) for name in shared.names)
    if shared.ranks[0] != shared.ranks[1]:
        how = f"at once, on ranks {shared.ranks[0] or 0} and {shared.ranks[1] or 0}"
        advice = f"To keep them apart, set {SOLE_WRITER}=false in the job."
    elif shared.at_once:
        how, advice = "at once", f"To keep them apart, set {RUN_PREFIX}=true in the job."
    else:
        how = f"from step {shared.step} on"
        advice = f"If this is no restart, set {RUN_PREFIX}=true in the job."
    return (
        f"Workload {workload}: run {later} writes the same names as run {earlier} ({names}) {how}."
        f" Later values replace earlier ones. {advice}"
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _lacks_root(status: Status) -> bool:
    return not status.disk.size and not status.spools


def _healthy(status: Status) -> str:
    missing = ", which does not exist" if _lacks_root(status) else ""
    if not status.spools and status.heartbeat is None:
        return f"No records under {status.root}{missing}, and no service has run yet"
    if missing and not status.running:
        return f"No records under {status.root}{missing}, and the service is not running"
    if not status.running:
        return "No records are pending, and the service is not running"
    if missing:
        return f"Waiting for the first spool under {status.root}{missing}"
    if not status.spools:
        return f"Healthy: waiting for the first spool under {status.root}"
    if not status.pending:
        return "Healthy: all records are delivered"
    oldest = f", the oldest {duration(status.age(status.oldest))} old" if status.oldest else ""
    return f"Healthy: {counted(status.pending, 'record')} pending{oldest}"

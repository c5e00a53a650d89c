"""The status in one sentence, and whether an operator has to act. Pure.

An operator has to act when:

- records are pending and no service runs, or the service is stuck;
- a receiver rejects in a way that no waiting ends (token, address, certificate), or nothing has
  been delivered for `PAUSED_SECONDS`;
- the spool root is full and new records are dropped;
- a spool, a part of it, or a directory below the root cannot be read;
- dead letters are kept that have been neither retried nor discarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from shipper.humanize import counted, duration, time_of_day
from shipper.ledger.service_status import OutageRow
from shipper.sinks.outcome import Reason
from shipper.status.model import SinkStatus, Status

PAUSED_SECONDS = 900.0


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
        """For JSON."""
        return {**asdict(self), "level": self.level.value}


def summarize(status: Status, *, max_dead_letters: int = 0) -> Summary:
    """The summary; up to so many dead letters require no action."""
    level, messages = HealthState.ACTION_REQUIRED, list(_urgent(status, max_dead_letters))
    if not messages:
        level = HealthState.DEGRADED
        messages = [_outage_text(status, *found) for found in _ongoing(status)]
    if not messages:
        level, messages = HealthState.HEALTHY, [_healthy(status)]
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
    broken = [spool for spool in status.spools if spool.problem]
    if broken:
        problem = broken[0].problem.replace(f"{status.root}/", "")
        others = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield f"{counted(len(broken), 'spool')} cannot be read: {problem}{others}"
    if status.dead_letters > max_dead_letters:
        yield f"{counted(status.dead_letters, 'dead letter')}: see lens-ship dead-letter list"


def _service(status: Status) -> Iterator[str]:
    heartbeat = status.heartbeat
    if status.stuck and heartbeat is not None:
        yield (
            f"The service (pid {heartbeat.pid}) has been stuck since"
            f" {time_of_day(heartbeat.beat, status.time)}. Restart it, no records are lost."
        )
    if status.running or not status.pending:
        return
    pending = f"{counted(status.pending, 'record')} pending and the service is not running."
    if heartbeat is None:
        yield f"{pending} Start it with lens-ship run."
    elif heartbeat.stopped:
        yield f"{pending} It was stopped at {time_of_day(heartbeat.stopped, status.time)}."
    else:
        yield f"{pending} It exited uncleanly at {time_of_day(heartbeat.beat, status.time)}."


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
        workload = f" (workload {outage.workload}{f' and {others} more' if others else ''})"
    backlog = f"{counted(status.pending, 'record')} pending. " if status.pending else ""
    since = time_of_day(outage.since, status.time)
    text = _capital(f"{sink.sink} {text}{workload} since {since}.")
    return f"{backlog}{text} {_capital(advice)}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _healthy(status: Status) -> str:
    missing = "" if status.disk.size else ", which does not exist yet"
    if not status.spools and status.heartbeat is None:
        return f"No records under {status.root}{missing}, and no service has run yet"
    if not status.running:
        return "No records are pending, and the service is not running"
    if not status.spools:
        return f"Healthy: waiting for the first spool under {status.root}{missing}"
    if not status.pending:
        return "Healthy: all records are delivered"
    oldest = f", the oldest {duration(status.age(status.oldest))} old" if status.oldest else ""
    return f"Healthy: {counted(status.pending, 'record')} pending{oldest}"

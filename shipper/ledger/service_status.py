"""The heartbeat and the outages of the running service, for commands that run beside it.

The service writes them every few seconds, never for each request. The lock of the state directory
shows whether a service runs, its heartbeat shows whether it makes progress. No decision about
delivery depends on these tables.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shipper.ledger.database import LOCK_NAME, StateDatabase


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last heartbeat. Times are Unix seconds; `stopped` is 0 unless the service shut down."""

    pid: int
    version: str
    started: float
    beat: float
    stopped: float = 0.0
    address: str = ""  # of its HTTP port, or ""
    problem: str = ""  # why it has none although it should
    rates: Mapping[str, float] = field(default_factory=dict)  # sink -> records per second


@dataclass(frozen=True, kw_only=True)
class OutageRow:
    """The current or last outage of a sink; of one workload of it unless `workload` is ""."""

    sink: str
    workload: str
    reason: str
    detail: str
    alarm: bool  # whether an operator has to act
    since: float
    until: float | None = None  # None while it lasts


def is_running(directory: Path) -> bool:
    """Whether a service holds the lock of the state directory, in whatever pid namespace."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_heartbeat(state: StateDatabase, heartbeat: Heartbeat) -> None:
    row = {**asdict(heartbeat), "rates": json.dumps(dict(heartbeat.rates))}
    with state.heartbeat_connection() as database:
        database.table("service").upsert({"id": 1, **row}, pk="id")


def last_heartbeat(state: StateDatabase) -> Heartbeat | None:
    """The last heartbeat; None when no service has ever run here."""
    with state.connection() as database:
        rows = list(database.table("service").rows)
    if not rows:
        return None
    row = {name: value for name, value in rows[0].items() if name in Heartbeat.__dataclass_fields__}
    return Heartbeat(**{**row, "rates": json.loads(row["rates"] or "{}")})


def save_outages(state: StateDatabase, changed: Iterable[OutageRow]) -> None:
    """Replace the last outage of each of these sinks and workloads."""
    rows = [{**asdict(outage), "alarm": int(outage.alarm)} for outage in changed]
    if not rows:
        return
    with state.transaction() as database:
        for row in rows:
            database.execute(
                "INSERT OR REPLACE INTO trouble (sink, workload, reason, detail, alarm, since,"
                " until) VALUES (:sink, :workload, :reason, :detail, :alarm, :since, :until)",
                row,
            )


def end_outages(state: StateDatabase, now: float) -> None:
    """End what an earlier service process has left open."""
    state.execute("UPDATE trouble SET until = ? WHERE until IS NULL", now)


def outages(state: StateDatabase) -> list[OutageRow]:
    """The current or last outage of every sink and workload."""
    with state.connection() as database:
        rows: list[dict[str, Any]] = list(database.table("trouble").rows)
    return [OutageRow(**{**row, "alarm": bool(row["alarm"])}) for row in rows]


def delete_outages(state: StateDatabase, before: float) -> None:
    """Delete the outages that ended before that time."""
    state.execute("DELETE FROM trouble WHERE until < ?", before)

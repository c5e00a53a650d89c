"""What the running service tells of itself in its state directory, for whoever asks beside it.

Rules:

- Written once every few seconds, as a sign of life with what has changed: never for each request.
- The lock of the directory tells whether a service runs; the sign of life, whether it moves.
- Nothing here decides what is sent: losing all of it costs words.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shipper.ledger.database import LOCK_NAME, State


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The service's last sign of life. Times are Unix seconds; `stopped` 0 unless it ended well."""

    pid: int
    version: str
    started: float
    beat: float
    stopped: float = 0.0
    address: str = ""  # of its HTTP port, or ""
    problem: str = ""  # why it has none although it should
    rates: Mapping[str, float] = field(default_factory=dict)  # sink -> records per second


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What is wrong, or was last, on the way to a sink; `workload` is "" for the sink itself."""

    sink: str
    workload: str
    reason: str
    detail: str
    alarm: bool
    since: float
    until: float | None = None  # None while it lasts


def is_running(directory: Path) -> bool:
    """Whether a service holds the state directory, in whatever pid namespace."""
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


def beat(state: State, sign: Sign) -> None:
    """Write a sign of life over the one before."""
    row = {**asdict(sign), "rates": json.dumps(dict(sign.rates))}
    with state.using_for_sign() as database:
        database.table("service").upsert({"id": 1, **row}, pk="id")


def last_sign(state: State) -> Sign | None:
    """The last sign of life; None when no service has ever run here."""
    with state.using() as database:
        rows = list(database.table("service").rows)
    if not rows:
        return None
    row = {name: value for name, value in rows[0].items() if name in Sign.__dataclass_fields__}
    return Sign(**{**row, "rates": json.loads(row["rates"] or "{}")})


def note(state: State, troubles: Iterable[Trouble]) -> None:
    """Write down these troubles, each over the last one of its sink and workload."""
    rows = [{**asdict(trouble), "alarm": int(trouble.alarm)} for trouble in troubles]
    if not rows:
        return
    with state.transaction() as database:
        for row in rows:
            database.execute(
                "INSERT OR REPLACE INTO trouble (sink, workload, reason, detail, alarm, since,"
                " until) VALUES (:sink, :workload, :reason, :detail, :alarm, :since, :until)",
                row,
            )


def end_troubles(state: State, now: float) -> None:
    """A service that starts knows of no trouble: what the one before noted is over for it."""
    with state.using() as database:
        database.execute("UPDATE trouble SET until = ? WHERE until IS NULL", (now,))


def troubles(state: State) -> list[Trouble]:
    """The present or last trouble of every sink and workload."""
    with state.using() as database:
        rows: list[dict[str, Any]] = list(database.table("trouble").rows)
    return [Trouble(**{**row, "alarm": bool(row["alarm"])}) for row in rows]


def forget_troubles(state: State, before: float) -> None:
    """Drop what was over before that time."""
    with state.using() as database:
        database.execute("DELETE FROM trouble WHERE until < ?", (before,))

"""One sentence for every state, whether an operator has to act, and the screen."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from shipper.humanize import duration, short, size
from shipper.ledger.service_status import Heartbeat, OutageRow
from shipper.status.model import DiskStatus, SinkStatus, SpoolSinkStatus, SpoolStatus, Status
from shipper.status.summary import PAUSED_SECONDS, summarize
from shipper.status.terminal import render

NOW = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
ALIVE = Heartbeat(pid=7, version="1", started=NOW - 60, beat=NOW - 1)


def spool(pending: int = 0, *, number: int = 0, **fields: Any) -> SpoolStatus:
    one = SpoolSinkStatus(sink="processor", pending=pending, oldest=NOW - 180 if pending else None)
    name = f"20260304T030405-{number}-00000000"
    known = {"directory": f"/spool/{name}", "state": "writing", "sinks": (one,)}
    return SpoolStatus(spool=name, **{**known, **fields})


def overview(*spools: SpoolStatus, **fields: Any) -> Status:
    pending = sum(one.pending for one in spools)
    sink = SinkStatus(sink="processor", pending=pending, outages=fields.pop("outages", ()))
    known: dict[str, Any] = {
        "time": NOW,
        "root": "/spool",
        "state": "/state",
        "running": True,
        "heartbeat": ALIVE,
        "disk": DiskStatus(size=1),
        "sinks": (replace(sink, **fields.pop("sink", {})),),
    }
    return Status(spools=spools, **{**known, **fields})


def trouble(reason: str, *, alarm: bool = False, ago: float = 60.0, **fields: Any) -> OutageRow:
    known = {"sink": "processor", "workload": "", "detail": "401 invalid token"}
    return OutageRow(reason=reason, alarm=alarm, since=NOW - ago, **{**known, **fields})


CASES = {
    "nothing yet": (
        overview(running=False, heartbeat=None),
        "healthy",
        "No records under /spool, and no service has run yet",
    ),
    "a root that is not there": (
        overview(running=False, heartbeat=None, disk=DiskStatus()),
        "degraded",
        "No records under /spool, which does not exist, and no service has run yet",
    ),
    "a root that is gone": (
        overview(running=False, disk=DiskStatus()),
        "degraded",
        "No records under /spool, which does not exist, and the service is not running",
    ),
    "a root that nobody has made": (
        overview(disk=DiskStatus()),
        "degraded",
        "Waiting for the first spool under /spool, which does not exist",
    ),
    "a closed root": (
        overview(unreadable_directories={"/spool": "cannot be read: Permission denied"}),
        "action_required",
        (
            "/spool cannot be read: Permission denied. Its records are not delivered, see"
            " lens-ship check."
        ),
    ),
    "closed folders": (
        overview(
            spool(),
            unreadable_directories={
                "/spool/a": "is not a directory",
                "/spool/b": "",
                "/spool/c": "",
            },
        ),
        "action_required",
        (
            "/spool/a is not a directory (and 2 more). Its records are not delivered,"
            " see lens-ship check."
        ),
    ),
    "waiting for the first job": (
        overview(),
        "healthy",
        "Healthy: waiting for the first spool under /spool",
    ),
    "all delivered": (overview(spool()), "healthy", "Healthy: all records are delivered"),
    "on their way": (
        overview(spool(412)),
        "healthy",
        "Healthy: 412 records pending, the oldest 3 min old",
    ),
    "just written": (
        overview(
            spool(sinks=(SpoolSinkStatus(sink="processor", pending=1, oldest=NOW - 2),)),
            sink={"pending": 1},
        ),
        "healthy",
        "Healthy: 1 record pending, the oldest 2 s old",
    ),
    "stopped with nothing left": (
        overview(spool(), running=False, heartbeat=replace(ALIVE, stopped=NOW)),
        "healthy",
        "No records are pending, and the service is not running",
    ),
    "never started": (
        overview(spool(1), running=False, heartbeat=None),
        "action_required",
        "1 record pending and the service is not running. Start it with lens-ship run.",
    ),
    "stopped": (
        overview(spool(2), running=False, heartbeat=replace(ALIVE, stopped=NOW - 3600)),
        "action_required",
        "2 records pending and the service is not running. It was stopped at 11:00.",
    ),
    "died": (
        overview(spool(2), running=False, heartbeat=replace(ALIVE, beat=NOW - 7200)),
        "action_required",
        "2 records pending and the service is not running. It exited uncleanly at 10:00.",
    ),
    "stuck": (
        overview(spool(2), heartbeat=replace(ALIVE, beat=NOW - 600)),
        "action_required",
        "The service (pid 7) has been stuck since 11:50. Restart it, no records are lost.",
    ),
    "refused token": (
        overview(spool(412), outages=(trouble("not-allowed", alarm=True),)),
        "action_required",
        (
            "412 records pending. Processor rejects the token since 11:59."
            " Check token_file or cookie_file."
        ),
    ),
    "receiver away": (
        overview(spool(412), outages=(trouble("refused"),)),
        "degraded",
        (
            "412 records pending. Processor refuses connections since 11:59."
            " Check that the receiver runs."
        ),
    ),
    "receiver away for long": (
        overview(spool(412), outages=(trouble("refused", ago=PAUSED_SECONDS),)),
        "action_required",
        (
            "412 records pending. Processor refuses connections since 11:45."
            " Check that the receiver runs."
        ),
    ),
    "unknown workloads": (
        overview(
            spool(3),
            outages=tuple(trouble("unknown-workload", workload=name) for name in "ab"),
        ),
        "degraded",
        (
            "3 records pending. Processor does not know the workload (workload a and 1 more)"
            " since 11:59. Check WORKLOAD_UID and POD_NAME."
        ),
    ),
    "a new kind of trouble": (
        overview(spool(), outages=(trouble("eclipse"),)),
        "degraded",
        "Processor reports eclipse since 11:59. See its log.",
    ),
    "trouble that is over": (
        overview(spool(), outages=(trouble("refused", until=NOW - 1),)),
        "healthy",
        "Healthy: all records are delivered",
    ),
    "root full": (
        overview(spool(), disk=DiskStatus(full=True)),
        "action_required",
        (
            "The spool root is full: new records are dropped and counted. Free disk space or raise"
            " root_bytes."
        ),
    ),
    "unreadable": (
        overview(spool(problem="/spool/x/1.sqlite: malformed"), spool(number=1)),
        "action_required",
        "1 spool cannot be read: x/1.sqlite: malformed",
    ),
    "dead letters": (
        overview(spool(), sink={"dead_letters": {"bad-request": 3}}),
        "action_required",
        "3 dead letters: see lens-ship dead-letter list",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_state_has_its_sentence(name: str) -> None:
    state, level, headline = CASES[name]
    summary = summarize(state)
    assert (summary.level, summary.headline) == (level, headline)
    assert summary.action_required == (level == "action_required")


def test_other_problems_are_listed_below() -> None:
    state = overview(
        spool(5, problem="broken"),
        sink={"dead_letters": {"bad-request": 3}},
        outages=(trouble("not-allowed", alarm=True),),
    )
    summary = summarize(state)
    assert "token" in summary.headline
    assert [line.split()[1] for line in summary.also] == ["spool", "dead"]


def test_up_to_max_dead_letters_no_action_is_required() -> None:
    state = overview(spool(), sink={"dead_letters": {"bad-request": 3}})
    assert summarize(state, max_dead_letters=3).level == "healthy"
    assert summarize(state, max_dead_letters=2).level == "action_required"


def test_ages_of_records_from_clocks_that_run_ahead_are_not_negative() -> None:
    assert overview().age(NOW + 50) == 0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "-"), (0, "0 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h"), (2e5, "2.3 d")],
)
def test_durations_are_told_in_a_fitting_unit(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


def test_numbers_are_told_shortly() -> None:
    assert [short(number) for number in (0, 999_999, 12_300_000, 5 * 10**9)] == [
        "0",
        "999,999",
        "12.3 M",
        "5.0 G",
    ]
    assert [size(number) for number in (0, 999, 1536, 10**13)] == [
        "0 B",
        "999 B",
        "1.5 KiB",
        "9.1 TiB",
    ]


# --- on the screen --------------------------------------------------------------------------------


def busy() -> Status:
    """Everything at once, and wide."""
    spools = [
        spool(10**6 * n, number=n, workload=f"a-very-long-name-of-a-workload-{n}", rank=n)
        for n in range(14)
    ]
    broken = spool(number=99, state="unreadable", problem="/spool/deep/" + "x" * 60 + ": malformed")
    return overview(
        *spools,
        broken,
        sink={
            "delivered": 123_456_789,
            "pending_bytes": 10**11,
            "oldest": NOW - 9999,
            "rate": 12345.6,
            "dead_letters": {"bad-request": 12},
            "dropped": {"corrupt": 4},
            "skipped_values": 3,
            "rejected_values": 5,
        },
        outages=(trouble("not-allowed", alarm=True, detail="no " * 60),),
        producer_dropped={"disk-full": 17},
    )


def shown(state: Status, width: int, **options: Any) -> list[str]:
    out = Console(width=width, file=io.StringIO(), color_system=None)
    out.print(render(state, summarize(state), width=width, **options))
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [72, 80, 100, 160])
@pytest.mark.parametrize("name", [*CASES, "busy"])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(name: str, width: int) -> None:
    state = busy() if name == "busy" else CASES[name][0]
    lines = shown(state, width)
    assert max(map(len, lines)) <= width
    assert lines[0].split(" ", 1)[1][:20] == summarize(state).headline[:20]
    if name == "busy":
        row = next(line for line in lines if line.startswith("processor "))
        assert {"91.0", "M"} <= set(row.split()), row
        assert row.endswith("action required")


def test_the_worst_spools_come_first_and_the_others_are_counted() -> None:
    lines = shown(busy(), 100)
    rows = [line.split() for line in lines if line.startswith("20260304T")]
    assert len(rows) == 10
    assert rows[0][-1] == "unreadable"
    assert [row[3:5] for row in rows[1:4]] == [["13.0", "M"], ["12.0", "M"], ["11.0", "M"]]
    assert lines[-1] == "and 5 more (--all shows them)"
    every = [line for line in shown(busy(), 100, everything=True) if line.startswith("2026")]
    assert len(every) == 15


def test_losses_are_shown_by_reason() -> None:
    text = "\n".join(shown(busy(), 100))
    assert "dead letters: 12 bad-request" in text
    assert "processor: dropped: 4 corrupt" in text
    assert "dropped by producer: 17 disk-full" in text
    assert "processor: 3 values skipped, not numeric" in text
    assert "processor: 5 values rejected within requests that were accepted" in text


# --- spools that are not shipped ------------------------------------------------------------------

HOUR = 3600.0
LONG_ALIVE = replace(ALIVE, started=NOW - 5 * HOUR)


def waiting(seconds: float, *, number: int = 0, workload: str = "w", **fields: Any) -> SpoolStatus:
    since = NOW - seconds
    one = SpoolSinkStatus(sink="processor", pending=3, oldest=since, waiting_since=since)
    return spool(number=number, sinks=(one,), workload=workload, flush_interval=5.0, **fields)


def ended(ago: float, *, workload: str = "") -> OutageRow:
    return replace(trouble("refused", ago=4 * HOUR, workload=workload), until=NOW - ago)


@pytest.mark.parametrize(
    ("status", "stalled"),
    [
        (overview(waiting(2 * HOUR), heartbeat=LONG_ALIVE), True),
        (overview(waiting(300), heartbeat=LONG_ALIVE), False),
        (overview(waiting(2 * HOUR), heartbeat=LONG_ALIVE, running=False), False),
        (overview(waiting(2 * HOUR), heartbeat=ALIVE), False),  # the service has just started
        (overview(waiting(2 * HOUR, problem="torn"), heartbeat=LONG_ALIVE), False),
        (overview(waiting(2 * HOUR), heartbeat=LONG_ALIVE, outages=(ended(60),)), False),
        (overview(waiting(2 * HOUR), heartbeat=LONG_ALIVE, outages=(ended(HOUR),)), True),
        (
            overview(
                waiting(2 * HOUR),
                waiting(1, number=1, workload="x"),
                heartbeat=LONG_ALIVE,
                outages=(trouble("unknown-workload", workload="x"),),
            ),
            True,
        ),
        (overview(*(waiting(900, number=n) for n in range(400)), heartbeat=LONG_ALIVE), False),
    ],
)
def test_a_spool_that_is_not_shipped_needs_an_operator(status: Status, stalled: bool) -> None:
    found = summarize(status)
    assert found.action_required == (
        stalled or not status.running or bool(status.spools[0].problem)
    )
    assert ("not shipped although the service runs" in found.headline) == stalled


def test_the_spools_that_are_not_shipped_are_counted() -> None:
    status = overview(waiting(2 * HOUR), waiting(HOUR, number=1), heartbeat=LONG_ALIVE)
    assert summarize(status).headline == (
        "2 spools are not shipped although the service runs, the oldest record is 2.0 h old."
        " See its log, then restart it: no records are lost."
    )

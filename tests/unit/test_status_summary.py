"""One sentence for every state, and whether somebody has to do something; and how it is shown."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from shipper.humanize import size
from shipper.ledger.service_status import Sign, Trouble
from shipper.status.model import DiskStatus, SinkStatus, SpoolSinkStatus, SpoolStatus, Status
from shipper.status.summary import PAUSED_SECONDS, duration, short, summarize
from shipper.status.terminal import render

NOW = time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1))
ALIVE = Sign(pid=7, version="1", started=NOW - 60, beat=NOW - 1)


def spool(pending: int = 0, *, number: int = 0, **fields: Any) -> SpoolStatus:
    way = SpoolSinkStatus(sink="processor", pending=pending, oldest=NOW - 180 if pending else None)
    name = f"20260304T030405-{number}-00000000"
    known = {"directory": f"/spool/{name}", "state": "writing", "ways": (way,)}
    return SpoolStatus(spool=name, **{**known, **fields})


def overview(*spools: SpoolStatus, **fields: Any) -> Status:
    pending = sum(one.pending for one in spools)
    sink = SinkStatus(sink="processor", pending=pending, troubles=fields.pop("troubles", ()))
    known: dict[str, Any] = {
        "time": NOW,
        "root": "/spool",
        "state": "/state",
        "running": True,
        "sign": ALIVE,
        "disk": DiskStatus(size=1),
        "sinks": (replace(sink, **fields.pop("sink", {})),),
    }
    return Status(spools=spools, **{**known, **fields})


def trouble(reason: str, *, alarm: bool = False, ago: float = 60.0, **fields: Any) -> Trouble:
    known = {"sink": "processor", "workload": "", "detail": "401 invalid token"}
    return Trouble(reason=reason, alarm=alarm, since=NOW - ago, **{**known, **fields})


CASES = {
    "nothing yet": (
        overview(running=False, sign=None),
        "ok",
        "Nothing recorded below /spool, and no service has run yet",
    ),
    "a root that is not there": (
        overview(running=False, sign=None, disk=DiskStatus()),
        "ok",
        "Nothing recorded below /spool, which is not there yet, and no service has run yet",
    ),
    "a root that nobody has made": (
        overview(disk=DiskStatus()),
        "ok",
        "Waiting for the first spool below /spool, which is not there yet",
    ),
    "a closed root": (
        overview(closed={"/spool": "cannot be looked into: Permission denied"}),
        "attention",
        (
            "/spool cannot be looked into: Permission denied; what is recorded there is not"
            " shipped: see lens-ship check"
        ),
    ),
    "closed folders": (
        overview(spool(), closed={"/spool/a": "is no folder", "/spool/b": "", "/spool/c": ""}),
        "attention",
        (
            "/spool/a is no folder (and 2 folders more); what is recorded there is not shipped:"
            " see lens-ship check"
        ),
    ),
    "waiting for the first job": (overview(), "ok", "Waiting for the first spool below /spool"),
    "all delivered": (overview(spool()), "ok", "All delivered"),
    "on their way": (
        overview(spool(412)),
        "ok",
        "412 records on the way, the oldest 3 min old",
    ),
    "just written": (
        overview(
            spool(ways=(SpoolSinkStatus(sink="processor", pending=1, oldest=NOW - 2),)),
            sink={"pending": 1},
        ),
        "ok",
        "All is well: 1 record on the way, the oldest 2 s old",
    ),
    "stopped with nothing left": (
        overview(spool(), running=False, sign=replace(ALIVE, stopped=NOW)),
        "ok",
        "Nothing waits, and no service runs",
    ),
    "never started": (
        overview(spool(1), running=False, sign=None),
        "attention",
        "1 record waits and no service runs: start it with lens-ship run",
    ),
    "stopped": (
        overview(spool(2), running=False, sign=replace(ALIVE, stopped=NOW - 3600)),
        "attention",
        "2 records wait and no service runs: it was stopped at 11:00",
    ),
    "died": (
        overview(spool(2), running=False, sign=replace(ALIVE, beat=NOW - 7200)),
        "attention",
        "2 records wait and no service runs: it ended without a goodbye at 10:00",
    ),
    "stuck": (
        overview(spool(2), sign=replace(ALIVE, beat=NOW - 600)),
        "attention",
        "The service (pid 7) does not move since 11:50: restart it; nothing is lost",
    ),
    "refused token": (
        overview(spool(412), troubles=(trouble("not-allowed", alarm=True),)),
        "attention",
        "412 records behind, processor refuses the token since 11:59: check the token",
    ),
    "receiver away": (
        overview(spool(412), troubles=(trouble("refused"),)),
        "waiting",
        (
            "412 records behind, processor refuses connections since 11:59:"
            " check that the receiver runs"
        ),
    ),
    "receiver away for long": (
        overview(spool(412), troubles=(trouble("refused", ago=PAUSED_SECONDS),)),
        "attention",
        (
            "412 records behind, processor refuses connections since 11:45:"
            " check that the receiver runs"
        ),
    ),
    "unknown workloads": (
        overview(
            spool(3),
            troubles=tuple(trouble("unknown-workload", workload=name) for name in "ab"),
        ),
        "waiting",
        (
            "3 records behind, processor does not know the workload (workload a and 1 more)"
            " since 11:59: check WORKLOAD_UID and POD_NAME"
        ),
    ),
    "a new kind of trouble": (
        overview(spool(), troubles=(trouble("eclipse"),)),
        "waiting",
        "Processor says eclipse since 11:59: see its log",
    ),
    "trouble that is over": (
        overview(spool(), troubles=(trouble("refused", until=NOW - 1),)),
        "ok",
        "All delivered",
    ),
    "root full": (
        overview(spool(), disk=DiskStatus(full=True)),
        "attention",
        (
            "The spool root is full: new records of training are refused and counted; give it room,"
            " or raise root_bytes"
        ),
    ),
    "unreadable": (
        overview(spool(problem="/spool/x/1.sqlite: malformed"), spool(number=1)),
        "attention",
        "1 spool cannot be read: x/1.sqlite: malformed",
    ),
    "dead letters": (
        overview(spool(), sink={"dead": {"bad-request": 3}}),
        "attention",
        "3 records refused for good and kept: see lens-ship dead-letter list",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_state_has_its_sentence(name: str) -> None:
    state, level, headline = CASES[name]
    verdict = summarize(state)
    assert (verdict.level, verdict.headline) == (level, headline)
    assert verdict.needs_a_hand == (level == "attention")


def test_what_else_is_wrong_is_said_beside_it() -> None:
    state = overview(
        spool(5, problem="broken"),
        sink={"dead": {"bad-request": 3}},
        troubles=(trouble("not-allowed", alarm=True),),
    )
    verdict = summarize(state)
    assert "token" in verdict.headline
    assert [line.split()[1] for line in verdict.also] == ["spool", "records"]


def test_dead_letters_that_are_put_up_with_need_no_hand() -> None:
    state = overview(spool(), sink={"dead": {"bad-request": 3}})
    assert summarize(state, dead_letters=3).level == "ok"
    assert summarize(state, dead_letters=2).level == "attention"


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
            "dead": {"bad-request": 12},
            "lost": {"corrupt": 4},
            "left_out": 3,
        },
        troubles=(trouble("not-allowed", alarm=True, detail="no " * 60),),
        dropped={"disk-full": 17},
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
        assert row.endswith("alarm")


def test_the_worst_spools_come_first_and_the_others_are_counted() -> None:
    lines = shown(busy(), 100)
    rows = [line.split() for line in lines if line.startswith("20260304T")]
    assert len(rows) == 10
    assert rows[0][-1] == "unreadable"
    assert [row[3:5] for row in rows[1:4]] == [["13.0", "M"], ["12.0", "M"], ["11.0", "M"]]
    assert lines[-1] == "and 5 more (--all shows them)"
    every = [line for line in shown(busy(), 100, everything=True) if line.startswith("2026")]
    assert len(every) == 15


def test_losses_are_told_by_reason() -> None:
    text = "\n".join(shown(busy(), 100))
    assert "dead letters: 12 bad-request" in text
    assert "lost: 4 corrupt" in text
    assert "never written by training: 17 disk-full" in text
    assert "values left out, being no numbers: 3" in text

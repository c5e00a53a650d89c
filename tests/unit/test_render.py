"""What commands print of names and answers from elsewhere cannot draw, move or colour anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from rich.text import Text

from shipper.audit.account import Account
from shipper.cli.render import (
    print_accounts,
    print_dead_letters,
    print_plan,
    print_quarantine,
    progress_bar,
)
from shipper.humanize import by_reason, most_frequent
from shipper.replay.plan import ReplayPart, ReplayPlan
from shipper.retention.quarantine import QuarantineReport
from shipper.tables import console

NASTY = "[red]x[/red] [/y] \x1b[2J\u202e:bug:"
SHOWN = r"[red]x[/red] [/y] \x1b[2J\u202e:bug:"


def test_dead_letters(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": 1, "time": 0.0, "sink": "s", "reason": "r", "spool": "p", "seq": 1, "kind": "k"}

    print_dead_letters([{**row, "bytes": 1, "detail": NASTY}], as_json=False)

    assert SHOWN in capsys.readouterr().out


def test_accounts(capsys: pytest.CaptureFixture[str]) -> None:
    account = Account(
        spool="p", sink="s", directory=NASTY, written=1, dropped_by_producer={NASTY: 1}
    )

    print_accounts([account], as_json=False)

    out = " ".join(capsys.readouterr().out.split())
    assert f"dropped by producer: 1 {SHOWN}" in out
    assert f"{SHOWN}, s: does not balance" in out


def test_quarantine(capsys: pytest.CaptureFixture[str]) -> None:
    report = QuarantineReport(
        spool="p",
        segment=1,
        path="",
        time=0.0,
        reason=NASTY,
        workload="",
        pod="",
        rank=None,
        holds=[],
        missing=[],
        last=False,
        delivered=True,
    )

    print_quarantine([(report, 1)], as_json=False)

    out = " ".join(capsys.readouterr().out.split())
    assert SHOWN in out
    assert "1 damaged segment in quarantine" in out


def test_plans(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(ReplayPlan(problems=[NASTY]), ())

    out = " ".join(capsys.readouterr().out.split())
    assert f"not replayed: {SHOWN}" in out
    assert "destination" not in out


def test_of_many_reasons_the_rare_ones_are_one_number() -> None:
    counts = {f"reason-{number}": number for number in range(1, 20_001)}
    few = most_frequent(counts)
    assert sum(few.values()) == sum(counts.values())
    assert few["reason-20000"] == 20_000
    assert "of 19,990 other reasons" in few
    assert len(by_reason({"x" * 9999 + str(number): 1 for number in range(99)})) < 1000
    assert by_reason({"disk-full": 2, "cap": 1}) == "1 cap, 2 disk-full"


def test_the_console_escapes_whatever_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(Text(NASTY), NASTY, soft_wrap=True)
    assert capsys.readouterr().out == f"{SHOWN} {SHOWN}\n"


def test_where_no_terminal_is_progress_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipper.cli.render._PROGRESS_SECONDS", 0.0)
    with progress_bar(2000) as advance:
        advance(0)
        advance(1500)
    assert capsys.readouterr().err.splitlines() == [
        f"lens-ship: {sent} of 2,000 records sent" for sent in ("0", "1,500")
    ]


def test_a_plan_that_sends_nothing_names_no_destination(capsys: pytest.CaptureFixture[str]) -> None:
    part = SimpleNamespace(
        spool="s", sink="processor", runs=("r",), steps=(0, 1), records=2, bytes=9, delivered=2,
        to_send=0, overwriting=0, resend=False, pending=False, ended=True, letters=0,
    )  # fmt: skip
    print_plan(ReplayPlan(parts=[cast(ReplayPart, part)]), set())
    out = capsys.readouterr().out
    assert "those that were dropped, are sent again only with --resend-delivered" in out
    assert "destination" not in out

"""Tables in a narrow terminal: numbers stay whole, and what is cut can still be told apart."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from shipper.audit.account import Account
from shipper.cli import render
from shipper.replay.plan import ReplayPart, ReplayPlan
from shipper.tables import Column, fitted
from spooler.spool.identity import Identity
from tests.kit.spools import identity, spool_id


@dataclass(frozen=True)
class Spooled:
    """As much of a source as a plan prints."""

    identity: Identity


SPOOLS = [spool_id(number) for number in range(3)]
MILLIONS = 12_345_678


@pytest.fixture(params=[80, 120])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of so many columns, which the commands print to."""
    out = Console(width=request.param, file=io.StringIO(), highlight=False, markup=False)
    monkeypatch.setattr(render, "console", lambda: out)
    return out


def printed(screen: Console) -> list[str]:
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"dead_letters": 7, "corrupt": 8}, {"dropped_by_policy": {"cap": 9, "expired": 10}}],
)
def test_an_account_keeps_every_number(screen: Console, wrong: dict[str, Any]) -> None:
    """Once, in 80 columns, the heads read `writt…` and a spool took five lines."""
    accounts = [
        Account(
            spool=spool,
            sink="processor",
            directory=f"/spool/{spool}",
            written=MILLIONS,
            delivered=MILLIONS - place,
            skipped=place,
            **wrong,
        )
        for place, spool in enumerate(SPOOLS)
    ]
    render.print_accounts(accounts, as_json=False)
    head, *rows = [line for line in printed(screen) if line.startswith(("spool  ", "2"))][:4]
    assert head.split()[:4] == ["spool", "written", "delivered", "skipped"]
    assert all(len(row) <= screen.width for row in rows)
    assert [row.split()[1:4] for row in rows] == [
        ["12,345,678", f"{MILLIONS - place:,}", str(place)] for place in range(3)
    ]
    assert [row.split()[0][-8:] for row in rows] == [spool[-8:] for spool in SPOOLS]
    told = " ".join(" ".join(printed(screen)).split())
    assert ("9 cap" in told) == ("dropped_by_policy" in wrong)


def test_a_dead_letter_has_its_number_and_its_answer(screen: Console) -> None:
    """Once, in 80 columns, both were cut off; in 120 the answer stood four letters wide."""
    answer = "400 " + "no valid workload found " * 8
    rows = [
        {
            "id": number,
            "time": 0.0,
            "sink": "processor-detection",
            "reason": "unknown-workload",
            "spool": SPOOLS[0],
            "seq": MILLIONS + number,
            "kind": "detection",
            "bytes": 12_345,
            "detail": answer if number != 1001 else "another",
        }
        for number in range(1000, 1004)
    ]
    render.print_dead_letters(rows, as_json=False)
    lines = printed(screen)
    assert [line.split()[0] for line in lines[1:5]] == ["1000", "1001", "1002", "1003"]
    assert all(str(MILLIONS + number) in lines[1 + number - 1000] for number in range(1000, 1004))
    assert lines[5:] == [
        f"1000, 1002 to 1003: unknown-workload: {answer.rstrip()}",
        "1001: unknown-workload: another",
        "4 dead letters",
    ]


def test_a_plan_keeps_every_number(screen: Console) -> None:
    part = ReplayPart(
        source=Spooled(identity(SPOOLS[1])),  # type: ignore[arg-type]
        sink="processor-detection",
        kinds=frozenset({"detection"}),
        entry="processor-detection",
        runs=("4x7k2m9q",),
        steps=(0, MILLIONS),
        records=MILLIONS,
        bytes=MILLIONS,
        delivered=MILLIONS,
        overwriting=0,
        resend=False,
        unfinished=False,
    )
    render.print_plan(ReplayPlan(parts=[part]), ())
    (row,) = [line for line in printed(screen) if line.startswith("2")]
    assert len(row) <= screen.width
    assert row.split()[-2:] == ["12,345,678", "0"]


def test_what_is_spare_goes_before_anything_that_says_something() -> None:
    columns = [
        Column("name", gives=True, tail=8),
        Column("much", right=True),
        Column("none", right=True, spare="0", rank=9),
    ]
    rows = [(Text("a" * 20 + "12345678"), Text("7"), Text("0"))]
    wide, narrow = (fitted(columns, rows, width) for width in (60, 20))
    assert [column.header for column in wide.columns] == ["name", "much", "none"]
    assert [column.header for column in narrow.columns] == ["name", "much"]

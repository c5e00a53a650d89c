"""What `lens-ship exec` says at its end of the records of its job."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from shipper.launch.account import Accountant, LaunchAccount
from shipper.ledger.ledger import CommitDelta, Ledger, Position
from shipper.ledger.service_status import OutageRow, save_outages
from tests.kit.shipping import config, spool, step
from tests.kit.spools import identity

NOTHING = "nothing was recorded. If the job logs metrics, run `lens-ship hook status` in its"


def new_name() -> str:
    """The id of a spool that is made now."""
    return time.strftime("%Y%m%dT%H%M%S-1-00000001", time.gmtime())


@pytest.mark.parametrize(
    ("account", "text"),
    [
        (LaunchAccount(), f"{NOTHING} environment"),
        (
            LaunchAccount(recorded=21, delivered=Counter(master=0, processor=20, detection=1)),
            "21 records delivered (1 detection, 20 processor), nothing left",
        ),
        (
            LaunchAccount(recorded=20, delivered=Counter(master=0, processor=20)),
            "20 records delivered, nothing left",
        ),
        (LaunchAccount(recorded=1), "0 records delivered, nothing left"),  # skipped by every sink
        (LaunchAccount(dropped=3), "0 records delivered, 3 dropped, nothing left"),
        (
            LaunchAccount(recorded=4, pending=3, dead_letters=1, why="otlp refuses connections"),
            "0 records delivered, 1 dead letter, 3 left (otlp refuses connections)",
        ),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_it_says_what_was_delivered_and_what_is_left(account: LaunchAccount, text: str) -> None:
    assert account.text() == text


@pytest.mark.parametrize(
    ("reason", "sinks", "why"),
    [
        ("no-url", {}, "no receiver is given"),
        ("no-url", {"mine": {"type": "telemetry-processor"}}, "mine has no URL"),
        ("refused", {}, "mine refuses connections"),
    ],
)
def test_it_says_why_records_are_left(
    tmp_path: Path, reason: str, sinks: dict[str, dict[str, str]], why: str
) -> None:
    settings = config(tmp_path, sinks=sinks)
    accountant = Accountant(settings, "mine")
    spool(settings.spool, [step(1)], who=identity(new_name(), launch="mine"))
    outage = OutageRow(sink="mine", workload="", reason=reason, detail="", alarm=True, since=1.0)
    with closing(Ledger(settings.state)) as ledger:
        save_outages(ledger, [outage])
    account = accountant.count()
    assert (account.pending, account.why) == (1, why)


def test_what_is_delivered_and_deleted_before_the_end_is_counted(tmp_path: Path) -> None:
    """As with save_local = false, of a process that ended before the job."""
    settings = config(tmp_path)
    settings.spool.mkdir()
    accountant = Accountant(settings, "mine")
    first = identity(new_name(), launch="mine")
    others = replace(first, spool=f"{first.spool[:-1]}2", launch="")
    with closing(Ledger(settings.state)) as ledger:
        for one in (first, others):
            ledger.remember_spool(one.spool, settings.spool / one.spool, one.to_map(), written=3)
            ledger.acknowledge(one.spool, "processor", Position(seq=3), CommitDelta(delivered=3))
            ledger.mark_deleted(one.spool)
    account = accountant.count()
    assert (account.recorded, account.delivered.total(), account.pending) == (3, 3, 0)

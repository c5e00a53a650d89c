"""Reports of three kinds while the real master and the service are killed five times each.

In the end every report is accounted for, the last life of the master has every one that is young
enough, and no life has a sample of metrics twice.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.accounts.audit import take_accounts
from shipper.ledger.ledger import Ledger
from tests.kit import master as kit
from tests.kit import spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.master import Master, needs_master, numbers, report, wait_for
from tests.kit.shipping import goodbye, spool

pytestmark = needs_master

MANY, SOME = 10_000, int(os.environ.get("LENS_SHIP_REPORTS") or 1200)
RANKS = 3
KILLS = 5  # of each
KINDS = ("TRAINING_LOG", "XPU_TIMER_METRIC", "STACK_TRACE")
XPU = KINDS[1]


def is_old(number: int) -> bool:
    """These are too old for a master when they are recorded."""
    return number % 23 == 0


def write(root: Path, master: Master, reports: int) -> None:
    """Every report once, spread over the ranks."""
    now = int(time.time())
    for rank in range(RANKS):
        records = [
            report(
                number,
                KINDS[number // RANKS % 3],
                node_rank=rank,
                timestamp=now - 700 if is_old(number) else now,
                data_content=f"report {number} " + "x" * (number % 700) + "\n",
            )
            for number in range(rank, reports, RANKS)
        ]
        who = spools.identity(
            spools.spool_id(rank), master_addr=master.address, master_service=master.service
        )
        spool(root / "spool", [*records, goodbye()], who=who)


class Storm:
    """Kills both, at moments that are drawn from a seed."""

    def __init__(self, root: Path, master: Master, reports: int, seed: int) -> None:
        self._master = master
        self._reports = reports
        self._draw = random.Random(seed)
        self.arguments = ["--spool", str(root / "spool"), "--state", str(root / "state")]
        self.arguments += ["--flush-interval", "0.1", "--read-timeout", "5"]

    def rage(self) -> None:
        turns = ["master", "service"] * KILLS
        self._draw.shuffle(turns)
        shipping = start_lens_ship("run", *self.arguments)
        try:
            for victim in turns:
                self._wait_for_progress()
                if victim == "master":
                    self._master.kill()
                    self._master.start()
                else:
                    shipping.kill()
                    shipping.communicate()
                    shipping = start_lens_ship("run", *self.arguments)
        finally:
            shipping.kill()
            shipping.communicate()

    def _wait_for_progress(self) -> None:
        """Until this life has so many reports more, or as many as there can be."""
        reports = self._reports
        most = sum(not is_old(number) for number in range(reports)) * 9 // 10
        before = len(self._master.stored())
        wanted = min(before + self._draw.randrange(1, max(2, reports // 8)), most)
        wait_for(lambda: len(self._master.stored()) >= wanted, "nothing arrives any more")


@pytest.mark.promise("G18")
@pytest.mark.promise("G19")
@pytest.mark.parametrize(("service", "reports"), [("grpc", MANY), ("http", SOME)])
def test_every_report_is_accounted_for_and_no_sample_is_doubled(
    tmp_path: Path, service: str, reports: int
) -> None:
    with kit.running(tmp_path / "master", service) as master:
        write(tmp_path, master, reports)
        storm = Storm(tmp_path, master, reports, seed=4)
        storm.rage()
        done = lens_ship("run", "--once", "--timeout", "50", *storm.arguments)
        assert done.code == 0, done.err
        assert master.lives == 1 + KILLS
        lives = [master.stored(life + 1) for life in range(master.lives)]
    lost = doubtful(tmp_path / "state")
    check_accounts(tmp_path, reports)
    for rows in lives:
        check_life(rows)
    young = {number for number in range(reports) if not is_old(number)}
    missing = young - set(numbers(lives[-1]))
    assert len(missing) <= lost, f"{sorted(missing)}, {lost} in doubt"
    assert {KINDS[number // RANKS % 3] for number in missing} <= {XPU}


def doubtful(state: Path) -> int:
    """Samples that were given up as ambiguous, when they were first sent or sent again."""
    with closing(Ledger(state, exclusive=False)) as ledger:
        return sum(row["count"] for row in ledger.dropped() if row["reason"] == "ambiguous")


def check_accounts(root: Path, reports: int) -> None:
    with closing(Ledger(root / "state", exclusive=False)) as ledger:
        accounts = take_accounts(ledger, root / "spool", ["master"])
        assert ledger.dead_letters() == []
    assert len(accounts) == RANKS
    assert all(account.balances and account.pending == 0 for account in accounts), accounts
    reasons = Counter[str]()
    for account in accounts:
        reasons.update(account.given_up)
    assert reasons["expired"] == sum(is_old(number) for number in range(reports))
    assert set(reasons) <= {"expired", "ambiguous"}
    delivered = sum(account.delivered for account in accounts)
    assert delivered + reasons.total() == reports
    assert sum(account.again for account in accounts) > 0


def check_life(rows: list[dict[str, Any]]) -> None:
    times = Counter(
        (row["data_type"], number) for row, number in zip(rows, numbers(rows), strict=True)
    )
    doubled = {key: count for key, count in times.items() if count > 1}
    assert not [key for key in doubled if key[0] == XPU], doubled
    # A kill of the service may repeat the one report that was under way, of each rank.
    assert sum(count - 1 for count in doubled.values()) <= KILLS * RANKS, doubled
    assert not [number for number in numbers(rows) if is_old(number)]
    for rank in range(RANKS):
        mine = [n for n, row in zip(numbers(rows), rows, strict=True) if row["node_rank"] == rank]
        assert mine == sorted(mine)

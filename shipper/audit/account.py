"""The account of one spool and sink: every record is in exactly one place. Pure.

    written = delivered + not for this sink + pending + dead letters + corrupt + evicted + given up

and beside it what the training process could not write at all, by reason. Evicted is what was
written and then deleted undelivered, to keep a limit of disk; given up is what a rule of the sink
settled without delivering it (too old for the receiver, for instance). The two sides come from
different places: what is settled from the ledger's counters, what is written and pending from the
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Account:
    """Counts of records; see the module. `missing` are written, not settled, and not in a file."""

    spool: str
    sink: str
    directory: str
    written: int
    delivered: int = 0
    passed: int = 0
    pending: int = 0
    dead: int = 0
    corrupt: int = 0
    missing: int = 0
    evicted: Mapping[str, int] = field(default_factory=dict)  # by reason
    dropped: Mapping[str, int] = field(default_factory=dict)  # never written, by reason
    given_up: Mapping[str, int] = field(default_factory=dict)  # by a rule of the sink, by reason
    again: int = 0  # sent once more to a receiver that had forgotten it; delivered before

    @property
    def difference(self) -> int:
        """Records that the right side of the account has too few; 0 when it balances."""
        settled = self.delivered + self.passed + self.dead + self.corrupt
        settled += sum(self.evicted.values()) + sum(self.given_up.values())
        return self.written - settled - self.pending

    @property
    def balances(self) -> bool:
        """Whether every record written is accounted for."""
        return self.difference == 0 and self.missing == 0

    def to_map(self) -> dict[str, Any]:
        """For machines."""
        names = ("spool", "sink", "directory", "written", "delivered", "passed", "pending")
        return {
            **{name: getattr(self, name) for name in names},
            "dead": self.dead,
            "corrupt": self.corrupt,
            "missing": self.missing,
            "evicted": dict(self.evicted),
            "given_up": dict(self.given_up),
            "again": self.again,
            "dropped": dict(self.dropped),
            "balances": self.balances,
        }


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The sum of accounts, each sink by itself: a record counts once for each sink."""

    written: int
    delivered: int
    passed: int
    pending: int
    dead: int
    corrupt: int
    missing: int
    evicted: int
    given_up: int
    again: int
    unbalanced: int  # accounts that do not balance


def total(accounts: list[Account]) -> Totals:
    """Add up accounts of one sink."""
    names = ("written", "delivered", "passed", "pending", "dead", "corrupt", "missing", "again")
    sums = {name: sum(getattr(account, name) for account in accounts) for name in names}
    sums["evicted"] = sum(sum(account.evicted.values()) for account in accounts)
    sums["given_up"] = sum(sum(account.given_up.values()) for account in accounts)
    return Totals(**sums, unbalanced=sum(not account.balances for account in accounts))

"""The account of one spool and sink: every record is in exactly one place. Pure.

    written = delivered + skipped + pending + dead letters + corrupt + dropped by policy

`unaccounted` are records that are in none of these. What the training process could not write at
all is counted beside it, as dropped by producer. The two sides come from different places: what is
acknowledged from the ledger's counters, what is written and pending from the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shipper.humanize import most_frequent

_COUNTS = (
    *("written", "delivered", "skipped", "pending", "dead_letters", "corrupt", "unaccounted"),
    "resent",
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """Counts of records."""

    spool: str
    sink: str
    directory: str
    written: int
    delivered: int = 0
    skipped: int = 0  # of a kind that the sink does not take
    pending: int = 0
    dead_letters: int = 0
    corrupt: int = 0
    unaccounted: int = 0  # written, not acknowledged, and in no file
    dropped_by_policy: Mapping[str, int] = field(default_factory=dict)  # by reason
    dropped_by_producer: Mapping[str, int] = field(default_factory=dict)  # by reason
    resent: int = 0  # to a receiver that had restarted; also counted as delivered

    @property
    def difference(self) -> int:
        """Records that the right side of the account has too few; 0 when it balances."""
        final = self.delivered + self.skipped + self.dead_letters + self.corrupt
        return self.written - final - sum(self.dropped_by_policy.values()) - self.pending

    @property
    def balances(self) -> bool:
        """Whether every record written is accounted for."""
        return self.difference == 0 and self.unaccounted == 0

    def to_map(self) -> dict[str, Any]:
        producer = most_frequent(self.dropped_by_producer)
        return {**asdict(self), "dropped_by_producer": producer, "balances": self.balances}


def total(sink: str, accounts: Iterable[Account]) -> Account:
    """The sum of accounts of one sink. Records of different sinks cannot be added up."""
    counts: Counter[str] = Counter()
    policy: Counter[str] = Counter()
    producer: Counter[str] = Counter()
    for account in accounts:
        counts.update({name: getattr(account, name) for name in _COUNTS})
        policy.update(account.dropped_by_policy)
        producer.update(account.dropped_by_producer)
    return Account(
        spool="total",
        sink=sink,
        directory="",
        dropped_by_policy=dict(policy),
        dropped_by_producer=dict(producer),
        **{name: counts[name] for name in _COUNTS},
    )

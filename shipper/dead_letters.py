"""Dead letters: list, show, drop. `shipper.replay.rejected` sends them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shipper.ledger.ledger import Ledger
from spooler.errors import BodyUnreadable
from spooler.spool import codec


@dataclass(frozen=True, kw_only=True)
class DeadLetterFilter:
    """Dead letters by number, or all that match; an empty field matches everything."""

    numbers: tuple[int, ...] = ()
    sink: str = ""
    reason: str = ""
    spool: str = ""

    def matches(self, row: Mapping[str, Any]) -> bool:
        return (
            row["state"] == "kept"
            and (not self.numbers or row["id"] in self.numbers)
            and self.sink in ("", row["sink"])
            and self.reason in ("", row["reason"])
            and self.spool in ("", row["spool"])
        )


def select(ledger: Ledger, selection: DeadLetterFilter) -> list[dict[str, Any]]:
    """The selected dead letters, oldest first."""
    return [row for row in ledger.dead_letters() if selection.matches(row)]


def show(ledger: Ledger, row: Mapping[str, Any]) -> dict[str, Any]:
    """One dead letter with its decoded body, or the body in hex if it cannot be decoded."""
    body = ledger.dead_letter_body(row["id"]) or b""
    try:
        decoded: Any = codec.unpack(body)
    except BodyUnreadable:
        decoded = body.hex()
    return {**row, "body": decoded}


def drop(ledger: Ledger, rows: Iterable[Mapping[str, Any]]) -> int:
    """Discard them permanently; they stay in the counters. Returns how many."""
    numbers = [row["id"] for row in rows]
    ledger.resolve_dead_letters(numbers, "dropped")
    return len(numbers)

"""Dead letters: list, show, retry, drop.

A retry sends the record alone through its sink. One that is rejected again stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shipper.ledger.ledger import Ledger
from shipper.sinks import PlanInput, Sink
from shipper.sinks.outcome import Disposition, Outcome
from spooler.errors import BodyUnreadable
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored


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


@dataclass(frozen=True, kw_only=True)
class Retried:
    """The outcome of one retry."""

    number: int
    outcome: Outcome


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


def retry(
    ledger: Ledger, rows: Iterable[Mapping[str, Any]], sinks: Mapping[str, Sink]
) -> list[Retried]:
    """Send each alone; those delivered are closed, the others stay as they are."""
    identities = {row["id"]: Identity.from_map(row["identity"]) for row in ledger.spools()}
    done = []
    for row in rows:
        sink, identity = sinks.get(row["sink"]), identities.get(row["spool"])
        if sink is None or identity is None:
            outcome = Outcome(
                disposition=Disposition.RETRY,
                reason="unknown",
                detail="its sink is not configured, or its spool is not in the ledger",
            )
        else:
            stored = Stored(
                seq=row["seq"], kind=row["kind"], body=ledger.dead_letter_body(row["id"]) or b""
            )
            outcome = _send(sink, identity, stored)
        if outcome.disposition is Disposition.DELIVERED:
            ledger.resolve_dead_letters([row["id"]], "delivered")
        done.append(Retried(number=row["id"], outcome=outcome))
    return done


def drop(ledger: Ledger, rows: Iterable[Mapping[str, Any]]) -> int:
    """Discard them permanently; they stay in the counters. Returns how many."""
    numbers = [row["id"] for row in rows]
    ledger.resolve_dead_letters(numbers, "dropped")
    return len(numbers)


def _send(sink: Sink, identity: Identity, stored: Stored) -> Outcome:
    plan = sink.plan(PlanInput(identity=identity, records=(stored,), ended=True))
    if plan.rejected:
        rejected = plan.rejected[0]
        return Outcome(
            disposition=Disposition.PERMANENT, reason=rejected.reason, detail=rejected.detail
        )
    outcome = Outcome(disposition=Disposition.DELIVERED, reason="nothing to send")
    for batch in plan.batches:
        outcome = sink.send(batch, identity, 2)
        if outcome.disposition is not Disposition.DELIVERED:
            break
    return outcome

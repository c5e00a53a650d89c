"""Sends the parts of a plan through the pipelines of the service, and makes their receipts."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipper.config.schema import Config
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.delivery.resend import AtMostOncePipeline
from shipper.delivery.sink_state import SinkState
from shipper.ledger.ledger import Ledger, Receipt
from shipper.log import fields
from shipper.replay.plan import ReplayPart, rejected_in
from shipper.replay.source import carries, records_in
from shipper.replay.verify import pieces_of
from shipper.sinks import Batch, ResolvesIdentity, Sink, Volatile
from shipper.sinks.outcome import Disposition, Outcome
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

log = logging.getLogger(__name__)

_HINT = "run the same command again to resume"

TURN_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class ReplayContext:
    """The dependencies of a replay."""

    ledger: Ledger
    config: Config
    sinks: Mapping[str, Sink]
    now: Callable[[], float]
    stop: threading.Event
    rate: float | None  # records a second at most; None: as fast as the receiver takes them


def carry_out(
    parts: Sequence[ReplayPart],
    context: ReplayContext,
    delivered: Callable[[ReplayPart, int], None],
) -> list[Receipt]:
    """Send every part and return their receipts; `delivered` reports progress in records, or 0.

    A receipt counts what was sent; rejected records become dead letters. A part whose source
    fails is logged and has no receipt, the others continue. When stopped, the rest have none.
    Until `Ledger.end_replays` has the receipts of all parts, the same command resumes: records
    that were sent are not sent again.
    """
    for sink in context.sinks.values():
        _close_dead_letters(sink, context.ledger)
    receipts = []
    for part in parts:
        context.ledger.begin_replay(part.spool, part.entry)
        try:
            if not _send(part, context, delivered):
                break
            rejected = rejected_in(context.ledger, part.spool, part.sink)
            receipts.append(receipt_of(part, rejected))
        except (SpoolError, OSError) as error:
            log.error(
                "source failed, its remaining records were not sent",
                extra=fields(
                    spool=part.spool, path=part.source.directory, detail=error, hint=_HINT
                ),
            )
    return receipts


def _close_dead_letters(sink: Sink, ledger: Ledger) -> None:
    """From now on, close the dead letters of the records that `sink` delivers."""
    send = sink.send
    kept = {
        (row["spool"], row["seq"]): row["id"]
        for row in ledger.dead_letters()
        if row["sink"] == sink.name and row["state"] == "kept"
    }

    def send_and_close(batch: Batch, identity: Identity, attempt: int) -> Outcome:
        outcome = send(batch, identity, attempt)
        if outcome.disposition is Disposition.DELIVERED:
            numbers = [kept.get((identity.spool, seq)) for seq in batch.seqs]
            ledger.resolve_dead_letters([one for one in numbers if one is not None], "delivered")
        return outcome

    if kept:
        sink.send = send_and_close  # type: ignore[method-assign]


def receipt_of(part: ReplayPart, rejected: Collection[int] = ()) -> Receipt:
    """Count and digest what was sent, whole (`Receipt`) and in ranges (`pieces_of`).

    `rejected` has the seqs of the records that the receiver did not accept.
    """
    digest, count = hashlib.sha256(), 0
    first = last = 0

    def counted() -> Iterator[Stored]:
        nonlocal count, first, last
        for stored in records_in(part.source):
            if carries(part.kinds, stored.kind) and stored.seq not in rejected:
                digest.update(stored.seq.to_bytes(8, "big") + stored.kind.encode() + stored.body)
                count += 1
                first, last = first or stored.seq, stored.seq
                yield stored

    pieces = tuple(pieces_of(counted()))
    return Receipt(
        spool=part.spool,
        entry=part.entry,
        directory=str(part.source.directory.absolute()),
        first=first,
        last=last,
        records=count,
        digest=digest.hexdigest(),
        pieces=pieces,
        kinds=part.kinds,
    )


def _send(
    part: ReplayPart, context: ReplayContext, delivered: Callable[[ReplayPart, int], None]
) -> bool:
    """Whether the part was sent to its end."""
    sink = context.sinks[part.sink]
    make: type[Pipeline] = AtMostOncePipeline if isinstance(sink, Volatile) else Pipeline
    identity = part.source.identity
    if isinstance(sink, ResolvesIdentity):
        identity = sink.resolve(identity, context.ledger, alive=False)
    pipeline = make(
        reader=part.source,
        identity=identity,
        sink=sink,
        context=DeliveryContext(ledger=context.ledger, config=context.config),
        entry=part.entry,
        closed=True,
    )
    state = SinkState(part.sink, context.now)
    while not context.stop.is_set():
        begun = context.now()
        pace = begun if context.rate else begun + TURN_SECONDS
        progress = pipeline.turn(now=context.now, until=pace, owned=False, flush_all=True)
        sent = pipeline.take_delivered()
        if sent:
            state.succeeded()
        delivered(part, sent)
        if progress.failure is not None:
            context.stop.wait(state.failed(progress.failure))
        elif progress.at_end:
            return True
        elif context.rate and sent:
            context.stop.wait(max(0.0, sent / context.rate - (context.now() - begun)))
    return False

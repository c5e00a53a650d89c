"""Sends dead letters again, through the pipelines of the service.

They go out of order: what a process has recorded since of the same steps would be replaced by older
values. Such letters are kept. Of a receiver that fails, no letter is tried after the first ones.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.config.schema import Config
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.delivery.policy import Blame
from shipper.delivery.readable import ClosedRange
from shipper.delivery.resend import AtMostOncePipeline
from shipper.ledger.ledger import CommitDelta, Ledger, Position
from shipper.replay.find import FoundSource, remembered
from shipper.replay.newer import NewerSteps, RecordedStep, replaced
from shipper.sinks import Batch, HasDestination, Overwrites, ResolvesIdentity, Sink, Volatile
from shipper.sinks.outcome import DELIVERED, Disposition, Outcome, retry
from shipper.steps import Rejected
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk, Reader, Stored

Row = Mapping[str, Any]
_READ_BYTES = 512 * 1024  # of bodies that are read at once

_UNKNOWN = retry(
    "unknown",
    "its sink is not configured, or its spool is not in the ledger. What a replay left is sent when"
    " the same replay runs again",
)
_NEWER = retry(
    "newer-values",
    "a later record has the same step. --overwrite-newer sends this one nevertheless",
)
_NOT_TRIED = retry("not-tried", "its receiver has just failed. Retry when it answers")
_NOTHING = Outcome(disposition=Disposition.DELIVERED, reason="nothing to send")


@dataclass(frozen=True, kw_only=True)
class RetryContext:
    """The dependencies of a retry."""

    ledger: Ledger
    config: Config
    sinks: Mapping[str, Sink]
    overwrite_newer: bool = False
    now: Callable[[], float] = time.monotonic


def retry_letters(rows: Sequence[Row], context: RetryContext) -> dict[int, Outcome]:
    """Send these dead letters; those delivered are closed, the others stay as they are.

    Returns what became of each, by its number.
    """
    spools = {row["id"]: row for row in context.ledger.spools()}
    known = {spool: _source(row, context.ledger) for spool, row in spools.items()}
    newer = NewerSteps(list(known.values()), context.config.keys_of_steps)
    failing: dict[str, Blame] = defaultdict(Blame)
    outcomes: dict[int, Outcome] = {}
    for (spool, name), letters in _by_spool(rows, known).items():
        sink = context.sinks.get(name)
        if sink is None or spool not in known:
            outcomes |= dict.fromkeys((row["id"] for row in letters), _UNKNOWN)
            continue
        source = known[spool]
        if isinstance(sink, Overwrites) and not context.overwrite_newer:
            stale = _stale(source, newer, letters, context.ledger)
            outcomes |= dict.fromkeys(stale, _NEWER)
            letters = [row for row in letters if row["id"] not in stale]
        if letters:
            outcomes |= _send(sink, source.identity, letters, context, failing)
    return {row["id"]: outcomes[row["id"]] for row in rows}


def _by_spool(
    rows: Sequence[Row], known: Mapping[str, FoundSource]
) -> dict[tuple[str, str], list[Row]]:
    """The letters of each spool and sink in order, those of older spools first."""

    def age(row: Row) -> tuple[float, str, int]:
        source = known.get(row["spool"])
        return (source.identity.created if source else 0.0), row["spool"], row["seq"]

    groups = defaultdict(list)
    for row in sorted(rows, key=age):
        groups[row["spool"], row["sink"]].append(row)
    return groups


def _source(row: Row, ledger: Ledger) -> FoundSource:
    identity = remembered(Identity.from_map(row["identity"]), ledger)
    place = Path(row["directory"])
    return FoundSource(reader=Reader(place), place=place, identity=identity, live=True)


# --- what is newer --------------------------------------------------------------------------------


def _stale(
    source: FoundSource, newer: NewerSteps, letters: Sequence[Row], ledger: Ledger
) -> set[int]:
    """Numbers of the letters whose values a later record may have replaced."""
    steps = {
        row["seq"]: RecordedStep.of(_stored(row, ledger), newer.step_keys)
        for row in letters
        if row["kind"] == "step"
    }
    stale: set[int] = set()
    if steps and not all(_is_whole(later, ledger) for later in newer.later(source)):
        stale = {*steps}  # which steps were in the files that are deleted is not known
    elif steps:
        later = newer.than(source)
        stale = {
            seq for seq, one in steps.items() if later.get(one.own_names, set()) & one.rows.keys()
        }
        with suppress(SpoolError, OSError):  # its files are gone; its steps do not go back
            stale |= replaced(source.reader, steps, newer.step_keys)
    return {row["id"] for row in letters if row["seq"] in stale}


def _is_whole(source: FoundSource, ledger: Ledger) -> bool:
    """Whether every record of a spool is on disk."""
    try:
        first = source.reader.first_seq() if isinstance(source.reader, Reader) else 1
    except (SpoolError, OSError):
        return False
    return first == 1 or not (first or any(one["seq"] for one in ledger.positions(source.spool)))


# --- the way out ----------------------------------------------------------------------------------


def _send(
    sink: Sink,
    identity: Identity,
    letters: Sequence[Row],
    context: RetryContext,
    failing: dict[str, Blame],
) -> dict[int, Outcome]:
    """The outcome of each of the letters of one spool for one sink."""
    if isinstance(sink, ResolvesIdentity):
        identity = sink.resolve(identity, context.ledger, alive=False)
    key = sink.ordering_key(identity)
    where = sink.destination(identity) if isinstance(sink, HasDestination) else key
    blame = failing[f"{sink.name} {where}"]
    if key in blame.witnesses | blame.alone or len(blame.witnesses) > 1:
        return dict.fromkeys((row["id"] for row in letters), _NOT_TRIED)
    make = _VolatileLetterPipeline if isinstance(sink, Volatile) else _LetterPipeline
    pipeline = make(
        letters=letters,
        reader=ClosedRange(reader=_Letters(letters, context.ledger), through=letters[-1]["seq"]),
        identity=identity,
        sink=sink,
        context=DeliveryContext(ledger=context.ledger, config=context.config),
        entry=f"{sink.name}~letters",
        closed=True,
    )
    ended = pipeline.turn(now=context.now, until=math.inf, owned=False, flush_all=True)
    if pipeline.take_delivered():
        blame.succeeded(key)
    if ended.failure is not None:
        blame.failed(key)
    return pipeline.close(ended.failure)


class _Letters:
    """The bodies of dead letters as the records that they are."""

    def __init__(self, letters: Sequence[Row], ledger: Ledger) -> None:
        self.directory = ledger.directory
        self._letters = letters
        self._ledger = ledger

    def last_seq(self) -> int:
        return int(self._letters[-1]["seq"])

    def read(self, after: int, limit: int) -> Chunk:
        records: list[Stored] = []
        size = 0
        for row in self._letters:
            if row["seq"] > after and len(records) < limit and size < _READ_BYTES:
                records.append(_stored(row, self._ledger))
                size += len(records[-1].body)
        through = records[-1].seq if records else after
        at_end = through >= self.last_seq()
        return Chunk(records=tuple(records), damage=(), through=through, at_end=at_end)


class _LetterPipeline(Pipeline):
    """Closes the letters that are delivered. Their states are its position: none is saved."""

    def __init__(self, *, letters: Sequence[Row], **given: Any) -> None:
        self._numbers = {row["seq"]: row["id"] for row in letters}
        self._outcomes: dict[int, Outcome] = {}
        super().__init__(**given)

    def close(self, failure: Outcome | None) -> dict[int, Outcome]:
        """What became of each letter; `failure` is that of the first one that was not sent."""
        rest = self._numbers.values() - self._outcomes.keys()
        if failure is None:
            self._ledger.resolve_dead_letters(rest, "delivered")
        return self._outcomes | dict.fromkeys(rest, failure or _NOTHING)

    def _commit(self, batch: Batch | None = None, *, delivered: int = 0, **counts: Any) -> None:
        if batch is not None and delivered:
            numbers = [self._numbers[seq] for seq in batch.seqs]
            self._ledger.resolve_dead_letters(numbers, "delivered")
            self._outcomes |= dict.fromkeys(numbers, DELIVERED)
        super()._commit(batch, delivered=delivered, **counts)

    def _save_position(self, position: Position, delta: CommitDelta) -> None:
        """Nothing."""

    def _drop(self, batch: Batch, outcome: Outcome) -> None:
        self._outcomes |= dict.fromkeys((self._numbers[seq] for seq in batch.seqs), outcome)
        super()._drop(batch, outcome)

    def _add_dead_letters(self, rejected: Sequence[Rejected]) -> None:
        for one in rejected:
            self._outcomes[self._numbers[one.stored.seq]] = Outcome(
                disposition=Disposition.PERMANENT, reason=one.reason, detail=one.detail
            )


class _VolatileLetterPipeline(_LetterPipeline, AtMostOncePipeline):
    """To a receiver that may get nothing twice."""


def _stored(row: Row, ledger: Ledger) -> Stored:
    body = ledger.dead_letter_body(row["id"]) or b""
    return Stored(seq=row["seq"], kind=row["kind"], body=body)

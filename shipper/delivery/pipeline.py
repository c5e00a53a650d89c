"""One spool to one sink: read, plan, send, acknowledge.

The order of two lines is the guarantee: `sink.send` returns delivered, then the ledger is written.
A crash between the two repeats one request and loses nothing.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from shipper.config.schema import Config
from shipper.delivery.events import PipelineEvents
from shipper.delivery.large import READ_BYTES, LargeRecordBusy, LargeRecordPlace, LargeRecords
from shipper.delivery.policy import RefusalBrake
from shipper.delivery.readable import Readable
from shipper.ledger.ledger import CommitDelta, DeadLetter, Gap, Ledger, Position
from shipper.sinks import Batch, ExitNotice, PlanInput, Sink
from shipper.sinks.outcome import TIMEOUT, UNKNOWN_WORKLOAD, Disposition, Outcome
from shipper.steps import Rejected, Skipped, cut_off
from spooler.errors import BodyUnreadable
from spooler.records import REGISTRY as KINDS
from spooler.records import gap as gap_record
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk, Stored

# Records read at once: enough for several requests, little enough for a thousand spools.
READ_RECORDS = 500
_NONE: AbstractSet[int] = frozenset()
LARGE_SECONDS = 0.5  # until a large record that found no place tries again
_REASON_CHARACTERS = 64  # of a gap, as far as they are kept
# How long a workload may be unknown to the receiver while its job runs, and after it has ended.
UNKNOWN_ALIVE_SECONDS = 600.0
UNKNOWN_ENDED_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnResult:
    """How a turn ended.

    `failure` is set when a batch was not delivered and has to be retried; `more` when there is work
    left that could go on at once; `wait` seconds until pending steps are due.
    """

    more: bool = False
    failure: Outcome | None = None
    wait: float | None = None
    at_end: bool = False


@dataclass(frozen=True, kw_only=True)
class DeliveryContext:
    """What the pipelines of a service share.

    `planning`: records are decoded and encoded by one thread at a time, for their memory.
    """

    ledger: Ledger
    config: Config
    planning: threading.Lock = field(default_factory=threading.Lock)
    large: LargeRecords = field(default_factory=LargeRecords)


class Pipeline:
    """The state of one spool for one sink; used by one thread at a time.

    Without a dictionary of its own: a service has three for each of thousands of spools.
    """

    __slots__ = (
        "_at_end",
        "_attempt",
        "_batches",
        "_closed",
        "_context",
        "_delivered",
        "_entry",
        "_events",
        "_failed",
        "_large",
        "_ledger",
        "_owned",
        "_pending",
        "_rejected",
        "_since",
        "_skip",
        "_skipped",
        "_split",
        "_stored",
        "_through",
        "_unknown_since",
        "_unread",
        "brake",
        "flush_seconds",
        "identity",
        "news",
        "position",
        "reader",
        "sink",
    )

    def __init__(
        self,
        *,
        reader: Readable,
        identity: Identity,
        sink: Sink,
        context: DeliveryContext,
        entry: str = "",
        closed: bool = False,
    ) -> None:
        """`entry` names the position in the ledger; the default is the sink's name.

        A `closed` range is sent as it is: how its process ended is not reported.
        """
        self.reader = reader
        self.identity = identity
        self.sink = sink
        self.brake = RefusalBrake()
        self.flush_seconds = context.config.seconds_to_flush(identity)
        self._context = context
        self._ledger = context.ledger
        self._entry = entry or sink.name
        self._closed = closed
        self._large = LargeRecordPlace(context.large)
        self._skip = _kinds_to_skip(sink.kinds)
        self._events = PipelineEvents(spool=identity.spool, sink=sink.name, path=reader.directory)
        self._unknown_since: float | None = None  # monotonic; the receiver knows no such workload
        self._owned = True
        self._delivered = 0
        self._since: dict[int, float] = {}  # pending step -> monotonic seconds when first seen
        self._attempt = (0, 0)  # first seq of the current batch, attempts to send it
        self.news: Chunk | None = None  # for the next turn: what the spool has grown by
        self._failed = False  # the last turn: perhaps it was saved only in part
        self.reset()

    def reset(self) -> None:
        """Continue from the position in the ledger, which something else may have moved."""
        spool = self.identity.spool
        self.position = self._ledger.position(spool, self._entry)
        # A rejected record is final, also if its position could not be saved.
        rejected = () if self._closed else self._ledger.rejected_beyond(spool, self._entry)
        self._rejected: AbstractSet[int] = frozenset(rejected) if rejected else _NONE
        self._batches: list[Batch] = []
        self._split = False  # the batches are halves of one that was rejected
        self._stored: dict[int, Stored] = {}
        self._skipped: list[Skipped] = []
        self._unread: list[tuple[int, int]] = []  # seqs of records that the reader has skipped
        self._pending: tuple[int, ...] = ()
        self._since.clear()
        self._through = self.position.seq
        self._at_end = False

    def turn(
        self, *, now: Callable[[], float], until: float, owned: bool, flush_all: bool
    ) -> TurnResult:
        """Deliver until monotonic time `until`, the end of the spool, or a failure.

        `owned` tells whether the writer was alive before this turn; `flush_all` sends open steps
        without waiting for their next part.
        """
        if self._failed:
            self.reset()
        self._failed = True
        result = self._turn(now, until, owned=owned, flush_all=flush_all)
        self._failed = False
        return result

    def _turn(
        self, now: Callable[[], float], until: float, *, owned: bool, flush_all: bool
    ) -> TurnResult:
        self._at_end = False  # what was written since lies behind what is still held here
        self._owned = owned
        try:
            while True:
                before = self.position
                if not self._batches:
                    self._load(now(), ended=flush_all or not owned)
                failure = self._deliver_all(now, until)
                if failure is None and self._at_end and not self._batches and not self._pending:
                    failure = self._report_unclean_exit()
                if failure is not None:
                    return TurnResult(failure=failure)
                if self._at_end and not self._batches:
                    return TurnResult(wait=self._wait(now()), at_end=not self._pending)
                if now() >= until:
                    return TurnResult(more=True)
                if self.position == before:
                    # The whole chunk waits for one open step: come back when that is due.
                    return TurnResult(wait=self._wait(now()))
        except LargeRecordBusy:
            return TurnResult(wait=LARGE_SECONDS)
        finally:
            self._large.release()
            self.news = None
            if not self._split:
                # Keep nothing between turns that can be read again: there may be 1000 pipelines.
                self._batches.clear()
                self._stored = {}

    def pass_over(self, news: Chunk) -> bool:
        """Go past records of which the sink takes none; whether it could.

        Only between turns, and only of a pipeline that is at its end.
        """
        rest = self._beyond(news)
        if rest is None or self._failed or any(one.kind not in self._skip for one in rest):
            return False
        self._failed = True
        self._through, self._unread = news.through, [(self.position.seq + 1, news.through)]
        self._commit()
        self._failed = False
        return True

    def _beyond(self, news: Chunk) -> tuple[Stored, ...] | None:
        """The records beyond the position; None if not all that follow it are in `news`."""
        count = news.through - self.position.seq
        known = len(news.records)
        return news.records[known - count :] if 0 <= count <= known else None

    def linger_seconds(self) -> float | None:
        """Seconds after which it wants a turn though nothing is new; None: it does not."""
        return None

    def take_delivered(self) -> int:
        """Records delivered since the last call."""
        delivered, self._delivered = self._delivered, 0
        return delivered

    def _wait(self, now: float) -> float | None:
        if not self._since:
            return None
        return max(0.0, min(self._since.values()) + self.flush_seconds - now)

    # --- in ---------------------------------------------------------------------------------------

    def _load(self, now: float, *, ended: bool) -> None:
        """Read and plan the next chunk; acknowledge at once what needs no sending."""
        chunk = self._take_news() or self._read(self.position.seq, self._skip)
        self._note_damage(chunk)
        deleted = self._note_gaps(chunk)
        kinds = self.sink.kinds
        records = [one for one in chunk.records if kinds is None or one.kind in kinds]
        for final in (self.position.acked_seqs, self._rejected):
            records = [one for one in records if one.seq not in final] if final else records
        given = PlanInput(
            identity=self.identity,
            records=records,
            ended=ended and chunk.at_end,
            deleted=deleted,
            step_keys=self._context.config.keys_of_steps,
            waited=frozenset(
                seq for seq, since in self._since.items() if now - since >= self.flush_seconds
            ),
        )
        with self._context.planning:
            plan = self.sink.plan(given)
        self._add_dead_letters(plan.rejected)
        self._batches.extend(plan.batches)
        self._skipped = list(plan.skipped)
        if kinds is not None:
            self._skipped += [Skipped(one.seq) for one in chunk.records if one.kind not in kinds]
        self._unread = list(chunk.skipped)
        self._through = chunk.through
        self._at_end = chunk.at_end
        self._pending = plan.pending
        self._since = {seq: self._since.get(seq, now) for seq in plan.pending}
        self._stored = {stored.seq: stored for stored in records}
        if not self._batches:
            self._commit()
        self._large.is_read()

    def _read(self, after: int, skip: AbstractSet[str] = frozenset()) -> Chunk:
        """The next chunk; one large record is a chunk of its own.

        Raises:
            LargeRecordBusy: the next record is large and has to wait.
        """
        chunk = self.reader.read(after, READ_RECORDS, skip, READ_BYTES)
        salvaged = any(len(stored.body) > READ_BYTES for stored in chunk.records[:1])
        if not chunk.large and not salvaged:
            return chunk
        del chunk
        self._large.take()
        return self.reader.read(after, 1, skip)

    def _take_news(self) -> Chunk | None:
        """What the poller has just read; None once the writer is gone, as it may lack the last."""
        news, self.news = self.news, None
        rest = self._beyond(news) if news is not None and self._owned else None
        return replace(news, records=rest) if news is not None and rest is not None else None

    def _note_damage(self, chunk: Chunk) -> None:
        for damage in chunk.damage:
            if self._ledger.add_damage(self.identity.spool, self._entry, damage):
                self._events.damaged(damage)

    def _note_gaps(self, chunk: Chunk) -> dict[int, int]:
        """Store what gaps report; of gaps of deleted records, how many are missing here."""
        deleted = {}
        for stored in chunk.records:
            gap = gap_of(self.identity.spool, stored) if stored.kind == "gap" else None
            if gap is None:
                continue
            self._ledger.add_gap(gap)
            if gap.first:
                deleted[stored.seq] = self._ledger.lost_in(gap, self._entry)
        return deleted

    # --- out --------------------------------------------------------------------------------------

    def _deliver_all(self, now: Callable[[], float], until: float) -> Outcome | None:
        while self._batches:
            failure = self._deliver(self._batches[0], now)
            if failure is not None:
                if not self._stays_unknown(failure, now()):
                    return failure
                self._reject(self._batches[0], failure)
            if now() >= until:
                break
        self._split = self._split and bool(self._batches)
        return None

    def _deliver(self, batch: Batch, now: Callable[[], float]) -> Outcome | None:
        """Send one batch and acknowledge it; the outcome if it must be retried."""
        attempt = self._attempt[1] + 1 if self._attempt[0] == batch.first else 1
        self._attempt = (batch.first, attempt)
        outcome = self._send(batch, attempt)
        if outcome.disposition is Disposition.DELIVERED:
            self._events.delivered(outcome)
            self._batches.pop(0)
            self.brake.delivered()
            self._unknown_since = None
            self._commit(batch, delivered=len(batch.seqs), requests=1, rejected=outcome.rejected)
            self._delivered += len(batch.seqs)
            return None
        if outcome.disposition is Disposition.SPLIT:
            if batch.split is not None:
                self._batches.pop(0)
                self._batches[:0] = batch.split()
                self._split = True
                self._attempt = (0, 0)
                # Halves of what took too long go out after a wait: the receiver may be busy.
                return outcome if outcome.reason == TIMEOUT else None
            if outcome.ambiguous:
                return outcome
        if outcome.disposition is Disposition.RETRY:
            return outcome
        if outcome.disposition is Disposition.DROPPED:
            self._drop(batch, outcome)
            return None
        stopped = self.brake.stop(outcome, now())
        if stopped is None:
            self._reject(batch, outcome)
        return stopped

    def _send(self, batch: Batch, attempt: int) -> Outcome:
        return self.sink.send(batch, self.identity, attempt)

    def _stays_unknown(self, outcome: Outcome, now: float) -> bool:
        """Whether a workload has been unknown for so long that it will stay so.

        A young job may not be indexed yet; one that has ended has left the index permanently.
        """
        if outcome.reason != UNKNOWN_WORKLOAD:
            return False
        if self._unknown_since is None:
            self._unknown_since = now
        limit = UNKNOWN_ALIVE_SECONDS if self._owned else UNKNOWN_ENDED_SECONDS
        return now - self._unknown_since >= limit

    def _report_unclean_exit(self) -> Outcome | None:
        """After the last record of a process that died: report that to the sink, once."""
        spool = self.identity.spool
        reported = self._ledger.is_unclean_exit_reported
        if self._owned or self._closed or reported(spool, self._entry):
            return None
        unclean = self.reader.is_unclean()
        if unclean is None:
            return None
        # Stored even where there is nothing to report: a program that has replaced its own image
        # (exec) looks like one that was killed as soon as its process ends.
        last = self.reader.last_seq()
        keys = self._context.config.keys_of_steps
        steps = cut_off(self._tail(last), keys) if unclean else ()
        batches: tuple[Batch, ...] = ()
        if steps and isinstance(self.sink, ExitNotice):
            batches = self.sink.exit_notice(steps, self.identity)
        for batch in batches:
            outcome = self._send(batch, 1)
            if outcome.disposition is Disposition.RETRY:
                return outcome
        if batches:
            self._events.unclean_exit(steps, last)
        self._ledger.mark_unclean_exit_reported(spool, self._entry)
        return None

    def _tail(self, last: int) -> Iterator[Stored]:
        """The last records."""
        after, chunk = max(0, last - READ_RECORDS), None
        while chunk is None or (not chunk.at_end and chunk.through > after):
            after = after if chunk is None else chunk.through
            chunk = self._read(after)
            yield from chunk.records

    def _reject(self, batch: Batch, outcome: Outcome) -> None:
        """Keep the records of a rejected batch as dead letters and go past them."""
        self._add_dead_letters(
            [
                Rejected(stored=self._stored[seq], reason=outcome.reason, detail=outcome.detail)
                for seq in batch.seqs
            ]
        )
        self._batches.pop(0)
        self._commit(batch, requests=1)

    def _drop(self, batch: Batch, outcome: Outcome) -> None:
        """Go past a batch that a rule of its sink drops."""
        self._events.dropped(batch.first, outcome)
        self._batches.pop(0)
        self._commit(batch, dropped=outcome.reason)

    def _add_dead_letters(self, rejected: Sequence[Rejected]) -> None:
        """Keep rejected records; one line in the log for all of them."""
        new = [
            one
            for one in rejected
            if self._ledger.add_dead_letter(
                DeadLetter(
                    spool=self.identity.spool,
                    sink=self.sink.name,
                    seq=one.stored.seq,
                    kind=one.stored.kind,
                    body=one.stored.body,
                    reason=one.reason,
                    detail=one.detail,
                )
            )
        ]
        if new:
            self._events.rejected(new, self._ledger.directory)

    def _commit(
        self,
        batch: Batch | None = None,
        *,
        delivered: int = 0,
        requests: int = 0,
        rejected: int = 0,
        dropped: str = "",
    ) -> None:
        """Save how far this sink has acknowledged, now that `batch` is done with."""
        waiting = [other.first for other in self._batches]
        waiting.extend(self._pending)
        seq = min(waiting) - 1 if waiting else self._through
        by_run = dict(self.position.acked_by_run)
        acked = set(self.position.acked_seqs)
        if batch is not None:
            by_run[batch.run] = batch.last
            acked.update(batch.seqs)
        acked.update(one.seq for one in self._skipped if seq < one.seq <= by_run.get(one.run, 0))
        position = Position(acked_by_run=by_run, acked_seqs=frozenset(acked)).beyond(seq)
        if position == self.position:
            return
        left = [one for one in self._skipped if one.seq > max(seq, by_run.get(one.run, 0))]
        notes = Counter(batch.counts if batch is not None and delivered else {})
        notes["left_out"] += sum(one.left_out for one in self._skipped)
        notes["left_out"] -= sum(one.left_out for one in left)
        unread = sum(min(last, seq) - first + 1 for first, last in self._unread if first <= seq)
        delta = CommitDelta(
            delivered=delivered,
            skipped=len(self._skipped) - len(left) + unread,
            requests=requests,
            rejected=rejected,
            dropped={dropped: len(batch.seqs)} if dropped and batch else {},
            **notes,
        )
        self._save_position(position, delta)
        self._skipped = left
        self._unread = [(max(first, seq + 1), last) for first, last in self._unread if last > seq]
        self.position = position

    def _save_position(self, position: Position, delta: CommitDelta) -> None:
        self._ledger.acknowledge(self.identity.spool, self._entry, position, delta)


@functools.cache
def _kinds_to_skip(kinds: frozenset[str] | None) -> AbstractSet[str]:
    """A gap is reported to every sink; kinds that are unknown here are verified and skipped."""
    return KINDS.keys() - (KINDS.keys() if kinds is None else {*kinds, "gap"})


def gap_of(spool: str, stored: Stored) -> Gap | None:
    """What a gap record reports; None when it cannot be understood."""
    try:
        record = gap_record.decode(codec.unpack(stored.body))
    except BodyUnreadable:
        return None
    if not 0 <= record.count < 2**53:
        return None
    first, last = record.deleted or (0, 0)
    reason = record.reason[:_REASON_CHARACTERS]
    return Gap(
        spool=spool, seq=stored.seq, reason=reason, count=record.count, first=first, last=last
    )

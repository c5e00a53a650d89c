"""One spool on its way to one sink: read, plan, send, acknowledge. The whole way out is here.

The order of two lines is the guarantee: `sink.send` returns delivered, then the ledger is written.
A death between the two repeats one request and loses nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shipper.config.schema import Config
from shipper.delivery.contents import Contents
from shipper.delivery.events import Telling
from shipper.delivery.turnstile import Turnstile
from shipper.ledger.ledger import DeadLetter, Gap, Ledger, Position, Settled
from shipper.sinks import Batch, ExitNotice, PlanInput, Sink
from shipper.sinks.outcome import TIMEOUT, UNKNOWN_WORKLOAD, Disposition, Outcome
from shipper.steps import Rejected, Skipped, Step, cut_off
from spooler.errors import BodyUnreadable
from spooler.records import gap as gap_record
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk, Stored

# Records read at once: enough for several requests, little enough for a thousand spools.
READ_RECORDS = 500
_REASON_CHARACTERS = 64  # of a gap, as far as they are kept
# How long a workload may be unknown to the receiver while its job runs, and after it has ended.
UNKNOWN_ALIVE_SECONDS = 600.0
UNKNOWN_ENDED_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How a turn ended.

    `failure` is set when a batch was not delivered and has to be tried again; `more` when there
    is work left that could go on at once; `wait` seconds until held steps are due.
    """

    more: bool = False
    failure: Outcome | None = None
    wait: float | None = None
    at_end: bool = False


class Records(Protocol):
    """Records in order: a spool, a closed range of one, or a foreign file."""

    @property
    def directory(self) -> Path:
        """Where they lie."""

    def read(self, after: int, limit: int) -> Chunk:
        """At most `limit` records with a seq above `after`, in order."""

    def last_seq(self) -> int:
        """Seq of the last record there is."""


class Readable(Records, Protocol):
    """What a route reads from."""

    def first_seq(self) -> int:
        """Seq of the first record there is, 0 without any."""

    def is_drained(self, position: int) -> bool:
        """Whether everything can be read and nothing lies beyond `position`."""

    def is_owned(self) -> bool:
        """Whether a process is writing it."""

    def is_unclean(self) -> bool | None:
        """Whether that process died without ending it; None while that is not known."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """What the routes of a service share; no `contents` where a reader leaves records out."""

    ledger: Ledger
    config: Config
    turnstile: Turnstile = field(default_factory=Turnstile)
    contents: Contents | None = None


class Route:
    """The state of one spool for one sink; used by one thread at a time."""

    tells_end = True  # whether the sink is told when the process ended without a goodbye

    def __init__(
        self,
        *,
        reader: Readable,
        identity: Identity,
        sink: Sink,
        together: Together,
        entry: str = "",
    ) -> None:
        """`entry` is the name of the position in the ledger, the sink's own unless given."""
        self.reader = reader
        self.identity = identity
        self.sink = sink
        self._ledger = ledger = together.ledger
        self._unknown_since: float | None = None  # monotonic; the receiver knows no such workload
        self._owned = True
        self.flush_seconds = together.config.seconds_to_flush(identity)
        self._together = together
        self._entry = entry or sink.name
        self.position = ledger.position(identity.spool, self._entry)
        self._tell = Telling(spool=identity.spool, sink=sink.name, path=reader.directory)
        self._delivered = 0
        self._parcels: deque[Batch] = deque()
        self._split = False  # the batches are halves of one that was refused
        self._through = self.position.seq
        self._held: tuple[int, ...] = ()
        self._since: dict[int, float] = {}  # held step -> monotonic seconds when first seen
        self._bodies: dict[int, Stored] = {}
        self._passed: list[Skipped] = []
        self._skipped = 0  # records that were passed without being read
        self._tries = (0, 0)  # first seq of the batch in hand, attempts at it
        self._at_end = False

    def turn(
        self, *, now: Callable[[], float], until: float, owned: bool, flush_all: bool
    ) -> Progress:
        """Move on until monotonic time `until`, the end of the spool, or a failure.

        `owned` tells whether the writer was alive before this turn; `flush_all` sends open steps
        without waiting for their next part.
        """
        self._at_end = False  # whoever wrote meanwhile wrote after what is still in hand
        self._owned = owned
        try:
            while True:
                before = self.position
                if not self._parcels:
                    self._load(now(), ended=flush_all or not owned)
                failure = self._deliver_all(now, until)
                if failure is None and self._at_end and not self._parcels and not self._held:
                    failure = self._tell_cut_off()
                if failure is not None:
                    return Progress(failure=failure)
                if self._at_end and not self._parcels:
                    return Progress(wait=self._wait(now()), at_end=not self._held)
                if now() >= until:
                    return Progress(more=True)
                if self.position == before:
                    # The whole stretch waits for one open step: come back when that is due.
                    return Progress(wait=self._wait(now()))
        finally:
            self._drop_ballast()

    def lingers(self) -> float | None:
        """Seconds after which it wants a turn though nothing is new; None: it does not."""
        return None

    def resume(self) -> None:
        """Go on from where the ledger says: it was moved by another hand than this one's."""
        self.position = self._ledger.position(self.identity.spool, self._entry)
        self._parcels.clear()
        self._split = False
        self._bodies, self._passed = {}, []
        self._held, self._since = (), {}
        self._through = self.position.seq
        self._at_end = False

    def take_delivered(self) -> int:
        """Records delivered since the last call."""
        delivered, self._delivered = self._delivered, 0
        return delivered

    def _drop_ballast(self) -> None:
        """Between turns keep nothing that can be read again: there may be a thousand routes."""
        if self._split:
            return
        self._parcels.clear()
        self._bodies = {}

    # --- in ---------------------------------------------------------------------------------------

    def _skip(self) -> bool:
        """Go past what another lane has read and this sink has no use for."""
        wanted, before = self.sink.kinds, self.position
        contents = self._together.contents
        if contents is None or wanted is None or before.ahead or before.early:
            return False
        through = contents.without(self.identity.spool, before.seq, {*wanted, "gap"})
        self._through, self._skipped = through, through - before.seq
        return through > before.seq

    def _load(self, now: float, *, ended: bool) -> None:
        """Read the next stretch and plan it; settle at once what needs no sending."""
        with self._together.turnstile.alone():
            # In here: what is wanted is most often what the one in front has just read.
            if not self._skip():
                self._plan(now, ended=ended)
        if not self._parcels:
            self._settle(None, delivered=0, requests=0)

    def _plan(self, now: float, *, ended: bool) -> None:
        chunk = self.reader.read(self.position.seq, READ_RECORDS)
        self._note_damage(chunk)
        deleted = self._note_gaps(chunk)
        kinds, acked = self.sink.kinds, self.position.early
        taken = [
            one
            for one in chunk.records
            if one.seq not in acked and (kinds is None or one.kind in kinds)
        ]
        plan = self.sink.plan(
            PlanInput(
                identity=self.identity,
                records=taken,
                ended=ended and chunk.at_end,
                deleted=deleted,
                waited=frozenset(
                    seq for seq, since in self._since.items() if now - since >= self.flush_seconds
                ),
            )
        )
        self._bury(plan.rejected)
        self._parcels.extend(plan.batches)
        self._passed = list(plan.skipped)
        if kinds is not None:
            self._passed += [Skipped(one.seq) for one in chunk.records if one.kind not in kinds]
        self._through = chunk.through
        self._at_end = chunk.at_end
        self._held = plan.pending
        self._since = {seq: self._since.get(seq, now) for seq in plan.pending}
        self._bodies = {stored.seq: stored for stored in chunk.records}

    def _wait(self, now: float) -> float | None:
        if not self._since:
            return None
        return max(0.0, min(self._since.values()) + self.flush_seconds - now)

    # --- out --------------------------------------------------------------------------------------

    def _deliver_all(self, now: Callable[[], float], until: float) -> Outcome | None:
        while self._parcels:
            failure = self._deliver(self._parcels[0])
            if failure is not None and not self._is_hopeless(failure, now()):
                return failure
            if failure is not None:
                self._give_up(self._parcels[0], failure)
            if now() >= until:
                break
        self._split = self._split and bool(self._parcels)
        return None

    def _deliver(self, batch: Batch) -> Outcome | None:
        """Send one batch and settle it; the outcome if it must be tried again."""
        tries = self._tries[1] + 1 if self._tries[0] == batch.first else 1
        self._tries = (batch.first, tries)
        outcome = self._send(batch, tries)
        if outcome.disposition is Disposition.DELIVERED:
            self._tell.delivered(outcome)
            self._parcels.popleft()
            self._unknown_since = None
            self._settle(batch, delivered=len(batch.seqs), requests=1)
            self._delivered += len(batch.seqs)
            return None
        if outcome.disposition is Disposition.SPLIT:
            if batch.split is not None:
                self._parcels.popleft()
                self._parcels.extendleft(reversed(batch.split()))
                self._split = True
                self._tries = (0, 0)
                # Halves of what took too long go out after a wait: the receiver may be busy.
                return outcome if outcome.reason == TIMEOUT else None
            if outcome.ambiguous:
                return outcome
        if outcome.disposition is Disposition.RETRY:
            return outcome
        if outcome.disposition is Disposition.DROPPED:
            self._drop(batch, outcome)
        else:
            self._give_up(batch, outcome)
        return None

    def _send(self, batch: Batch, tries: int) -> Outcome:
        return self.sink.send(batch, self.identity, tries)

    def _is_hopeless(self, outcome: Outcome, now: float) -> bool:
        """Whether a workload has been unknown for so long that it will stay so.

        A young job may not be indexed yet; one that has ended has left the index for good.
        """
        if outcome.reason != UNKNOWN_WORKLOAD:
            return False
        if self._unknown_since is None:
            self._unknown_since = now
        patience = UNKNOWN_ALIVE_SECONDS if self._owned else UNKNOWN_ENDED_SECONDS
        return now - self._unknown_since >= patience

    def _tell_cut_off(self) -> Outcome | None:
        """After the last record of a process that died: say so to the sink, once."""
        if self._owned or not self.tells_end or self._is_told():
            return None
        unclean = self.reader.is_unclean()
        if unclean is None:
            return None
        # Written down even where there is nothing to say: a program that has replaced its own
        # image (exec) looks like one that was killed as soon as its process ends.
        steps = self._last_steps() if unclean else ()
        batches: tuple[Batch, ...] = ()
        if steps and isinstance(self.sink, ExitNotice):
            batches = self.sink.exit_notice(steps, self.identity)
        for batch in batches:
            outcome = self._send(batch, 1)
            if outcome.disposition is Disposition.RETRY:
                return outcome
        if batches:
            self._tell.cut_off(steps, self.reader.last_seq())
        self._ledger.cut_off_is_told(self.identity.spool, self._entry)
        return None

    def _is_told(self) -> bool:
        return self._ledger.is_cut_off_told(self.identity.spool, self._entry)

    def _last_steps(self) -> tuple[Step, ...]:
        """The last step of every run that was cut off; none after a goodbye."""
        last = self.reader.last_seq()
        return cut_off(self.reader.read(max(0, last - READ_RECORDS), READ_RECORDS).records)

    def _give_up(self, batch: Batch, outcome: Outcome) -> None:
        """Keep the records of a refused batch as dead letters and go past them."""
        self._bury(
            [
                Rejected(stored=self._bodies[seq], reason=outcome.reason, detail=outcome.detail)
                for seq in batch.seqs
            ]
        )
        self._parcels.popleft()
        self._settle(batch, delivered=0, requests=1)

    def _drop(self, batch: Batch, outcome: Outcome) -> None:
        """Go past a batch that a rule of its sink gives up."""
        self._tell.dropped(batch.first, outcome)
        self._parcels.popleft()
        self._settle(batch, delivered=0, requests=0, dropped=outcome.reason)

    def _settle(
        self, batch: Batch | None, *, delivered: int, requests: int, dropped: str = ""
    ) -> None:
        """Write down how far this sink is, now that `batch` is settled."""
        remaining = [p.first for p in self._parcels]
        remaining.extend(self._held)
        seq = min(remaining) - 1 if remaining else self._through
        ahead = dict(self.position.ahead)
        if batch is not None:
            ahead[batch.run] = batch.last
        early = {*self.position.early, *(batch.seqs if batch is not None else ())}
        early.update(p.seq for p in self._passed if seq < p.seq <= ahead.get(p.run, 0))
        position = Position(
            seq=seq,
            ahead={run: last for run, last in ahead.items() if last > seq},
            early=frozenset(number for number in early if number > seq),
        )
        if position == self.position:
            return
        left = [p for p in self._passed if p.seq > max(seq, ahead.get(p.run, 0))]
        notes = Counter(batch.counts if batch is not None and delivered else {})
        notes["left_out"] += sum(p.left_out for p in self._passed)
        notes["left_out"] -= sum(p.left_out for p in left)
        settled = Settled(
            delivered=delivered,
            passed=len(self._passed) - len(left) + self._skipped,
            requests=requests,
            dropped={dropped: len(batch.seqs)} if dropped and batch else {},
            **notes,
        )
        self._ledger.acknowledge(self.identity.spool, self._entry, position, settled)
        self._passed, self._skipped = left, 0
        self.position = position

    # --- what cannot be sent ----------------------------------------------------------------------

    def _bury(self, refused: Sequence[Rejected]) -> None:
        """Keep refused records; one line in the log for all of them."""
        new = [one for one in refused if self._ledger.bury(self._letter(one))]
        if new:
            self._tell.refused(new, self._ledger.directory)

    def _letter(self, refused: Rejected) -> DeadLetter:
        return DeadLetter(
            spool=self.identity.spool,
            sink=self.sink.name,
            seq=refused.stored.seq,
            kind=refused.stored.kind,
            body=refused.stored.body,
            reason=refused.reason,
            detail=refused.detail,
        )

    def _note_damage(self, chunk: Chunk) -> None:
        for damage in chunk.damage:
            if self._ledger.note_damage(self.identity.spool, self._entry, damage):
                self._tell.unreadable(damage)

    def _note_gaps(self, chunk: Chunk) -> dict[int, int]:
        """Remember what gaps tell; of those of deleted records, how many are missing here."""
        deleted = {}
        for stored in chunk.records:
            if stored.kind != "gap":
                continue
            gap = gap_of(self.identity.spool, stored)
            if gap is None:
                continue
            self._ledger.note_gap(gap)
            if gap.first:
                deleted[stored.seq] = self._ledger.lost_in(gap, self._entry)
        return deleted


def gap_of(spool: str, stored: Stored) -> Gap | None:
    """What a gap record tells; None when it cannot be understood."""
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


class ClosedRoute(Route):
    """A range that was closed long ago; what became of its process is no news."""

    tells_end = False

"""Delivery to a volatile receiver: what it lost in a restart is sent again to its next epoch.

A DLRover master keeps what it acknowledged in its memory and does not detect repetitions. So, for a
sink that is volatile:

- Before each batch the sink reports the epoch that the receiver is in. The ledger knows the epoch
  that has what this spool has delivered. If the receiver is in another one, it has lost that. All
  that the receiver would still keep is sent again, in order, before anything newer, with a position
  of its own (`<sink>~again~<epoch>`): after a crash the resend continues there.
- A batch that must not arrive twice is stored in the ledger as in flight before it is sent. If it
  is found there and not acknowledged (the answer was lost, or the service died), the same epoch may
  have it, so it is dropped as ambiguous. Another epoch cannot have it and gets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shipper.delivery.pipeline import Pipeline, TurnResult
from shipper.delivery.readable import ClosedRange, Readable
from shipper.ledger.ledger import CommitDelta, Position, ReceiverEpoch
from shipper.sinks import Batch, PlanInput, VolatileSink
from shipper.sinks.outcome import Disposition, Outcome
from shipper.steps import Rejected
from spooler.errors import BodyUnreadable
from spooler.spool import codec
from spooler.spool.reader import Chunk, Stored

# A record is written a little after the time in it.
_SLACK_SECONDS = 60.0
_STEP_BACK_RECORDS = 500

_AMBIGUOUS = Outcome(
    disposition=Disposition.DROPPED,
    reason="ambiguous",
    detail="it was sent and no answer came; sending it again could double it",
)


class ReceiverRestarted(Exception):
    """Raised when the receiver is not in the epoch that has what was delivered."""

    def __init__(self, epoch: str) -> None:
        super().__init__(epoch)
        self.epoch = epoch


def resend_entry(sink: str, epoch: str) -> str:
    """The name of the position of a resend to `epoch`."""
    return f"{sink}~again~{epoch}"


def is_resend(entry: str, sink: str) -> bool:
    """Whether a position's name is one of these."""
    return entry.startswith(resend_entry(sink, ""))


class AtMostOncePipeline(Pipeline):
    """A pipeline to a known epoch of the receiver, which gets no harmful batch twice."""

    __slots__ = ("_epoch", "_kept_until", "_key", "_receiver")

    def __init__(self, *, sink: VolatileSink, **given: Any) -> None:
        super().__init__(sink=sink, **given)
        self._receiver = sink
        self._key = f"lens-ship/{self._ledger.instance()}"
        self._epoch = self._ledger.epoch(self.identity.spool, self._entry)
        self._kept_until = 0.0  # monotonic seconds: the receiver forgets all of it then

    @property
    def epoch(self) -> str:
        """The epoch of the receiver that this sends to."""
        return self._epoch.name

    @property
    def kept_until(self) -> float:
        """When the receiver has forgotten all that was delivered, monotonic seconds."""
        return self._kept_until

    def _send(self, batch: Batch, attempt: int) -> Outcome:
        answer = self._receiver.handshake(batch, self.identity, self._key)
        if answer.outcome is not None:
            return answer.outcome
        self._enter(answer.epoch)
        once = not self._receiver.is_idempotent(batch)
        if once:
            in_flight = (self._epoch.in_flight, self._epoch.in_flight_epoch)
            if in_flight == (batch.first, answer.epoch):
                return _AMBIGUOUS
            self._save(in_flight=batch.first, in_flight_epoch=answer.epoch)
        outcome = super()._send(batch, attempt)
        if outcome.disposition is Disposition.DELIVERED:
            age = self._receiver.age(batch, self.identity) or 0.0
            until = time.monotonic() + self._receiver.receiver_retention - age
            self._kept_until = max(self._kept_until, until)
        elif once and outcome.disposition is Disposition.RETRY and not outcome.ambiguous:
            self._save(in_flight=0, in_flight_epoch="")
        return outcome

    def _enter(self, epoch: str) -> None:
        """This epoch is about to be sent to.

        Raises:
            ReceiverRestarted: another one has what was delivered, unless the range is closed.
        """
        if epoch in ("", self._epoch.name):
            return
        if self._epoch.name and not self._closed:
            raise ReceiverRestarted(epoch)
        self._save(name=epoch)

    def _save(self, **changes: Any) -> None:
        epoch = replace(self._epoch, **changes)
        self._ledger.save_epoch(self.identity.spool, self._entry, epoch)
        self._epoch = epoch


class ResendingPipeline(AtMostOncePipeline):
    """The live pipeline: sends again what the receiver has lost in a restart."""

    __slots__ = ("_probed", "_resend")

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._resend: _Resend | None = None
        self._probed = float("-inf")  # monotonic seconds
        if self._epoch.name:  # something was delivered, at an unknown time
            self._kept_until = time.monotonic() + self._receiver.receiver_retention

    def turn(
        self, *, now: Callable[[], float], until: float, owned: bool, flush_all: bool
    ) -> TurnResult:
        """Deliver; what the receiver has lost goes first."""
        try:
            if self._resend is None:
                self._probe_if_due(now())
                return super().turn(now=now, until=until, owned=owned, flush_all=flush_all)
        except ReceiverRestarted as restart:
            self._resend = self._begin(restart.epoch)
        return self._continue(self._resend, now, until)

    def linger_seconds(self) -> float | None:
        """The probe interval, as long as the receiver should keep something of this spool."""
        keeps = time.monotonic() < self._kept_until
        return self._receiver.probe_interval if keeps else None

    def take_delivered(self) -> int:
        """Records delivered since the last call, including those that were sent again."""
        resent = self._resend.take_delivered() if self._resend is not None else 0
        return super().take_delivered() + resent

    def _probe_if_due(self, now: float) -> None:
        """Detect a restart also while there is nothing to send."""
        if now - self._probed < self._receiver.probe_interval or self.linger_seconds() is None:
            return
        self._probed = now
        self._enter(self._receiver.handshake(None, self.identity, self._key).epoch)

    def _begin(self, epoch: str) -> _Resend:
        """Start a resend to this epoch, or continue where an earlier process stopped."""
        entry, spool = resend_entry(self.sink.name, epoch), self.identity.spool
        start = self._first_kept() - 1
        if self._ledger.position(spool, entry).seq < start:
            self._ledger.acknowledge(spool, entry, Position(seq=start), CommitDelta())
        if self._ledger.epoch(spool, entry) == ReceiverEpoch():
            self._ledger.save_epoch(spool, entry, ReceiverEpoch(name=epoch))
        self._events.receiver_restarted(self.sink.ordering_key(self.identity))
        dead = {
            row["seq"] for row in self._ledger.dead_letters(spool) if row["sink"] == self.sink.name
        }
        reader = _Delivered(reader=self.reader, through=self.position.seq, dead=frozenset(dead))
        return _Resend(
            reader=reader,
            identity=self.identity,
            sink=self._receiver,
            context=self._context,
            entry=entry,
        )

    def _continue(self, resend: _Resend, now: Callable[[], float], until: float) -> TurnResult:
        try:
            result = resend.turn(now=now, until=until, owned=False, flush_all=True)
        except ReceiverRestarted as restart:
            self._resend = self._begin(restart.epoch)
            return TurnResult(more=True)
        if result.failure is not None:
            return TurnResult(failure=result.failure)
        if result.at_end:
            self._delivered += resend.take_delivered()
            self._kept_until = max(self._kept_until, resend.kept_until)
            self._save(name=resend.epoch)
            self._resend = None
            self._events.resent(self.sink.ordering_key(self.identity), resend.sent)
        return TurnResult(more=True)

    def _first_kept(self) -> int:
        """Seq of a record before which none is recent enough for the receiver to keep it."""
        lowest = max(1, self.reader.first_seq())
        first, newest = self.position.seq + 1, 0.0
        while first > lowest:
            first = max(lowest, first - _STEP_BACK_RECORDS)
            records = self.reader.read(first - 1, _STEP_BACK_RECORDS).records
            newest = newest or (_time_of(records[-1].body) if records else 0.0)
            if records and self._is_forgotten(records, newest):
                break
        return first

    def _is_forgotten(self, records: Sequence[Stored], newest: float) -> bool:
        """Whether the receiver has forgotten the first of these by itself.

        Where no record tells its age, the clock of the process does: `newest` is when its newest
        record was made.
        """
        limit, kinds = self._receiver.receiver_retention + _SLACK_SECONDS, self._receiver.kinds
        own = [one for one in records if kinds is None or one.kind in kinds]
        plan = self._receiver.plan(PlanInput(identity=self.identity, records=own, ended=False))
        for batch in plan.batches:
            age = self._receiver.age(batch, self.identity)
            if age is not None:
                return age > limit
        return newest - _time_of(records[0].body) > limit


class _Resend(AtMostOncePipeline):
    """The pipeline of what the receiver has lost; all of it is accounted for already."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.sent = 0

    def take_delivered(self) -> int:
        delivered = super().take_delivered()
        self.sent += delivered
        return delivered

    def _report_unclean_exit(self) -> None:
        """The live pipeline does."""

    def _note_damage(self, chunk: Chunk) -> None:
        """It was reported before."""

    def _drop(self, batch: Batch, outcome: Outcome) -> None:
        """A batch that has become too old was delivered in its time: nothing to log."""
        self._batches.pop(0)
        self._commit(batch, dropped=outcome.reason)

    def _add_dead_letters(self, rejected: Sequence[Rejected]) -> None:
        """The records stay delivered: the last epoch had accepted them."""
        self._events.rejected_on_resend(rejected)


@dataclass(frozen=True, kw_only=True)
class _Delivered(ClosedRange):
    """Records that were sent before, without the dead letters among them."""

    reader: Readable
    dead: frozenset[int]

    def chunk(self, after: int, limit: int, most: int | None) -> Chunk:
        return self.reader.read(after, limit, most=most)

    def takes(self, stored: Stored) -> bool:
        return stored.seq not in self.dead


def _time_of(body: bytes) -> float:
    """When a record was made, Unix seconds; 0.0 when that is unknown."""
    try:
        made = codec.unpack(body).get("time")
    except BodyUnreadable:
        return 0.0
    return float(made) if isinstance(made, int | float) else 0.0

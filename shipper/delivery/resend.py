"""The way to a receiver that volatile: what its last life took is sent again to the next one.

A training master keeps what it acknowledges in its memory and cannot tell a repetition. So, for a
sink that `volatile`:

- Before each batch the sink says which life of the receiver it will reach. The ledger knows which
  life has what this spool has delivered. Another life has forgotten it: whatever the receiver would
  still remember is sent again before anything newer, in its order, from a position of its own
  (`<sink>~again~<life>`), so that a kill in between repeats nothing. That is no repetition for the
  new life, which has none of it.
- A batch whose repetition does harm is noted in the ledger before it is sent. When it is found
  there without having been settled (the answer was lost, or the service died), the same life may
  have it, and it is dropped as ambiguous; another life cannot have it, and gets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shipper.delivery.pipeline import Progress, Readable, Route
from shipper.ledger.ledger import Life, Position, Settled
from shipper.sinks import Batch, VolatileSink
from shipper.sinks.outcome import Disposition, Outcome
from shipper.steps import Rejected
from spooler.errors import BodyUnreadable
from spooler.spool import codec
from spooler.spool.reader import Chunk

# A record lies in the spool a little after the time that it tells.
_SLACK_SECONDS = 60.0
_LOOK_BACK_RECORDS = 500

_IN_DOUBT = Outcome(
    disposition=Disposition.DROPPED,
    reason="ambiguous",
    detail="it was sent and no answer came; sending it again could double it",
)


class Forgotten(Exception):
    """Raised when another life of the receiver is met than the one that has what was delivered."""

    def __init__(self, life: str) -> None:
        super().__init__(life)
        self.life = life


def again_entry(sink: str, life: str) -> str:
    """The name of the position from which a life is told again what the last one took."""
    return f"{sink}~again~{life}"


def is_again(entry: str, sink: str) -> bool:
    """Whether a position's name is one of these."""
    return entry.startswith(again_entry(sink, ""))


class CarefulRoute(Route):
    """A route to a known life of the receiver; batches that are not idempotent go there once."""

    def __init__(self, *, sink: VolatileSink, **given: Any) -> None:
        super().__init__(sink=sink, **given)
        self._receiver = sink
        self._key = f"lens-ship/{self._ledger.instance()}"
        self._life = self._ledger.life(self.identity.spool, self._entry)
        self._newest = 0.0  # Unix seconds: when the newest that was delivered had been taken

    def _send(self, batch: Batch, tries: int) -> Outcome:
        greeting = self._receiver.handshake(batch, self.identity, self._key)
        if greeting.outcome is not None:
            return greeting.outcome
        self._meet(greeting.epoch)
        once = not self._receiver.is_idempotent(batch)
        if once and self._flies(batch, greeting.epoch):
            return _IN_DOUBT
        if once:
            self._note(replace(self._life, flight=batch.first, flight_life=greeting.epoch))
        outcome = self._receiver.send(batch, self.identity, tries)
        if outcome.disposition is Disposition.DELIVERED:
            self._newest = max(self._newest, self._receiver.event_time(batch))
        elif once and outcome.disposition is Disposition.RETRY and not outcome.ambiguous:
            self._note(replace(self._life, flight=0, flight_life=""))
        return outcome

    def _flies(self, batch: Batch, life: str) -> bool:
        """Whether it was sent to this life before, and nobody knows what became of it."""
        return (self._life.flight, self._life.flight_life) == (batch.first, life)

    def _meet(self, life: str) -> None:
        """This life is about to be sent to.

        Raises:
            Forgotten: it is not the one that has what was delivered.
        """
        if life and life != self._life.name:
            if self._life.name:
                raise Forgotten(life)
            self._note(replace(self._life, name=life))

    def _note(self, life: Life) -> None:
        self._ledger.note_life(self.identity.spool, self._entry, life)
        self._life = life


class ClosedCarefulRoute(CarefulRoute):
    """A range that was closed long ago; nothing of it is told again, whoever volatile it."""

    tells_end = False

    def _meet(self, life: str) -> None:
        if life != self._life.name:
            self._note(replace(self._life, name=life))


class RememberingRoute(CarefulRoute):
    """The live route: tells the receiver again what it has forgotten."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._given = given
        self._again: _Again | None = None
        self._looked = float("-inf")  # monotonic seconds
        self._known = not self._life.name  # whether `_newest` is known

    def turn(
        self, *, now: Callable[[], float], until: float, owned: bool, flush_all: bool
    ) -> Progress:
        """As `Route.turn`; what was forgotten goes first."""
        try:
            if self._again is None:
                self._look_if_due(now())
                return super().turn(now=now, until=until, owned=owned, flush_all=flush_all)
        except Forgotten as news:
            self._again = self._begin(news.life)
        return self._repeat(self._again, now, until)

    def lingers(self) -> float | None:
        """As long as the receiver should remember something of this spool."""
        if not self._known:
            self._known = True
            self._newest = self._find_newest()
        remembers = time.time() < self._newest + self._receiver.receiver_retention
        return self._receiver.probe_interval if remembers else None

    def take_delivered(self) -> int:
        """What was told again is delivered, too."""
        again = self._again.take_delivered() if self._again is not None else 0
        return super().take_delivered() + again

    # --- noticing ---------------------------------------------------------------------------------

    def _look_if_due(self, now: float) -> None:
        """Notice a restart also while there is nothing to send; nobody there is no news."""
        if now - self._looked < self._receiver.probe_interval or self.lingers() is None:
            return
        self._looked = now
        life = self._receiver.handshake(None, self.identity, self._key).epoch
        if life:
            self._meet(life)

    def _find_newest(self) -> float:
        """When the newest record was made that an earlier process may have delivered."""
        chunk = self.reader.read(max(0, self.position.seq - 1), 1)
        return max((_time_of(stored.body) for stored in chunk.records), default=0.0)

    # --- telling again ----------------------------------------------------------------------------

    def _begin(self, life: str) -> _Again:
        """Have this life told, from where an earlier process may have left off."""
        entry = again_entry(self.sink.name, life)
        spool = self.identity.spool
        start = self._first_remembered() - 1
        if self._ledger.position(spool, entry).seq < start:
            self._ledger.acknowledge(spool, entry, Position(seq=start), Settled())
        if self._ledger.life(spool, entry) == Life():
            self._ledger.note_life(spool, entry, Life(name=life))
        self._tell.forgotten(self.sink.ordering_key(self.identity))
        dead = {
            row["seq"] for row in self._ledger.dead_letters(spool) if row["sink"] == self.sink.name
        }
        delivered = _Delivered(reader=self.reader, through=self.position.seq, dead=frozenset(dead))
        together = replace(self._together, contents=None)  # some records are left out
        given = {"reader": delivered, "entry": entry, "together": together}
        return _Again(**{**self._given, **given})

    def _repeat(self, again: _Again, now: Callable[[], float], until: float) -> Progress:
        try:
            progress = again.turn(now=now, until=until, owned=False, flush_all=True)
        except Forgotten as news:
            self._again = self._begin(news.life)
            return Progress(more=True)
        if progress.failure is not None:
            return Progress(failure=progress.failure)
        if progress.at_end:
            self._delivered += again.take_delivered()
            self._newest = max(self._newest, again.newest)
            self._note(replace(self._life, name=again.life))
            self._again = None
            self._tell.repeated(self.sink.ordering_key(self.identity), again.told)
        return Progress(more=True)

    def _first_remembered(self) -> int:
        """Seq of the first record that is young enough to be remembered."""
        oldest = time.time() - self._receiver.receiver_retention - _SLACK_SECONDS
        lowest = max(1, self.reader.first_seq())
        first = self.position.seq + 1
        while first > lowest:
            first = max(lowest, first - _LOOK_BACK_RECORDS)
            found = self.reader.read(first - 1, 1).records
            if found and _time_of(found[0].body) < oldest:
                break
        return first


class _Again(CarefulRoute):
    """The way of what was forgotten; it has been accounted for already."""

    tells_end = False

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.told = 0

    @property
    def life(self) -> str:
        """Whom this is told."""
        return self._life.name

    @property
    def newest(self) -> float:
        """When the newest of what was told had been taken."""
        return self._newest

    def take_delivered(self) -> int:
        delivered = super().take_delivered()
        self.told += delivered
        return delivered

    def _drop(self, batch: Batch, outcome: Outcome) -> None:
        """What has grown too old meanwhile was delivered in its time: nothing to tell."""
        self._parcels.popleft()
        self._settle(batch, delivered=0, requests=0, dropped=outcome.reason)

    def _bury(self, refused: Sequence[Rejected]) -> None:
        """It stays delivered: the last life had taken it."""
        self._tell.refused_again(refused)


@dataclass(frozen=True, kw_only=True)
class _Delivered:
    """Records up to `through` that were sent before, without the dead letters among them."""

    reader: Readable
    through: int
    dead: frozenset[int]

    @property
    def directory(self) -> Path:
        return self.reader.directory

    def last_seq(self) -> int:
        return self.through

    def first_seq(self) -> int:
        return self.reader.first_seq()

    def is_drained(self, position: int) -> bool:
        return position >= self.through

    def is_owned(self) -> bool:
        return False

    def is_unclean(self) -> bool:
        return False

    def has_news(self) -> bool:
        return False

    def read(self, after: int, limit: int) -> Chunk:
        """As the spool's reader; damage has been told before."""
        if after >= self.through:
            return Chunk(records=(), damage=(), through=after, at_end=True)
        chunk = self.reader.read(after, limit)
        return Chunk(
            records=tuple(
                stored
                for stored in chunk.records
                if stored.seq <= self.through and stored.seq not in self.dead
            ),
            damage=(),
            through=min(chunk.through, self.through),
            at_end=chunk.at_end or chunk.through >= self.through,
        )


def _time_of(body: bytes) -> float:
    """When a record was made, Unix seconds; 0.0 when that cannot be told."""
    try:
        made = codec.unpack(body).get("time")
    except BodyUnreadable:
        return 0.0
    return float(made) if isinstance(made, int | float) else 0.0

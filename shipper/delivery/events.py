"""What the way of one spool to one sink tells the operator: each kind of event, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from shipper.log import fields
from shipper.sinks.outcome import Outcome
from shipper.steps import Rejected, Step
from spooler.spool.reader import Damage

log = logging.getLogger(__name__)


class Telling:
    """The lines of one route."""

    def __init__(self, *, spool: str, sink: str, path: Path) -> None:
        self._spool = spool
        self._sink = sink
        self._path = path
        self._about = {"sink": sink, "spool": spool, "path": path}
        self._special = ""  # what was said of the last delivery
        self._dropped: set[str] = set()  # reasons that were told

    def delivered(self, outcome: Outcome) -> None:
        """Say what is special about a delivery, when that has changed."""
        special = "" if outcome.reason == "delivered" else outcome.detail
        if special and special != self._special:
            log.info(
                "%s to %s: %s",
                self._spool,
                self._sink,
                special,
                extra=fields(**self._about, reason=outcome.reason, detail=special),
            )
        self._special = special

    def cut_off(self, steps: Sequence[Step], seq: int) -> None:
        """The process died, its last record being `seq`."""
        log.warning(
            "%s: its process ended without a goodbye; last step %s",
            self._path,
            ", ".join(f"{step.step} of run {step.run}" for step in steps),
            extra=fields(**self._about, seq=seq),
        )

    def refused(self, refused: Sequence[Rejected], kept_in: Path) -> None:
        """These have become dead letters, all for one reason."""
        first, last = refused[0], refused[-1]
        log.error(
            "%s: %d records (%d to %d) are refused by %s for good (%s: %s); they are kept as dead"
            " letters in %s",
            self._path,
            len(refused),
            first.stored.seq,
            last.stored.seq,
            self._sink,
            first.reason,
            first.detail,
            kept_in,
            extra=fields(
                **self._about,
                seq=first.stored.seq,
                last=last.stored.seq,
                count=len(refused),
                reason=first.reason,
                detail=first.detail,
            ),
        )

    def dropped(self, seq: int, outcome: Outcome) -> None:
        """A rule of the sink gives up a record; said once for each reason, many may follow."""
        say = log.debug if outcome.reason in self._dropped else log.warning
        self._dropped.add(outcome.reason)
        say(
            "%s: record %d is not sent to %s: %s (%s); it is counted, as are those that follow",
            self._path,
            seq,
            self._sink,
            outcome.reason,
            outcome.detail,
            extra=fields(**self._about, seq=seq, reason=outcome.reason, detail=outcome.detail),
        )

    def forgotten(self, receiver: str) -> None:
        """The receiver has lost what it had acknowledged."""
        log.warning(
            "%s: %s has restarted and forgotten; what it would still remember is sent again",
            self._path,
            receiver,
            extra=fields(**self._about, receiver=receiver),
        )

    def repeated(self, receiver: str, count: int) -> None:
        """All of that has been sent again."""
        log.info(
            "%s: %d records were sent again to %s",
            self._path,
            count,
            receiver,
            extra=fields(**self._about, receiver=receiver, count=count),
        )

    def refused_again(self, refused: Sequence[Rejected]) -> None:
        """These were taken the first time and are refused now; they stay delivered."""
        for one in refused:
            log.warning(
                "%s: record %d is refused when it is sent again: %s",
                self._path,
                one.stored.seq,
                one.detail,
                extra=fields(**self._about, seq=one.stored.seq, reason=one.reason),
            )

    def unreadable(self, damage: Damage) -> None:
        """These records cannot be read."""
        log.error(
            "%s: records %d to %d cannot be read (%s); the ones after them are shipped",
            damage.path,
            damage.first,
            damage.last,
            damage.reason,
            extra=fields(
                sink=self._sink,
                spool=self._spool,
                path=damage.path,
                seq=damage.first,
                last=damage.last,
                reason=damage.reason,
            ),
        )

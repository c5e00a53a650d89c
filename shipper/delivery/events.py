"""Log events of one pipeline; each kind of event is logged once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from shipper.log import fields
from shipper.sinks.outcome import Outcome
from shipper.steps import Rejected, Step
from spooler.spool.reader import Damage

log = logging.getLogger(__name__)

_NONE: AbstractSet[str] = frozenset()


class PipelineEvents:
    """Logs what happens to one spool on its way to one sink."""

    __slots__ = ("_dropped", "_path", "_remark", "_sink", "_spool")

    def __init__(self, *, spool: str, sink: str, path: Path) -> None:
        self._sink, self._spool, self._path = sink, spool, path
        self._remark = ""  # of the last delivery
        self._dropped: AbstractSet[str] = _NONE  # reasons that were logged

    @property
    def _subject(self) -> dict[str, Any]:
        return {"sink": self._sink, "spool": self._spool, "path": self._path}

    def delivered(self, outcome: Outcome) -> None:
        """Log the remark of a delivery when it has changed."""
        remark = "" if outcome.reason == "delivered" else outcome.detail
        if remark and remark != self._remark:
            values = fields(**self._subject, reason=outcome.reason, detail=remark)
            say = log.warning if outcome.rejected else log.info
            say("delivered with a remark", extra=values)
        self._remark = remark

    def unclean_exit(self, steps: Sequence[Step], seq: int) -> None:
        """The process died; its last record is `seq`."""
        last = ", ".join(f"{step.step} of run {step.run}" for step in steps)
        log.warning(
            "writer exited uncleanly", extra=fields(**self._subject, seq=seq, last_step=last)
        )

    def rejected(self, rejected: Sequence[Rejected], kept_in: Path) -> None:
        """These records have become dead letters, all for one reason."""
        first, last = rejected[0], rejected[-1]
        log.error(
            "records rejected permanently, kept as dead letters",
            extra=fields(
                **self._subject,
                seq=first.stored.seq,
                last=last.stored.seq,
                count=len(rejected),
                reason=first.reason,
                detail=first.detail,
                state=kept_in,
            ),
        )

    def dropped(self, seq: int, outcome: Outcome) -> None:
        """A rule of the sink drops a record. Logged once for each reason, as many may follow."""
        say = log.debug if outcome.reason in self._dropped else log.warning
        self._dropped |= {outcome.reason}
        say(
            "record dropped, further drops for this reason are only counted",
            extra=fields(**self._subject, seq=seq, reason=outcome.reason, detail=outcome.detail),
        )

    def receiver_restarted(self, receiver: str) -> None:
        log.warning(
            "receiver restarted, resending recent records",
            extra=fields(**self._subject, receiver=receiver),
        )

    def resent(self, receiver: str, count: int) -> None:
        values = fields(**self._subject, receiver=receiver, count=count)
        log.info("resend finished", extra=values)

    def rejected_on_resend(self, rejected: Sequence[Rejected]) -> None:
        """These records were accepted the first time; they stay delivered."""
        for one in rejected:
            log.warning(
                "record rejected when it was resent, it stays delivered",
                extra=fields(
                    **self._subject, seq=one.stored.seq, reason=one.reason, detail=one.detail
                ),
            )

    def damaged(self, damage: Damage) -> None:
        log.error(
            "records cannot be read, the records after them are sent",
            extra=fields(
                **{**self._subject, "path": damage.path},
                seq=damage.first,
                last=damage.last,
                reason=damage.reason,
            ),
        )

"""What an answer of a training master means for a report: one table, in one place. Pure.

- Stored: delivered, into the master's memory, for as long as it keeps it.
- Answered "no" (`success` false, a wrong job uid): it has nothing to do with the record as such.
  That master pauses, its epoch is checked again, and a report that is still refused after a
  few tries becomes a dead letter.
- An exception in the master (`UNKNOWN`, 500): a dead letter after one try. It says nothing about
  whether the report was stored, and trying again stores it again.
- No answer: it is unknown whether the report was stored (``ambiguous``) unless it was never sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from shipper.errors import Unreachable
from shipper.sinks.outcome import DELIVERED, Disposition, Outcome

# Tries after which a report that is refused, or that may have arrived each time, is given up.
TRIES_REFUSED = 3
TRIES_AMBIGUOUS = 5
# A master that has gone is asked for every second or so: what it is to be told ages quickly.
RETRY_SECONDS = 1.0

_TOO_LARGE = "larger than max"
# Answers that come from in front of whatever stores.
_NOT_STORED = frozenset(
    {"UNAUTHENTICATED", "406", "UNIMPLEMENTED", "404", "405", "RESOURCE_EXHAUSTED", "429", "503"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer over either transport.

    `status` is `OK`, or the name of a gRPC status, or an HTTP status as text; `success` is what a
    `report` was answered, None when it cannot be told; `data` what a `get` was answered.
    """

    status: str
    success: bool | None = None
    data: bytes = b""
    detail: str = ""


AMBIGUOUS = Outcome(
    disposition=Disposition.DROPPED,
    reason="ambiguous",
    detail=f"sent {TRIES_AMBIGUOUS} times without an answer: the master may have it as often",
)


def expired(age: float) -> Outcome:
    """A report that is older than a master keeps reports."""
    return Outcome(
        disposition=Disposition.DROPPED,
        reason="expired",
        detail=f"{age:.0f} s old: the master would ignore it",
    )


def no_endpoint(*, wait: bool) -> Outcome:
    """A report of a job that has no master."""
    return Outcome(
        disposition=Disposition.RETRY if wait else Disposition.DROPPED,
        reason="no-master",
        detail="the job recorded no DLROVER_MASTER_ADDR and no --dlrover-address is given",
        needs_operator=True,
    )


def invalid(detail: str) -> Outcome:
    """A report that no master may be sent."""
    return Outcome(disposition=Disposition.PERMANENT, reason="unsendable", detail=detail)


def judge_report(reply: Reply, *, refusals: int) -> Outcome:
    """What the answer to a report means; `refusals` counts the clear noes right before it."""
    if reply.status == "OK" and reply.success:
        return DELIVERED
    if reply.status == "OK" and reply.success is False:
        return rejected(
            "refused", "success is false: a wrong job uid, or an unknown message", refusals
        )
    if reply.status in ("UNKNOWN", "500"):
        detail = f"{_told(reply)}; it may have been stored"
        return Outcome(disposition=Disposition.PERMANENT, reason="master-error", detail=detail)
    if reply.status == "413" or (
        reply.status == "RESOURCE_EXHAUSTED" and _TOO_LARGE in reply.detail
    ):
        detail = f"{_told(reply)}; lower --dlrover-message-bytes"
        return Outcome(disposition=Disposition.PERMANENT, reason="too-large", detail=detail)
    return judge_status(reply, refusals=refusals, ambiguous=reply.status not in _NOT_STORED)


def judge_status(reply: Reply, *, refusals: int = 0, ambiguous: bool = False) -> Outcome:
    """What an answer means that is neither yes nor no."""
    if reply.status in ("UNAUTHENTICATED", "406"):
        return rejected("wrong-job", f"{_told(reply)}; it is the master of another job", refusals)
    if reply.status in ("UNIMPLEMENTED", "404", "405", "OK"):
        return _pause("other-service", f"{_told(reply)}; it is not a master", needs_operator=True)
    if reply.status in ("RESOURCE_EXHAUSTED", "429", "503"):
        return _pause("busy", _told(reply))
    return _pause("unexpected", _told(reply), needs_operator=True, ambiguous=ambiguous)


def judge_failure(failure: Unreachable) -> Outcome:
    """What no answer means."""
    needs_operator = failure.reason in ("bad-address", "unsupported")
    return _pause(
        failure.reason, failure.detail, needs_operator=needs_operator, ambiguous=failure.sent
    )


def rejected(reason: str, detail: str, refusals: int) -> Outcome:
    """A clear no: a pause, and after some of them a dead letter."""
    last = refusals + 1 >= TRIES_REFUSED
    disposition = Disposition.PERMANENT if last else Disposition.RETRY
    return Outcome(disposition=disposition, reason=reason, detail=detail, needs_operator=True)


def _pause(
    reason: str, detail: str, *, needs_operator: bool = False, ambiguous: bool = False
) -> Outcome:
    return Outcome(
        disposition=Disposition.RETRY,
        reason=reason,
        detail=detail,
        needs_operator=needs_operator,
        ambiguous=ambiguous,
        retry_after=None if needs_operator else RETRY_SECONDS,
    )


def _told(reply: Reply) -> str:
    return f"{reply.status} {reply.detail[:200]}".strip()

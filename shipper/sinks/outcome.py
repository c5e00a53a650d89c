"""What became of a batch: the answer of every sink, and of a request without an answer. Pure.

Five verdicts:

- ``DELIVERED``: the receiver says that it has stored everything; the position moves on.
- ``RETRY``: anything that may end by itself or by an operator's hand, and everything unknown.
- ``SPLIT``: something in the request may be refused for good; halves of it are sent instead, and
  what is refused alone is a dead letter.
- ``PERMANENT``: this data will be refused for ever.
- ``DROPPED``: this data is of no use to the receiver any more, or may do harm there; it is given up
  by a rule that its sink states, counted by reason.

``scope`` says who has to wait: ``sink`` when every request would meet the same answer (nobody
there, wrong address, no permission), ``workload`` when the others need not.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from shipper.errors import Unreachable

UNKNOWN_WORKLOAD = "unknown-workload"
TIMEOUT = "timeout"

# Tries of one unchanged request after which a missing answer is taken for the data's fault.
TRIES_ON_TIMEOUT = 2

# Failures that no waiting ends.
_FOR_OPERATORS = frozenset({"no-url", "bad-url", "tls", "no-credential"})


class Disposition(Enum):
    """What becomes of the records of a request."""

    DELIVERED = "delivered"
    RETRY = "retry"
    SPLIT = "split"
    PERMANENT = "permanent"
    DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A verdict with its reason: `reason` is a short stable word, `detail` is for people."""

    disposition: Disposition
    reason: str
    detail: str = ""
    scope: str = "workload"  # or "sink"
    needs_operator: bool = False  # an operator has to look: it will not end by itself
    # With SPLIT: it may be the receiver's fault, not that of the data. With RETRY: it may have been
    # stored.
    ambiguous: bool = False
    retry_after: float | None = None  # seconds the receiver asks to wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """Who is at the other end before something is sent to it.

    `life` names the receiver's life: another one has forgotten what this one acknowledged. It is ""
    where a receiver has no such thing. An `outcome` says why there is nothing to send, or nobody.
    """

    life: str = ""
    outcome: Outcome | None = None


def retry(
    reason: str, detail: str, *, needs_operator: bool = False, scope: str = "workload"
) -> Outcome:
    return Outcome(
        disposition=Disposition.RETRY,
        reason=reason,
        detail=detail,
        needs_operator=needs_operator,
        scope=scope,
    )


def classify_failure(failure: Unreachable, *, tries: int) -> Outcome:
    """Judge a request that got no whole answer."""
    if failure.reason == TIMEOUT and failure.sent and tries >= TRIES_ON_TIMEOUT:
        # The receiver works through a request step by step: fewer steps fit its pace.
        return Outcome(
            disposition=Disposition.SPLIT, reason=TIMEOUT, detail=failure.detail, ambiguous=True
        )
    scope = "workload" if failure.sent else "sink"
    needs_operator = failure.reason in _FOR_OPERATORS
    return retry(failure.reason, failure.detail, scope=scope, needs_operator=needs_operator)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, or None.

    A date is taken relative to the answer's own `Date`: the clocks of two hosts need not agree.
    """
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):
        # The standard library's reader of dates lets all of these out for a malformed one.
        return None

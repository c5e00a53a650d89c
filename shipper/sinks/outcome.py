"""What became of a batch, in the words that all sinks share. Pure.

Five dispositions:

- ``DELIVERED``: the receiver says that it has stored everything. The position moves on.
- ``RETRY``: whatever may end by itself or by an operator's action, and everything unknown.
- ``SPLIT``: the receiver may reject something in the request permanently. Two smaller batches are
  sent instead, and what is rejected alone becomes a dead letter.
- ``PERMANENT``: this data will always be rejected.
- ``DROPPED``: this data is of no use to the receiver any more, or may do harm there. A rule of the
  sink drops it, counted by reason.

``scope`` says who has to wait: ``sink`` when every request should get the same answer (no
connection, wrong address, no permission), ``workload`` when the others need not. Whether the others
do get it decides in the end (`shipper.delivery.policy`).
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from shipper.errors import Unreachable
from shipper.http_client import Answer

# Tries of one unchanged request after which a missing answer is taken for the data's fault.
TRIES_ON_TIMEOUT = 2


class Reason(Enum):
    """Why a batch was not delivered: the stored word, what the receiver does, and what to do.

    The sentence continues "<sink> ". A sink may use other words, which are shown as they are.
    """

    NOT_ALLOWED = ("not-allowed", "rejects the token", "check token_file or cookie_file")
    NO_CREDENTIAL = (
        "no-credential",
        "is not asked: a credential file cannot be used",
        "correct the file",
    )
    WRONG_ADDRESS = ("wrong-address", "does not know this address", "check the URL")
    REDIRECTED = ("redirected", "answers with a redirect", "use the final URL")
    OTHER_SERVICE = ("other-service", "is another service", "check the URL")
    UNEXPECTED = ("unexpected", "gives an answer that lens-ship does not know", "check the URL")
    BAD_URL = ("bad-url", "has a URL that cannot be used", "correct the URL")
    BAD_HEADER = (
        "bad-header",
        "is not asked: a header cannot be sent",
        "correct the variable that it is from",
    )
    BAD_ADDRESS = ("bad-address", "has an address that cannot be used", "correct the address")
    UNSUPPORTED = (
        "unsupported",
        "speaks a protocol that is not supported here",
        "install lens-ship[master], or set dlrover_client",
    )
    NO_URL = ("no-url", "has no URL", "set processor_url")
    NO_MASTER = ("no-master", "has no address", "set dlrover_address")
    TLS = ("tls", "fails the TLS handshake", "check the certificates")
    PROXY = ("proxy", "cannot be reached through the proxy", "check the setting proxy")
    REFUSED = ("refused", "refuses connections", "check that the receiver runs")
    NO_CONNECTION = ("no-connection", "cannot be reached", "check name and network")
    CONNECT_TIMEOUT = ("connect-timeout", "cannot be reached in time", "check the network")
    CONNECTION_LOST = ("connection-lost", "closes connections", "check the receiver's log")
    TIMEOUT = ("timeout", "does not answer in time", "check the receiver's load")
    BUSY = ("busy", "asks to wait", "check the receiver's load")
    SERVER_ERROR = ("server-error", "answers with errors", "check the receiver's log")
    MASTER_ERROR = ("master-error", "failed while it handled a report", "check the master's log")
    CLIENT_FAILED = ("client-failed", "is reached by a client that fails", "check dlrover_client")
    WRONG_JOB = ("wrong-job", "is the master of another job", "check dlrover_address")
    UNKNOWN_WORKLOAD = (
        "unknown-workload",
        "does not know the workload",
        "check WORKLOAD_UID and POD_NAME",
    )
    NO_IDENTITY = (
        "no-identity",
        "needs a workload or a pod",
        "set WORKLOAD_UID or POD_NAME in the job, then lens-ship replay --as-workload",
    )
    NOT_STORED = ("not-stored", "stores nothing", "check the receiver's log")
    MISCOUNTED = ("miscounted", "counts other than was sent", "check the proxy between")
    BAD_REQUEST = ("bad-request", "rejects the request", "see lens-ship dead-letter list")
    TOO_LARGE = ("too-large", "rejects the size of a request", "see lens-ship dead-letter list")
    ALL_REFUSED = (
        "all-refused",
        "refuses everything",
        "check the proxy between, then lens-ship dead-letter retry",
    )
    UNSENDABLE = (
        "unsendable",
        "cannot be sent a record of this content",
        "see lens-ship dead-letter list",
    )
    EXPIRED = ("expired", "ignores reports of this age", "raise dlrover_max_age if it does not")
    TOO_OLD = (
        "too-old",
        "takes no data of this age",
        "widen its window (out_of_order_time_window), then lens-ship dead-letter retry",
    )
    ALREADY_THERE = (
        "already-there",
        "has this already, or newer data of the series",
        "widen its window (out_of_order_time_window)",
    )
    CLOCK_AHEAD = (
        "clock-ahead",
        "is not sent times of the future",
        "set the clock of the training node, or of this one",
    )
    ALL_REJECTED = (
        "all-rejected",
        "stores nothing of a request",
        "see lens-ship dead-letter list",
    )
    RUN_DELETED = (
        "run-deleted",
        "has deleted this run",
        "restore the run, then lens-ship dead-letter retry",
    )
    EXPERIMENT_DELETED = (
        "experiment-deleted",
        "has deleted the experiment",
        "restore the experiment, or set another one for the sink",
    )
    AMBIGUOUS = ("ambiguous", "may have this already", "nothing: a repetition would do harm")

    def __init__(self, word: str, sentence: str, advice: str) -> None:
        self.word = word
        self.sentence = sentence
        self.advice = advice

    @classmethod
    def of(cls, word: str) -> Reason | None:
        """The reason with this word; None for a word of another sink's."""
        return _BY_WORD.get(word)


_BY_WORD = {reason.word: reason for reason in Reason}
UNKNOWN_WORKLOAD = Reason.UNKNOWN_WORKLOAD.word
TIMEOUT = Reason.TIMEOUT.word
NO_URL = Reason.NO_URL.word
# Failures that no waiting ends.
_FOR_OPERATORS = (
    Reason.NO_URL,
    Reason.BAD_URL,
    Reason.BAD_HEADER,
    Reason.TLS,
    Reason.NO_CREDENTIAL,
)


class Disposition(Enum):
    """What becomes of the records of a request."""

    DELIVERED = "delivered"
    RETRY = "retry"
    SPLIT = "split"
    PERMANENT = "permanent"
    DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a batch, and why.

    `reason` is a short stable word: that of a `Reason`, or one of the sink's own. `detail` is for
    people.
    """

    disposition: Disposition
    reason: str
    detail: str = ""
    scope: str = "workload"  # or "sink"
    needs_operator: bool = False  # an operator has to look: it will not end by itself
    # With SPLIT: it may be the receiver's fault, not that of the data. With RETRY: it may have been
    # stored.
    ambiguous: bool = False
    retry_after: float | None = None  # seconds the receiver asks to wait
    rejected: int = 0  # with DELIVERED: values that the receiver acknowledged and does not store


DELIVERED = Outcome(disposition=Disposition.DELIVERED, reason="delivered")


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """The result of a handshake with a volatile receiver before something is sent to it.

    `epoch` names one lifetime of the receiver, which has forgotten what an earlier one
    acknowledged; "" where a receiver has no such thing. An `outcome` says why there is nothing
    to send, or why there is no answer.
    """

    epoch: str = ""
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


def blocked(reason: str, detail: str) -> Outcome:
    """Every request of the sink gets this answer until an operator acts."""
    return retry(reason, detail, needs_operator=True, scope="sink")


def split(reason: str, detail: str) -> Outcome:
    return Outcome(disposition=Disposition.SPLIT, reason=reason, detail=detail)


def busy(answer: Answer, detail: str) -> Outcome:
    wait = retry_after(answer.headers)
    return replace(retry(Reason.BUSY.word, detail, scope="sink"), retry_after=wait)


def classify_status(answer: Answer, detail: str, *, credentials: str, address: str) -> Outcome:
    """Judge an answer by a status that says nothing of the data.

    `credentials` and `address` are the advice where these are wrong.
    """
    status = answer.status
    if status == 413:
        return split(Reason.TOO_LARGE.word, detail)
    if status in (408, 425, 429, 502, 503, 504):
        return busy(answer, detail)
    if 300 <= status < 400:
        # What follows the path may be a secret of a sign-in page.
        location = answer.headers.get("location", "nowhere").partition("?")[0]
        return blocked(Reason.REDIRECTED.word, f"{status} to {location}: check the URL")
    if status in (401, 403):
        return blocked(Reason.NOT_ALLOWED.word, f"{detail}: {credentials}")
    if status in (404, 405, 415):
        return blocked(Reason.WRONG_ADDRESS.word, f"{detail}: {address}")
    return blocked(Reason.UNEXPECTED.word, detail)


def classify_failure(failure: Unreachable, *, tries: int) -> Outcome:
    """Judge a request that got no whole answer."""
    if failure.reason == TIMEOUT and failure.sent and tries >= TRIES_ON_TIMEOUT:
        # The receiver works through a request step by step: fewer steps fit its pace.
        return Outcome(
            disposition=Disposition.SPLIT, reason=TIMEOUT, detail=failure.detail, ambiguous=True
        )
    # Another workload's job may have recorded a URL.
    scope = "workload" if failure.sent or failure.reason == NO_URL else "sink"
    needs_operator = Reason.of(failure.reason) in _FOR_OPERATORS
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

"""What an answer of the telemetry-processor means for the data: one table, in one place. Pure.

Five verdicts:

- ``DELIVERED``: the receiver says that it has stored everything; the position moves on.
- ``RETRY``: anything that may end by itself or by an operator's hand, and everything unknown.
- ``SPLIT``: something in the request may be refused for good; halves of it are sent instead, and
  what is refused alone is a dead letter.
- ``DEAD``: this data will be refused for ever.
- ``DROPPED``: this data is of no use to the receiver any more, or may do harm there; it is given up
  by a rule that its sink states, counted by reason.

``scope`` says who has to wait: ``sink`` when every request would meet the same answer (nobody
there, wrong address, no permission), ``workload`` when the others need not.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import orjson

from shipper.errors import Unreachable

SUCCESS_CODE = 2000
BAD_REQUEST = "invalid request format"
NO_IDENTITY = "either workload_uid or pod_name is required"
NO_WORKLOAD = "no valid workload found"

UNKNOWN_WORKLOAD = "unknown-workload"
TIMEOUT = "timeout"
UNKNOWN_WORKLOAD_SECONDS = 12.0

# Tries of one unchanged request after which an ambiguous refusal is taken for the data's fault.
TRIES_ON_500 = 4
TRIES_ON_PANIC = 3
TRIES_ON_TIMEOUT = 2

# Failures that no waiting ends.
_FOR_OPERATORS = frozenset({"no-url", "bad-url", "tls", "no-credential"})


class Verdict(Enum):
    """What becomes of the records of a request."""

    DELIVERED = "delivered"
    RETRY = "retry"
    SPLIT = "split"
    DEAD = "dead"
    DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A verdict with its reason: `reason` is a short stable word, `detail` is for people."""

    verdict: Verdict
    reason: str
    detail: str = ""
    scope: str = "workload"  # or "sink"
    alarm: bool = False  # an operator has to look: it will not end by itself
    # With SPLIT: it may be the receiver's fault, not that of the data. With RETRY: it may have been
    # stored.
    ambiguous: bool = False
    retry_after: float | None = None  # seconds the receiver asks to wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """Who is at the other end before something is sent to it.

    `life` names the receiver's life: another one has forgotten what this one acknowledged. It is ""
    where a receiver has no such thing. An `outcome` says why there is nothing to send, or nobody.
    """

    life: str = ""
    outcome: Outcome | None = None


def _retry(reason: str, detail: str, *, alarm: bool = False, scope: str = "workload") -> Outcome:
    return Outcome(verdict=Verdict.RETRY, reason=reason, detail=detail, alarm=alarm, scope=scope)


def classify(answer: Answer, *, items: int | None, tries: int) -> Outcome:
    """Judge an answer to a request of `items` list elements (None: not counted back).

    `tries` counts the requests with this very content so far, this one included.
    """
    status = answer.status
    if status == 200:
        return _judge_success(answer, items)
    if status == 400:
        return _judge_bad_request(answer, tries)
    if status == 500:
        return _judge_server_error(answer, tries)
    if status == 413:
        return Outcome(verdict=Verdict.SPLIT, reason="too-large", detail=_said(answer))
    if status in (408, 425, 429, 502, 503, 504):
        return Outcome(
            verdict=Verdict.RETRY,
            reason="busy",
            detail=_said(answer),
            scope="sink",
            retry_after=retry_after(answer.headers),
        )
    if 300 <= status < 400:
        # What follows the path may be a secret of a sign-in page.
        location = answer.headers.get("location", "nowhere").partition("?")[0]
        return _retry(
            "redirected", f"{status} to {location}: check the URL", alarm=True, scope="sink"
        )
    if status in (401, 403):
        return _retry(
            "not-allowed",
            f"{_said(answer)}: check token_file or cookie_file",
            alarm=True,
            scope="sink",
        )
    if status in (404, 405):
        return _retry("wrong-address", f"{_said(answer)}: check the URL", alarm=True, scope="sink")
    return _retry("unexpected", _said(answer), alarm=True, scope="sink")


def classify_failure(failure: Unreachable, *, tries: int) -> Outcome:
    """Judge a request that got no whole answer."""
    if failure.reason == TIMEOUT and failure.sent and tries >= TRIES_ON_TIMEOUT:
        # The receiver works through a request step by step: fewer steps fit its pace.
        return Outcome(verdict=Verdict.SPLIT, reason=TIMEOUT, detail=failure.detail, ambiguous=True)
    scope = "workload" if failure.sent else "sink"
    alarm = failure.reason in _FOR_OPERATORS
    return _retry(failure.reason, failure.detail, scope=scope, alarm=alarm)


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


def pods_in(answer: Answer) -> dict[str, Any] | None:
    """The `data` of a true answer to the question which pod belongs to which workload."""
    envelope = _envelope(answer.body) if answer.status == 200 else None
    if envelope is None or envelope["meta"].get("code") != SUCCESS_CODE:
        return None
    data = envelope.get("data")
    return data if isinstance(data, dict) else None


def _judge_success(answer: Answer, items: int | None) -> Outcome:
    envelope = _envelope(answer.body)
    if envelope is None:
        return _retry(
            "other-service", f"200 without an envelope: {_said(answer)}", alarm=True, scope="sink"
        )
    code = envelope["meta"].get("code")
    if code != SUCCESS_CODE:
        return _retry(
            "other-service",
            f"200 with meta.code {code}: not the telemetry-processor, or not this route of it",
            alarm=True,
            scope="sink",
        )
    data = envelope.get("data")
    facts = data if isinstance(data, dict) else {}
    count = facts.get("count")
    if items is not None and isinstance(count, int) and count != items:
        return _retry(
            "miscounted", f"{items} items sent, {count} counted by the receiver", alarm=True
        )
    succeeded, workloads = facts.get("success_count"), facts.get("workloads_count")
    if succeeded == 0:
        return _retry("not-stored", f"stored for none of {workloads} workloads", alarm=True)
    if isinstance(succeeded, int) and isinstance(workloads, int) and succeeded < workloads:
        return Outcome(
            verdict=Verdict.DELIVERED,
            reason="partly",
            detail=f"stored for {succeeded} of the pod's {workloads} workloads",
        )
    return Outcome(verdict=Verdict.DELIVERED, reason="delivered")


def _judge_bad_request(answer: Answer, tries: int) -> Outcome:
    envelope = _envelope(answer.body)
    message = envelope["meta"].get("message") if envelope else None
    if message == BAD_REQUEST:
        if tries < 2:
            # A proxy that cuts bodies short looks the same; the same content once more tells.
            return _retry("bad-request", _said(answer))
        return Outcome(verdict=Verdict.SPLIT, reason="bad-request", detail=_said(answer))
    if message == NO_IDENTITY:
        return Outcome(
            verdict=Verdict.DEAD,
            reason="no-identity",
            detail="neither WORKLOAD_UID nor POD_NAME was set in the training process",
            alarm=True,
        )
    if message == NO_WORKLOAD:
        # The processor looks its pods up anew every 20 seconds or so.
        return replace(
            _retry(UNKNOWN_WORKLOAD, _said(answer)), retry_after=UNKNOWN_WORKLOAD_SECONDS
        )
    return _retry("other-service", _said(answer), alarm=True, scope="sink")


def _judge_server_error(answer: Answer, tries: int) -> Outcome:
    enough = TRIES_ON_500 if answer.body else TRIES_ON_PANIC
    if tries >= enough:
        return Outcome(
            verdict=Verdict.SPLIT, reason="server-error", detail=_said(answer), ambiguous=True
        )
    return _retry("server-error", _said(answer))


def is_processors(answer: Answer) -> bool:
    """Whether an answer has the form that all of the telemetry-processor's own answers have."""
    return _envelope(answer.body) is not None


def _envelope(body: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, dict) and isinstance(value.get("meta"), dict):
        return value
    return None


def _said(answer: Answer) -> str:
    text = answer.body[:200].decode("utf-8", "replace").strip()
    return f"{answer.status} {text}".strip()

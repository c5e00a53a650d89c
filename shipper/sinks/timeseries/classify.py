"""What an answer of a receiver of time series means for the data: one table. Pure.

- 2xx: delivered.
- 400 with "out of bounds", "too old" or "too far behind", and a 500 of Prometheus up to 2.49 with
  "too old sample": the receiver takes no data of this age.
- 400 with "out of order" or "duplicate sample": it has this, or something newer of the series.
- 400 with "unsupported path" (VictoriaMetrics), 404, 405, 415, 3xx, HTML: another address.
- 400 else: it rejects something in the request. 413: too large.
- 401, 403: it rejects the credentials.
- 408, 429, 502, 503, 504: it asks to wait.
- 500: it failed, perhaps over the data: a Collector says so of permanent errors.

Prometheus stores nothing of a request with one sample that it refuses.
"""

from __future__ import annotations

from dataclasses import replace

from shipper import protobuf
from shipper.http_client import Answer
from shipper.sinks.outcome import DELIVERED, Outcome, Reason, blocked, classify_status, retry, split

TOO_OLD = Reason.TOO_OLD.word
ALREADY_THERE = Reason.ALREADY_THERE.word
SERVER_ERROR = Reason.SERVER_ERROR.word
# Tries of one unchanged request after which an error of the receiver is taken for the data's fault.
TRIES_ON_500 = 4

_AGE = ("out of bounds", "too old", "too far behind", "timestamp-too-old")
_ORDER = ("out of order", "duplicate sample", "duplicate timestamp", "out-of-order")
_PATH = "unsupported path"
_ADDRESS = (
    "the receiver does not take this signal, or takes it below another path."
    " Prometheus needs --web.enable-otlp-receiver or --web.enable-remote-write-receiver"
)


def classify(answer: Answer, *, tries: int) -> Outcome:
    """Judge an answer; `tries` counts the requests with this content so far, this one included."""
    status = answer.status
    if 200 <= status < 300:
        if "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<":
            return blocked("other-service", _said(answer))
        return DELIVERED
    said = _said(answer)
    if status in (400, 500):
        return _judge_refusal(status, said, tries)
    credentials = "check token_file or headers_file"
    return classify_status(answer, said, credentials=credentials, address=_ADDRESS)


def _judge_refusal(status: int, said: str, tries: int) -> Outcome:
    text = said.lower()
    if _PATH in text:
        return blocked("wrong-address", f"{said}: {_ADDRESS}")
    if any(words in text for words in (_AGE if status == 400 else ("too old sample",))):
        return split(TOO_OLD, said)
    if status == 500:
        if tries < TRIES_ON_500:
            return retry(SERVER_ERROR, said)
        return replace(split(SERVER_ERROR, said), ambiguous=True)
    if any(words in text for words in _ORDER):
        return split(ALREADY_THERE, said)
    return split("bad-request", said)


def _said(answer: Answer) -> str:
    """The status and the message: as text, or out of a protobuf `Status{1 code, 2 message}`."""
    if "protobuf" in answer.headers.get("content-type", ""):
        try:
            found = dict(protobuf.fields(answer.body))
            return answer.said(protobuf.message(found.get(2, b"")) or None)
        except protobuf.MalformedMessage:
            pass
    return answer.said()

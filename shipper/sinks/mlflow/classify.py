"""What an answer of an MLflow tracking server means for the data: one table. Pure.

The server names an error in JSON, `{error_code, message}`. The code counts before the status:

- 2xx with JSON: done.
- RESOURCE_DOES_NOT_EXIST: no such run or experiment.
- "must be in the 'active' state": the run, or its experiment, was deleted.
- RESOURCE_ALREADY_EXISTS: another service was quicker, or the experiment is in the trash.
- TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED, 408, 425, 429, 502, 503, 504: it asks to wait.
- 401, 403: it rejects the credentials, or the name by which it is addressed.
- 404 without a code, 405, 415, 3xx, HTML: another address.
- 400: it rejects something in the request, and has stored nothing of it. Without a code, it is not
  the server that rejects: a proxy that wants HTTPS says so, too. 413: too large.
- 500: it failed. A repetition changes nothing, so the request is sent until it succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from shipper.http_client import Answer
from shipper.sinks.outcome import (
    DELIVERED,
    Disposition,
    Outcome,
    Reason,
    blocked,
    busy,
    classify_status,
    retry,
    split,
)

NO_RUN = "no-run"  # words that do not leave this sink
ALREADY_EXISTS = "already-exists"
RUN_DELETED = Reason.RUN_DELETED.word

_BUSY_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_ADDRESS = "url is the address of the MLflow server, without /api or #/experiments"
_CREDENTIALS = "check token_file, headers_file or the variables MLFLOW_TRACKING_*"
_HOST = "Invalid Host header"
_HOST_ADVICE = "start the server with --allowed-hosts and the host name of url"


def classify(answer: Answer) -> Outcome:
    """Judge an answer."""
    said = content(answer)
    if 200 <= answer.status < 300:
        if said is None:
            return blocked("other-service", answer.said())
        return DELIVERED
    code, message = _error(said)
    detail = f"{answer.status} {code} {message}".strip() if code else answer.said()
    if code in _BUSY_CODES:
        return busy(answer, detail)
    hint = _HOST_ADVICE if _HOST in detail else _CREDENTIALS
    by_status = classify_status(answer, detail, credentials=hint, address=_ADDRESS)
    if by_status.reason in ("busy", "not-allowed"):
        return by_status
    if "'active' state" in message:
        return Outcome(disposition=Disposition.PERMANENT, reason=RUN_DELETED, detail=detail)
    if code == "RESOURCE_DOES_NOT_EXIST":
        return retry(NO_RUN, detail)
    if code == "RESOURCE_ALREADY_EXISTS":
        return retry(ALREADY_EXISTS, detail)
    if answer.status == 400:
        return split("bad-request", detail) if code else blocked("other-service", detail)
    return retry("server-error", detail) if answer.status >= 500 else by_status


def content(answer: Answer) -> dict[str, Any] | None:
    """The JSON object of an answer."""
    try:
        found = orjson.loads(answer.body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _error(said: Mapping[str, Any] | None) -> tuple[str, str]:
    code, message = (said or {}).get("error_code"), (said or {}).get("message")
    return str(code or ""), str(message or "")[:300]

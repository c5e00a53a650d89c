"""The answers of the telemetry-processor, byte for byte as its clients see them.

Rules:

* Every answer of a handler is an envelope ``{"meta": {"code", "message"}, "data", "tracing"}``.
  Success is status 200 and code 2000. An error repeats its status as the code; its ``data`` is
  null for 400 and ``{}`` for 500.
* A path or method without a handler is ``404 page not found`` in plain text; a trailing slash
  is a redirect to the path without it.
* The queries of this receiver (which the telemetry-processor does not have) answer flat JSON.
* What leaves here is always correct JSON: no NaN, no Infinity.

Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

OK = 2000
JSON = "application/json; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"

BAD_FORMAT = "invalid request format"
NO_IDS = "either workload_uid or pod_name is required"
NO_WORKLOAD = "no valid workload found"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One HTTP answer; ``code`` is the envelope's own, None where there is no envelope."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    code: int | None = None


def success(data: Any) -> Reply:
    """Return 200 with code 2000."""
    return enveloped(status=200, code=OK, message="OK", data=data)


def bad_request(message: str) -> Reply:
    """Return 400: nothing of the request was processed."""
    return enveloped(status=400, code=400, message=message, data=None)


def failure(message: str) -> Reply:
    """Return 500; the cause never reaches the client."""
    return enveloped(status=500, code=500, message=message, data={})


def enveloped(*, status: int, code: int, message: str, data: Any) -> Reply:
    """Return an answer in the common envelope."""
    envelope = {"meta": {"code": code, "message": message}, "data": data, "tracing": None}
    return Reply(status=status, body=_encoded(envelope), content_type=JSON, code=code)


def flat(data: Any) -> Reply:
    """Return the answer to a query: JSON without an envelope."""
    return Reply(status=200, body=_encoded(data), content_type=JSON)


def plain(status: int, text: str) -> Reply:
    """Return a plain-text answer."""
    return Reply(status=status, body=text.encode(), content_type=PLAIN)


def not_found() -> Reply:
    """Return what any path or method without a handler gets."""
    return plain(404, "404 page not found")


def redirect(method: str, location: str) -> Reply:
    """Return a redirect: permanent for GET, 307 for everything that has a body."""
    status = HTTPStatus.MOVED_PERMANENTLY if method == "GET" else HTTPStatus.TEMPORARY_REDIRECT
    return Reply(status=status, headers=(("Location", location),))


def _encoded(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

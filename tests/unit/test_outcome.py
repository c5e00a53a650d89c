"""Every answer of the telemetry-processor has one meaning for the data: the whole table."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.sinks.outcome import Disposition, Outcome, classify_failure, retry_after
from shipper.sinks.processor.classify import (
    BAD_REQUEST,
    NO_IDENTITY,
    NO_WORKLOAD,
    classify,
    is_processors,
)

DELIVERED, RETRY, SPLIT, PERMANENT = (
    Disposition.DELIVERED,
    Disposition.RETRY,
    Disposition.SPLIT,
    Disposition.PERMANENT,
)
PAGE = b"<html><body>It works!</body></html>"
PLAIN = b"404 page not found"


def envelope(code: int, message: str = "OK", data: Any = None) -> bytes:
    meta = {"code": code, "message": message}
    return json.dumps({"meta": meta, "data": data, "tracing": None}).encode()


def counted(count: int | None = 5, workloads: int = 1, succeeded: int = 1) -> bytes:
    data = {"count": count, "workloads_count": workloads, "success_count": succeeded}
    return envelope(2000, data={k: v for k, v in data.items() if v is not None})


def judged(status: int, body: bytes, *, tries: int = 1, items: int | None = 5) -> Outcome:
    return classify(Answer(status=status, headers={}, body=body), items=items, tries=tries)


W, S = "workload", "sink"
FAILED = envelope(500, "failed to process metrics", {})
BAD, NOBODY, UNKNOWN = (envelope(400, text) for text in (BAD_REQUEST, NO_IDENTITY, NO_WORKLOAD))

# status, body, tries, disposition, reason, scope, alarm, ambiguous
TABLE = [
    (200, counted(), 1, DELIVERED, "delivered", W, False, False),
    (200, counted(None), 1, DELIVERED, "delivered", W, False, False),
    (200, envelope(2000, data={"message": "ok", "count": 5}), 1, DELIVERED, "delivered", W, 0, 0),
    (200, envelope(2000), 1, DELIVERED, "delivered", W, False, False),
    (200, counted(workloads=2, succeeded=1), 1, DELIVERED, "partly", W, False, False),
    (200, counted(workloads=2, succeeded=0), 1, RETRY, "not-stored", W, True, False),
    (200, counted(4), 1, RETRY, "miscounted", W, True, False),
    (200, counted(6), 9, RETRY, "miscounted", W, True, False),
    (200, envelope(0), 1, RETRY, "other-service", S, True, False),
    (200, envelope(4001), 1, RETRY, "other-service", S, True, False),
    (200, envelope(5000, "Unknown error"), 99, RETRY, "other-service", S, True, False),
    (200, PAGE, 1, RETRY, "other-service", S, True, False),
    (200, b"", 1, RETRY, "other-service", S, True, False),
    (200, counted()[:-9], 1, RETRY, "other-service", S, True, False),
    (200, b"null", 1, RETRY, "other-service", S, True, False),
    (200, b"[]", 1, RETRY, "other-service", S, True, False),
    (200, b'{"code":0,"data":{}}', 1, RETRY, "other-service", S, True, False),
    (200, b'{"meta":2000}', 1, RETRY, "other-service", S, True, False),
    (201, counted(), 1, RETRY, "unexpected", S, True, False),
    (202, b"", 1, RETRY, "unexpected", S, True, False),
    (204, b"", 99, RETRY, "unexpected", S, True, False),
    (301, b"", 1, RETRY, "redirected", S, True, False),
    (302, b"", 1, RETRY, "redirected", S, True, False),
    (307, b"", 99, RETRY, "redirected", S, True, False),
    (308, b"", 1, RETRY, "redirected", S, True, False),
    (400, BAD, 1, RETRY, "bad-request", W, False, False),
    (400, BAD, 2, SPLIT, "bad-request", W, False, False),
    (400, BAD, 3, SPLIT, "bad-request", W, False, False),
    (400, NOBODY, 1, PERMANENT, "no-identity", W, True, False),
    (400, UNKNOWN, 1, RETRY, "unknown-workload", W, False, False),
    (400, UNKNOWN, 10_000, RETRY, "unknown-workload", W, False, False),
    (400, envelope(400, "something new"), 99, RETRY, "other-service", S, True, False),
    (400, PAGE, 99, RETRY, "other-service", S, True, False),
    (400, b"", 99, RETRY, "other-service", S, True, False),
    (401, b'{"code":401,"message":"authentication required"}', 99, RETRY, "not-allowed", S, 1, 0),
    (403, PAGE, 99, RETRY, "not-allowed", S, True, False),
    (404, PLAIN, 99, RETRY, "wrong-address", S, True, False),
    (405, b"", 99, RETRY, "wrong-address", S, True, False),
    (408, b"", 99, RETRY, "busy", S, False, False),
    (425, b"", 99, RETRY, "busy", S, False, False),
    (429, b"", 99, RETRY, "busy", S, False, False),
    (411, b"", 99, RETRY, "unexpected", S, True, False),
    (415, b"", 99, RETRY, "unexpected", S, True, False),
    (431, b"", 99, RETRY, "unexpected", S, True, False),
    (413, PAGE, 1, SPLIT, "too-large", W, False, False),
    (418, b"", 99, RETRY, "unexpected", S, True, False),
    (500, FAILED, 1, RETRY, "server-error", W, False, False),
    (500, FAILED, 3, RETRY, "server-error", W, False, False),
    (500, FAILED, 4, SPLIT, "server-error", W, False, True),
    (500, PAGE, 3, RETRY, "server-error", W, False, False),
    (500, PAGE, 4, SPLIT, "server-error", W, False, True),
    (500, b"", 2, RETRY, "server-error", W, False, False),
    (500, b"", 3, SPLIT, "server-error", W, False, True),
    (501, b"", 99, RETRY, "unexpected", S, True, False),
    (502, PAGE, 99, RETRY, "busy", S, False, False),
    (503, b"", 99, RETRY, "busy", S, False, False),
    (504, b"", 99, RETRY, "busy", S, False, False),
    (599, b"", 99, RETRY, "unexpected", S, True, False),
]


@pytest.mark.promise("G6")
@pytest.mark.parametrize(
    ("status", "body", "tries", "disposition", "reason", "scope", "alarm", "ambiguous"), TABLE
)
def test_an_answer_means(
    status: int,
    body: bytes,
    tries: int,
    disposition: Disposition,
    reason: str,
    scope: str,
    alarm: bool,
    ambiguous: bool,
) -> None:
    outcome = judged(status, body, tries=tries)
    assert (outcome.disposition, outcome.reason, outcome.scope) == (disposition, reason, scope)
    assert (outcome.needs_operator, outcome.ambiguous) == (alarm, ambiguous)


@pytest.mark.promise("G6")
@pytest.mark.parametrize("body", [b"", PAGE, envelope(500), envelope(0)])
@pytest.mark.parametrize("tries", [1, 1000])
def test_no_status_alone_buries_or_delivers_anything(body: bytes, tries: int) -> None:
    for status in range(100, 600):
        disposition = judged(status, body, tries=tries).disposition
        assert disposition is RETRY or (disposition is SPLIT and status in (413, 500)), status


def test_an_answer_to_what_is_not_counted_need_not_count() -> None:
    assert judged(200, counted(99), items=None).disposition is DELIVERED


def test_the_detail_says_what_the_receiver_said() -> None:
    assert judged(503, b"the kettle is on").detail == "503 the kettle is on"
    assert len(judged(503, b"x" * 10_000).detail) < 300
    assert "check the URL" in judged(404, PLAIN).detail


def test_a_redirect_says_where_to() -> None:
    headers = {"location": "http://elsewhere/"}
    answer = Answer(status=307, headers=headers, body=b"")
    assert "http://elsewhere/" in classify(answer, items=1, tries=1).detail


@pytest.mark.parametrize(
    ("reason", "sent", "tries", "disposition", "scope"),
    [
        ("refused", False, 99, RETRY, S),
        ("no-connection", False, 99, RETRY, S),
        ("connect-timeout", False, 99, RETRY, S),
        ("no-url", False, 99, RETRY, W),
        ("bad-url", False, 99, RETRY, S),
        ("bad-header", False, 99, RETRY, S),
        ("tls", False, 99, RETRY, S),
        ("connection-lost", True, 99, RETRY, W),
        ("timeout", True, 1, RETRY, W),
        ("timeout", True, 2, SPLIT, W),
        ("timeout", True, 99, SPLIT, W),
        ("timeout", False, 99, RETRY, S),
    ],
)
@pytest.mark.promise("G6")
def test_a_failure_means(
    reason: str, sent: bool, tries: int, disposition: Disposition, scope: str
) -> None:
    outcome = classify_failure(Unreachable(reason, "why", sent=sent), tries=tries)
    assert (outcome.disposition, outcome.scope, outcome.reason) == (disposition, scope, reason)
    assert outcome.ambiguous == (disposition is SPLIT)
    assert outcome.needs_operator == (reason in ("no-url", "bad-url", "bad-header", "tls"))
    assert outcome.detail == "why"


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:50:07 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"retry-after": LATER, "date": DATE}, 30.0),
        ({"retry-after": DATE, "date": LATER}, 0.0),
        ({"retry-after": LATER}, None),
        ({"retry-after": LATER, "date": "once upon a time"}, None),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:07 -0000", "date": DATE}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_the_wish_to_wait_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_a_busy_receiver_is_asked_how_long(status: int) -> None:
    answer = Answer(status=status, headers={"retry-after": "42"}, body=b"")
    assert classify(answer, items=1, tries=1).retry_after == 42.0


@settings(deadline=None)
@given(st.text(), st.text())
@example("Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359")
@example("9" * 400, "")
@example(" ", " ")
@example("Sun, 06 Nov 1994 08:49:37 +99999999999", DATE)
@example("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", DATE)
def test_no_header_breaks_the_reading_of_it(wish: str, date: str) -> None:
    seconds = retry_after({"retry-after": wish, "date": date})
    assert seconds is None or seconds >= 0


@settings(deadline=None)
@given(st.binary(), st.integers(100, 599), st.integers(1, 10))
def test_no_body_breaks_the_judgement(body: bytes, status: int, tries: int) -> None:
    assert judged(status, body, tries=tries).disposition is not DELIVERED


def test_the_processors_answers_are_told_from_others() -> None:
    own = [counted(), BAD, FAILED]
    others = [PAGE, PLAIN, b"", b"{}", b"[2000]"]
    for body, expected in [*((b, True) for b in own), *((b, False) for b in others)]:
        assert is_processors(Answer(status=200, headers={}, body=body)) is expected

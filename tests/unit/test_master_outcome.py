"""What the answers of a training master mean: the table, row by row."""

from __future__ import annotations

import pytest

from shipper.errors import Unreachable
from shipper.sinks.dlrover.classify import (
    TRIES_REFUSED,
    Reply,
    judge_failure,
    judge_report,
    judge_status,
)
from shipper.sinks.outcome import Disposition

RETRY, PERMANENT, DELIVERED = Disposition.RETRY, Disposition.PERMANENT, Disposition.DELIVERED
TOO_LARGE = "Received message larger than max (5 vs. 4)"


@pytest.mark.parametrize(
    ("status", "success", "detail", "disposition", "reason", "ambiguous"),
    [
        ("OK", True, "", DELIVERED, "delivered", False),
        ("OK", False, "", RETRY, "refused", False),
        ("OK", None, "<html>", RETRY, "other-service", True),
        ("UNKNOWN", None, "Exception calling application", PERMANENT, "master-error", False),
        ("500", None, "", PERMANENT, "master-error", False),
        ("RESOURCE_EXHAUSTED", None, TOO_LARGE, PERMANENT, "too-large", False),
        ("RESOURCE_EXHAUSTED", None, "too many calls", RETRY, "busy", False),
        ("413", None, "", PERMANENT, "too-large", False),
        ("503", None, "", RETRY, "busy", False),
        ("UNAUTHENTICATED", None, "", RETRY, "wrong-job", False),
        ("406", None, "", RETRY, "wrong-job", False),
        ("UNIMPLEMENTED", None, "", RETRY, "other-service", False),
        ("404", None, "", RETRY, "other-service", False),
        ("INTERNAL", None, "", RETRY, "unexpected", True),
        ("418", None, "", RETRY, "unexpected", True),
    ],
)
def test_every_answer_has_its_meaning(
    status: str,
    success: bool | None,
    detail: str,
    disposition: Disposition,
    reason: str,
    ambiguous: bool,
) -> None:
    outcome = judge_report(Reply(status=status, success=success, detail=detail), refusals=0)
    assert (outcome.disposition, outcome.reason) == (disposition, reason)
    if disposition is RETRY and reason != "other-service":
        assert outcome.ambiguous is ambiguous
    assert outcome.scope == "workload", "no other master has to wait"


@pytest.mark.parametrize("reply", [Reply(status="OK", success=False), Reply(status="406")])
def test_a_clear_no_is_for_good_after_some_times(reply: Reply) -> None:
    verdicts = [judge_report(reply, refusals=n).disposition for n in range(TRIES_REFUSED)]
    assert verdicts == [RETRY] * (TRIES_REFUSED - 1) + [PERMANENT]


@pytest.mark.parametrize("sent", [True, False])
def test_no_answer_is_in_doubt_when_something_was_sent(sent: bool) -> None:
    outcome = judge_failure(Unreachable("connection-lost", "h:1", sent=sent))
    assert (outcome.disposition, outcome.ambiguous) == (RETRY, sent)
    assert outcome.retry_after is not None, "what is to be told ages quickly"


@pytest.mark.parametrize("reason", ["bad-address", "unsupported"])
def test_what_no_waiting_ends_calls_the_operator(reason: str) -> None:
    assert judge_failure(Unreachable(reason, "", sent=False)).needs_operator


def test_nothing_that_was_only_asked_is_in_doubt() -> None:
    assert not judge_status(Reply(status="INTERNAL")).ambiguous

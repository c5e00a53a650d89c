"""What an answer of the telemetry-processor means for the data: one table, in one place. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from shipper.http_client import Answer
from shipper.sinks.outcome import (
    DELIVERED,
    UNKNOWN_WORKLOAD,
    Disposition,
    Outcome,
    blocked,
    classify_status,
    retry,
    split,
)

SUCCESS_CODE = 2000
BAD_REQUEST = "invalid request format"
NO_IDENTITY = "either workload_uid or pod_name is required"
NO_WORKLOAD = "no valid workload found"
UNKNOWN_WORKLOAD_SECONDS = 12.0

# Tries of one unchanged request after which an ambiguous refusal is taken for the data's fault.
TRIES_ON_500 = 4
TRIES_ON_PANIC = 3


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
    if status == 415:  # the processor takes any content type
        return blocked("unexpected", answer.said())
    credentials, address = "check token_file or cookie_file", "check the URL"
    return classify_status(answer, answer.said(), credentials=credentials, address=address)


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
        return blocked("other-service", f"200 without an envelope: {answer.said()}")
    code = envelope["meta"].get("code")
    if code != SUCCESS_CODE:
        detail = f"200 with meta.code {code}: not the telemetry-processor, or not this route of it"
        return blocked("other-service", detail)
    data = envelope.get("data")
    facts = data if isinstance(data, dict) else {}
    count = facts.get("count")
    if items is not None and isinstance(count, int) and count != items:
        detail = f"{items} items sent, {count} counted by the receiver"
        return retry("miscounted", detail, needs_operator=True)
    succeeded, workloads = facts.get("success_count"), facts.get("workloads_count")
    if succeeded == 0:
        return retry("not-stored", f"stored for none of {workloads} workloads", needs_operator=True)
    if isinstance(succeeded, int) and isinstance(workloads, int) and succeeded < workloads:
        return Outcome(
            disposition=Disposition.DELIVERED,
            reason="partly",
            detail=f"stored for {succeeded} of the pod's {workloads} workloads",
        )
    return DELIVERED


def _judge_bad_request(answer: Answer, tries: int) -> Outcome:
    envelope = _envelope(answer.body)
    message = envelope["meta"].get("message") if envelope else None
    if message == BAD_REQUEST:
        if tries < 2:
            # A proxy that cuts bodies short looks the same; the same content once more tells.
            return retry("bad-request", answer.said())
        return split("bad-request", answer.said())
    if message == NO_IDENTITY:
        return Outcome(
            disposition=Disposition.PERMANENT,
            reason="no-identity",
            detail="neither WORKLOAD_UID nor POD_NAME was set in the training process. To send"
            " this, give the workload: lens-ship replay --as-workload",
            needs_operator=True,
        )
    if message == NO_WORKLOAD:
        # The processor looks its pods up again about every 20 seconds.
        return replace(retry(UNKNOWN_WORKLOAD, answer.said()), retry_after=UNKNOWN_WORKLOAD_SECONDS)
    return blocked("other-service", answer.said())


def _judge_server_error(answer: Answer, tries: int) -> Outcome:
    enough = TRIES_ON_500 if answer.body else TRIES_ON_PANIC
    if tries >= enough:
        return replace(split("server-error", answer.said()), ambiguous=True)
    return retry("server-error", answer.said())


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

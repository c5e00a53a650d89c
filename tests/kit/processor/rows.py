"""What becomes of a point in the table ``training_performance``: keys, times, documents.

Rules:

* A row is one (workload, step as int32, serial 1). Run, pod and rank are not part of the key,
  and a step beyond 32 bits wraps around.
* A new row holds ``source``, ``run_id``, ``step``, the values and ``created_at``; values named
  like one of the first three replace it.
* A row that exists is merged: its document without ``history`` is appended to ``history``, the
  new values overwrite, and the time of its first write stays. The last arrival wins, whatever
  its timestamp says.
* /metrics makes one write of all points of a step, at the time of the first; /logs makes one
  write of each entry.
* PostgreSQL refuses U+0000 anywhere in the document or ids, and ids over 256 characters.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.kit.processor.posts import LogEntry, MetricPoint

SOURCE = "wandb"
SERIAL = 1
LONGEST_ID = 256
HIDDEN = frozenset(
    {
        "step",
        "run_id",
        "source",
        "history",
        "created_at",
        "updated_at",
        "iteration",
        "target_iteration",
    }
)
"""Keys of a row's document that readers do not show as metrics."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INT64_MIN = -(2**63)
# A backslash that is itself escaped does not begin an escape.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, kw_only=True)
class Write:
    """The values that one write brings to the row of a step."""

    step: int
    timestamp: float
    values: Mapping[str, Any]


def metric_writes(points: Iterable[MetricPoint]) -> list[Write]:
    """Return one write per distinct step; of one name in one step the last value wins."""
    values: dict[int, dict[str, float]] = {}
    times: dict[int, float] = {}
    for point in points:
        values.setdefault(point.step, {})[point.name] = point.value
        times.setdefault(point.step, point.timestamp)
    return [Write(step=step, timestamp=times[step], values=named) for step, named in values.items()]


def log_writes(entries: Iterable[LogEntry]) -> list[Write]:
    """Return one write per entry."""
    return [
        Write(step=entry.step, timestamp=entry.timestamp, values=entry.data) for entry in entries
    ]


def iteration(step: int) -> int:
    """Return the step as it stands in the row's key: wrapped to 32 bits."""
    return (step + 2**31) % 2**32 - 2**31


def nanoseconds(seconds: float) -> int:
    """Return a Unix time in int64 nanoseconds; out of range gives the smallest int64."""
    scaled = seconds * 1e9
    return int(scaled) if _INT64_MIN <= scaled < 2**63 else _INT64_MIN


def rfc3339(at_ns: int) -> str:
    """Return a time in RFC 3339 form, to the second, in UTC."""
    moment = _EPOCH + timedelta(seconds=at_ns // 10**9)
    return moment.isoformat().replace("+00:00", "Z")


def first_document(run_id: str, write: Write) -> dict[str, Any]:
    """Return the document of a row that did not exist."""
    written = rfc3339(nanoseconds(write.timestamp))
    return {**_brought(run_id, write), "created_at": written}


def merged_document(
    old: Mapping[str, Any], created_ns: int, run_id: str, write: Write
) -> dict[str, Any]:
    """Return the document of a row that existed, with its former self added to the history."""
    kept = {name: value for name, value in old.items() if name != "history"}
    history = old.get("history")
    entry = {**kept, "updated_at": rfc3339(created_ns)}
    return {
        **kept,
        **_brought(run_id, write),
        "history": [*(history if isinstance(history, list) else ()), entry],
        "updated_at": rfc3339(nanoseconds(write.timestamp)),
    }


def id_refused(value: str) -> bool:
    """Say whether the database refuses this id for good."""
    return len(value) > LONGEST_ID or "\0" in value


def document_refused(encoded: str) -> bool:
    """Say whether the database refuses this JSON document for good."""
    return _ESCAPED_NUL.search(encoded) is not None


def _brought(run_id: str, write: Write) -> dict[str, Any]:
    return {"source": SOURCE, "run_id": run_id, "step": write.step, **write.values}

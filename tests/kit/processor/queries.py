"""Looking at what arrived: the questions that the query GETs ask of the store.

The telemetry-processor has no such routes; the answers follow the reading API beside it:
flat JSON, times in milliseconds, and 0.0 for every value that is not a number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from tests.kit.processor.rows import HIDDEN, rfc3339
from tests.kit.processor.store import Store


def workloads(store: Store) -> list[dict[str, Any]]:
    """Return every workload that has rows, with their number and range of steps."""
    return store.select(
        "SELECT workload_uid, count(*) AS rows, min(iteration) AS first_iteration,"
        " max(iteration) AS last_iteration FROM training_performance"
        " GROUP BY workload_uid ORDER BY workload_uid"
    )


def rows(store: Store, workload: str) -> list[dict[str, Any]]:
    """Return the rows of a workload by step, whole: history included."""
    found = store.select(
        "SELECT * FROM training_performance WHERE workload_uid = ? ORDER BY iteration, id",
        (workload,),
    )
    return [
        {
            **row,
            "performance": json.loads(row["performance"]),
            "created_at": rfc3339(row["created_ns"]),
        }
        for row in found
    ]


def available(store: Store, workload: str) -> list[dict[str, Any]]:
    """Return the names of a workload's metrics, each with the number of its points."""
    counts = Counter(
        name for row in rows(store, workload) for name in row["performance"] if name not in HIDDEN
    )
    return [{"name": name, "count": count} for name, count in sorted(counts.items())]


def data(store: Store, workload: str, names: Collection[str]) -> list[dict[str, Any]]:
    """Return the points of the named metrics by step; of all metrics when none is named."""
    return [
        {
            "name": name,
            "iteration": row["iteration"],
            "value": _number(value),
            "timestamp": row["created_ns"] // 1_000_000,
            "run_id": row["performance"]["run_id"],
        }
        for row in rows(store, workload)
        for name, value in row["performance"].items()
        if name not in HIDDEN and (not names or name in names)
    ]


def detections(store: Store, workload: str | None) -> list[dict[str, Any]]:
    """Return the detections, of one workload or of all, in the order of their arrival."""
    found = store.select(
        "SELECT * FROM detection WHERE workload_uid = coalesce(?, workload_uid) ORDER BY id",
        (workload,),
    )
    return [{**row, "document": json.loads(row["document"])} for row in found]


def requests(store: Store) -> list[dict[str, Any]]:
    """Return the line of every POST, in the order they were stored."""
    return store.select("SELECT * FROM request ORDER BY id")


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else 0.0

"""A diagnosis report for the training master: a piece of log, a metrics sample, stacks.

The fields are those of DLRover's `WorkerTrainingMetric`, with its names and types: `timestamp` in
whole Unix seconds, `data_type` one of `TRAINING_LOG`, `XPU_TIMER_METRIC`, `STACK_TRACE` (others
may follow), `data_content` text. Two more may stand beside them, which no master sees:

- `source` tells a collector where to go on after a restart (`spooler.filetail.position`);
- `master`, "host:port", is the master that the program itself named when it made its client. The
  identity of the spool names it too, unless the spool was begun before: then it tells people why
  the report went elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "report"

# What a master is sent of a body: exactly these.
FIELDS = (
    "timestamp",
    "data_type",
    "data_content",
    "node_id",
    "node_type",
    "node_rank",
    "is_final_result",
    "need_report",
)


def make(
    *,
    time: float,
    metric: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    master: str = "",
) -> dict[str, Any]:
    """`metric` has exactly the `FIELDS`; `source` and `master` are left out where empty."""
    body: dict[str, Any] = {"time": time, **{name: metric[name] for name in FIELDS}}
    if source:
        body["source"] = dict(source)
    if master:
        body["master"] = master
    return body


EXAMPLE = make(
    time=1700000100.0,
    metric={
        "timestamp": 1700000100,
        "data_type": "TRAINING_LOG",
        "data_content": "step 99 loss 0.31\n",
        "node_id": 3,
        "node_type": "worker",
        "node_rank": 3,
        "is_final_result": False,
        "need_report": False,
    },
)

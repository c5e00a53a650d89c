"""What to do about a failed training process, and why: one call of `diagnose_training_failure`.

`action` is the name of a `DiagnosisActionType`, `rule` the name of the row of the rule table that
decided (`spooler.diagnosis.rules`), `evidence` the line that it recognised, `seen_in` where that
line stood: `failures`, `log` or nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "decision"


def make(
    *, time: float, verdict: Mapping[str, Any], restart_count: int, failures: str
) -> dict[str, Any]:
    """`verdict` has `action`, `rule`, `reason`, `evidence`, `seen_in`; `failures` is text."""
    return {"time": time, **verdict, "restart_count": restart_count, "failures": failures}


EXAMPLE = make(
    time=1700000100.0,
    verdict={
        "action": "RESTART_WORKER",
        "rule": "gpu-memory",
        "reason": "the accelerator's memory did not suffice",
        "evidence": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "seen_in": "failures",
    },
    restart_count=0,
    failures="error: CUDA out of memory. Tried to allocate 2.00 GiB",
)

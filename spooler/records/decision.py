"""What to do about a failed training process, and why: one call of `diagnose_training_failure`."""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "decision"


class DecisionRecord(NamedTuple):
    """One decision."""

    time: float
    action: str  # the name of a `DiagnosisActionType`
    rule: str  # the row of `spooler.diagnosis.rules` that decided
    reason: str
    evidence: str  # the line that the rule matched
    seen_in: str  # where that line was: "failures", "log" or ""
    restart_count: int
    failures: str  # as the program described them
    repeats: int = 0  # how often it has failed like this in a row, without a step of progress
    master: str = ""  # as in `spooler.records.report`
    monotonic: float | None = None  # likewise


_schema = Schema(DecisionRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
    time=1700000100.0,
    action="RESTART_WORKER",
    rule="gpu-memory",
    reason="the accelerator has too little memory",
    evidence="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    seen_in="failures",
    restart_count=0,
    failures="error: CUDA out of memory. Tried to allocate 2.00 GiB",
)

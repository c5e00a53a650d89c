"""A diagnosis report for the training master: a piece of log, a metrics sample, stacks."""

from __future__ import annotations

from typing import Any, NamedTuple

from spooler.records.schema import Schema

NAME = "report"


class ReportRecord(NamedTuple):
    """One report. From `timestamp` to `need_report`: DLRover's names and types, see `FIELDS`."""

    time: float
    timestamp: int | float  # whole Unix seconds
    data_type: str  # TRAINING_LOG, XPU_TIMER_METRIC, STACK_TRACE; others may follow
    data_content: str
    node_id: int
    node_type: str
    node_rank: int
    is_final_result: bool
    need_report: bool
    # Where a collector continues after a restart, see `spooler.filetail.checkpoint`.
    source: dict[str, Any] | None = None
    # "host:port" of the master that the program named. The identity of the spool names it too,
    # unless the spool was opened before: then it explains why the report went elsewhere.
    master: str = ""
    # The monotonic clock at the time of the record, which processes of the same boot share.
    monotonic: float | None = None


# In the first line of the stacks of a program that has stopped to log steps.
HANG = "no step for "
# What a master is sent of a record: exactly these fields.
FIELDS = ReportRecord._fields[1:9]

_schema = Schema(ReportRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
    time=1700000100.0,
    timestamp=1700000100,
    data_type="TRAINING_LOG",
    data_content="step 99 loss 0.31\n",
    node_id=3,
    node_type="worker",
    node_rank=3,
    is_final_result=False,
    need_report=False,
)

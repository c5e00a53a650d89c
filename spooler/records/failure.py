"""A training process has failed: what DLRover's `report_failures` is given, before any decision."""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "failure"


class FailureRecord(NamedTuple):
    """One failure, with DLRover's names and values."""

    time: float
    error_data: str  # of DLRover's agent: JSON, rank -> local_rank, exitcode, message, datetime
    restart_count: int  # of the processes of this node so far; -1: unknown
    level: str  # process_error, node_error, rdzv_error, error, warning or info
    node_id: int
    node_type: str
    master: str = ""  # as in `spooler.records.report`
    monotonic: float | None = None  # likewise


_schema = Schema(FailureRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
    time=1700000100.0,
    error_data='{"3": {"local_rank": 3, "exitcode": 1, "message": "CUDA out of memory",'
    ' "datetime": "2023-11-14 22:15:00"}}',
    restart_count=1,
    level="process_error",
    node_id=3,
    node_type="worker",
)

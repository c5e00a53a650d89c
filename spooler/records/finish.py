"""A run has ended: by its tracker's own call, or with the interpreter."""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "finish"


class FinishRecord(NamedTuple):
    """The end of a run."""

    run: str
    time: float
    step: int | None  # the last one recorded, by the tracker's own number
    exit_code: int | None  # None where the tracker has none


_schema = Schema(FinishRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(run="4x7k2m9q", time=1700000100.0, step=99, exit_code=0)

"""The training process ended in order. A spool without this record exited uncleanly."""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "exit"


class ExitRecord(NamedTuple):
    """The last record of a process."""

    time: float
    steps: dict[str, int]  # run -> the last step recorded


_schema = Schema(ExitRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(time=1700000100.0, steps={"4x7k2m9q": 99})

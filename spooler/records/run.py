"""A run of an experiment tracker began in this process, or continues in a new spool of it."""

from __future__ import annotations

from typing import NamedTuple

from spooler.records.schema import Schema

NAME = "run"


class RunRecord(NamedTuple):
    """What the tracker says of the run."""

    run: str
    time: float
    project: str = ""
    name: str = ""
    entity: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = []  # noqa: RUF012 - never changed
    mode: str = ""
    resumed: bool = False
    step: int = 0  # the next one
    tracker: str = "wandb"
    tracker_version: str = ""


_schema = Schema(RunRecord, renamed={"tracker_version": "wandb"})
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
    run="4x7k2m9q",
    time=1700000000.0,
    project="primus-training",
    name="golden-sun-1",
    tags=["baseline"],
    mode="offline",
    tracker_version="0.31.0",
)

"""A run of an experiment tracker began in this process, or continues in a new spool of it.

A later record of a run in the same spool is an `update`: its `config` has only what has changed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    # Name, joined by `.` where nested -> text, number or truth value; secrets are masked.
    config: dict[str, Any] = {}  # noqa: RUF012 - never changed
    update: bool = False  # of an earlier record in this spool
    sweep: str = ""  # id of the sweep that it is a trial of
    # As the steps that follow have it, and the reason; see `spooler.hooks.names`.
    sole_writer: bool = False
    run_prefix: bool = False
    reason: str = ""
    mlflow_run_id: str = ""  # of the run that MLflow's own server has


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
    config={"lr": 0.1, "model.layers": 12, "model.name": "llama", "api_key": "[masked]"},
)

"""A wandb run has begun in this process, or goes on in a new spool of it."""

from __future__ import annotations

from typing import Any

NAME = "run"


def make(*, run: str, time: float, facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` are project, name, entity, group, job_type, tags, mode, resumed, step, wandb."""
    return {"run": run, "time": time, **facts}


EXAMPLE = make(
    run="4x7k2m9q",
    time=1700000000.0,
    facts={
        "project": "primus-training",
        "name": "golden-sun-1",
        "entity": "",
        "group": "",
        "job_type": "",
        "tags": ["baseline"],
        "mode": "offline",
        "resumed": False,
        "step": 0,
        "wandb": "0.31.0",
    },
)

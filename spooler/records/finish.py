"""A wandb run has ended: by `finish`, by leaving its `with` block, or with the interpreter."""

from __future__ import annotations

from typing import Any

NAME = "finish"


def make(*, run: str, time: float, step: int | None, exit_code: int | None) -> dict[str, Any]:
    """`step` is the last one recorded, None without any; `exit_code` None where wandb has none."""
    return {"run": run, "time": time, "step": step, "exit_code": exit_code}


EXAMPLE = make(run="4x7k2m9q", time=1700000100.0, step=99, exit_code=0)

"""One call of `wandb.log`: a step, or a part of one.

`data` is what the user passed, nested as passed; numbers, text, booleans and None as they are,
anything else as `spooler.records.values` puts it. `closed` says that wandb ended the step with
this call; otherwise more parts of the same step may follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "step"


def make(
    *, run: str, step: int, time: float, closed: bool, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of a step; `step` is wandb's own number of it."""
    return {"run": run, "step": step, "time": time, "closed": closed, "data": data}


EXAMPLE = make(
    run="4x7k2m9q", step=7, time=1700000000.0, closed=True, data={"loss": 2.5, "accuracy": 0.5}
)


def flatten(data: dict[str, Any]) -> dict[str, Any]:
    """Nested maps to names joined by `.`, as wandb shows them; placeholders stay whole.

    Of two names that become the same, the later one counts. What is flat is returned itself.
    """
    if dict not in map(type, data.values()):
        return data
    flat: dict[str, Any] = {}
    _flatten_into(flat, "", data)
    return flat


def _flatten_into(flat: dict[str, Any], prefix: str, data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and "_type" not in value:
            _flatten_into(flat, f"{name}.", value)
        else:
            flat[name] = value

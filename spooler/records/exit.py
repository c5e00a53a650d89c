"""The training process says goodbye; a spool that ends without this record was cut off."""

from __future__ import annotations

from typing import Any

NAME = "exit"


def make(*, time: float, steps: dict[str, int]) -> dict[str, Any]:
    """`steps` maps each run of this spool to the last step recorded."""
    return {"time": time, "steps": steps}


EXAMPLE = make(time=1700000100.0, steps={"4x7k2m9q": 99})

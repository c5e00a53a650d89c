"""What the training process knows of its frameworks, hardware and packages, for one run.

`evidence` and `hints` are the members of those names in a detection request. `look` counts from
1; a second look is taken once, when further frameworks have been imported.
"""

from __future__ import annotations

from typing import Any

NAME = "detection"


def make(
    *, run: str, time: float, look: int, evidence: dict[str, Any], hints: dict[str, Any]
) -> dict[str, Any]:
    """The body of a detection."""
    return {"run": run, "time": time, "look": look, "evidence": evidence, "hints": hints}


EXAMPLE = make(
    run="4x7k2m9q",
    time=1700000000.0,
    look=1,
    evidence={
        "wandb": {"project": "primus-training", "config": {"framework": "primus"}},
        "environment": {"PRIMUS_CONFIG": "/config.yaml"},
    },
    hints={
        "possible_frameworks": ["primus"],
        "confidence": "high",
        "primary_indicators": ["PRIMUS_CONFIG", "wandb_config.framework"],
    },
)

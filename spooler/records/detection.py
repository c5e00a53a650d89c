"""What the training process knows of its frameworks, hardware and packages, for one run."""

from __future__ import annotations

from typing import Any, NamedTuple

from spooler.records.schema import Schema

NAME = "detection"


class DetectionRecord(NamedTuple):
    """One detection; `evidence` and `hints` are what a detection request has under these names."""

    run: str
    time: float
    look: int  # 1, or 2 for the one that follows the import of further frameworks
    evidence: dict[str, Any]
    hints: dict[str, Any]
    tracker: str = "wandb"


_schema = Schema(DetectionRecord)
encode, decode = _schema.encode, _schema.decode

EXAMPLE = encode(
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

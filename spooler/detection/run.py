"""What wandb says about the run.

Rules:
- A fact wandb does not have is an empty text: the receiver knows no null.
- The configuration is handed on whole; masking and bounding happen on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spooler.detection.view import View


def identity(view: View) -> dict[str, Any]:
    run = view.run
    facts: dict[str, Any] = {
        "project": run.project if isinstance(run.project, str) else "",
        "name": run.name if isinstance(run.name, str) else "",
        "id": run.id if isinstance(run.id, str) else "",
    }
    return {**facts, "tags": [tag for tag in run.tags or () if isinstance(tag, str)]}


def names(view: View) -> dict[str, Any]:
    """Return what is put before the names of its values, and why; nothing in the usual case."""
    return dict(view.run.names)


def config(view: View) -> Mapping[str, Any]:
    given = view.run.config
    return given if issubclass(type(given), dict) else dict(given.items())

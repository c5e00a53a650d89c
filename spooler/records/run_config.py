"""The configuration of a run as records have it: flat, masked and bounded. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from spooler.json_safe import CUT, DEFAULT, SizeLimits, json_safe

Value = str | int | float | bool
_LIMITS = SizeLimits(keys=4096)  # Megatron-LM has about 800 arguments
LIMIT = 2 * DEFAULT.total  # characters, as each name repeats those of the maps that it is in


def flat(config: Mapping[str, Any]) -> dict[str, Value]:
    """Names of nested maps joined by `.`; lists as JSON text, None as the text `None`.

    Secrets are masked and sizes limited as in a detection (`spooler.json_safe`). Where
    something was left out, a name that ends with `[cut]` says so.
    """
    kept: dict[str, Value] = {}
    left = LIMIT
    for name, value in _leaves("", json_safe(dict(config), hide_by_key=True, limits=_LIMITS)):
        left -= len(name) + len(str(value))
        if left < 0:
            return {**kept, CUT: "values"}
        kept[name] = value
    return kept


def _leaves(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(f"{prefix}{key}.", value)
        elif isinstance(value, dict | list):
            yield f"{prefix}{key}", json.dumps(value)
        else:
            yield f"{prefix}{key}", "None" if value is None else value

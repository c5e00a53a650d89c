"""Values of `wandb.log` that msgpack cannot hold, turned into ones that it can.

Numbers stay numbers (numpy and torch 0-d values by their own `item`, members of an enumeration by
their value), and a data class is the map of its fields. Text, booleans, None, lists and maps stay
too. Any other value becomes a placeholder: a map with `_type` and what there is to say about the
value, so that it is seen to have been logged. Frameworks are never imported; values are recognised
by their shape.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from collections.abc import Mapping
from typing import Any

from spooler.async_exceptions import ours

# wandb keeps arrays up to this many elements as lists and makes histograms of larger ones.
ARRAY_LIMIT = 32
TEXT_LIMIT = 64 * 1024  # characters of one text when the whole step is too large
LIST_LIMIT = 1024
DEPTH_LIMIT = 32

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def plain(value: Any) -> Any:
    """The msgpack `default`: called only for what msgpack itself cannot encode."""
    if isinstance(value, int):
        return _large_integer(int(value))
    if hasattr(type(value), "item") and hasattr(value, "dtype"):
        return _array(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset | range):
        return list(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return _number(value)


def careful(value: Any, depth: int = 0) -> Any:
    """The long way, for a body that did not encode or is too large: element by element.

    Never raises for any one value: what cannot be turned becomes a placeholder that says so.
    """
    try:
        return _careful(value, depth)
    except ours(Exception) as error:  # code of any library may run in `item`
        return {"_type": "error", "class": _class_name(value), "error": type(error).__name__}


def _careful(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if _INT_MIN <= value <= _INT_MAX else _large_integer(value)
    if isinstance(value, str):
        return _text(value)
    if depth >= DEPTH_LIMIT:
        return {"_type": "cut", "class": _class_name(value), "depth": depth}
    if isinstance(value, Mapping):
        return {_text(str(key)): careful(item, depth + 1) for key, item in list(value.items())}
    if isinstance(value, list | tuple):
        if len(value) > LIST_LIMIT:
            return {"_type": "list", "length": len(value)}
        return [careful(item, depth + 1) for item in list(value)]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"_type": "bytes", "length": len(value)}
    return careful(plain(value), depth + 1)


def _array(value: Any) -> Any:
    """A numpy, torch, jax or tensorflow value: a number if it holds one element."""
    shape = tuple(getattr(value, "shape", ()))
    size = math.prod(shape)
    if size == 1:
        item = value.item()
        if not hasattr(item, "dtype"):
            return item
        # numpy has no Python number for its long double; the nearest one is what can be kept.
        return float(item) if getattr(item.dtype, "kind", "") == "f" else _placeholder(value)
    if size <= ARRAY_LIMIT and hasattr(value, "tolist"):
        return value.tolist()
    return {"_type": "array", "shape": list(shape), "dtype": str(value.dtype)}


def _large_integer(value: int) -> Any:
    """Beyond 64 bits: the nearest float, or a placeholder when that would be infinite."""
    try:
        return float(value)
    except ours(OverflowError):
        return {"_type": "integer", "bits": value.bit_length(), "negative": value < 0}


def _number(value: Any) -> Any:
    """Decimal, Fraction and the like are numbers; the rest is not."""
    if isinstance(value, complex) or not hasattr(type(value), "__float__"):
        return _placeholder(value)
    return float(value)


def _text(value: str) -> str:
    if len(value) <= TEXT_LIMIT:
        return value
    return f"{value[:TEXT_LIMIT]}… [{len(value)} characters]"


def _placeholder(value: Any) -> dict[str, Any]:
    """Wandb's own media name themselves by `_log_type`."""
    kind = getattr(type(value), "_log_type", None)
    return {
        "_type": kind if isinstance(kind, str) else "object",
        "class": _class_name(value),
    }


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"

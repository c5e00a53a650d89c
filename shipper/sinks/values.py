"""Values of records as JSON and as numbers, the same for every sink. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from spooler.spool.identity import Identity

TIME_MAX = 9.2e9  # seconds; beyond it the clock arithmetic of receivers in Go overflows
# Levels of nesting inside one value; what lies deeper is cut, as no JSON library reads it all.
_DEEPEST = 100
_FLOATS = frozenset({float})


def sane_time(time: Any, identity: Identity) -> float:
    """`time` if the receiver can hold it, else the time at which the spool was begun."""
    if isinstance(time, float) and 0 <= time <= TIME_MAX:
        return time
    return identity.created if 0 <= identity.created <= TIME_MAX else 0.0


def milliseconds(time: float, identity: Identity) -> int:
    """`sane_time` in whole milliseconds."""
    return round(sane_time(time, identity) * 1000)


def dump(value: Any) -> bytes:
    """JSON bytes; lone surrogates are replaced, as UTF-8 cannot hold them."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(clean(value))


def rows_of(table: bytes) -> list[bytes]:
    """Each number of a list of lists of numbers in JSON, of which none is empty."""
    return table[2:-2].replace(b"],[", b",").split(b",")


def interleaved(
    heads: Sequence[bytes], numbers: Sequence[bytes], tails: Sequence[bytes]
) -> list[bytes]:
    """What is before a number, the number, and what is behind it, of each number of a table.

    A number has the head of its column and the tail of its row.
    """
    count, each = len(tails), 3 * len(heads)
    parts = [b""] * (each * count)
    for column, head in enumerate(heads):
        parts[3 * column :: each] = [head] * count
        parts[3 * column + 1 :: each] = numbers[column :: len(heads)]
        parts[3 * column + 2 :: each] = tails
    return parts


def clean_text(text: str) -> str:
    """`text` without what the receiver's database or UTF-8 refuses."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def sort_values(
    data: Mapping[str, Any],
) -> tuple[dict[str, int | float], dict[str, Any], list[str], int]:
    """Numbers, other values made fit for JSON, names of non-finite ones, and the count of None."""
    values = data.values()
    if _FLOATS.issuperset(map(type, values)) and math.isfinite(sum(values)):
        return dict(data), {}, [], 0  # what almost every step is: no value makes the sum infinite
    numbers: dict[str, int | float] = {}
    others: dict[str, Any] = {}
    nonfinite: list[str] = []
    nulls = 0
    for name, value in data.items():
        if isinstance(value, float):
            if math.isfinite(value):
                numbers[name] = value
            else:
                nonfinite.append(name)
        elif isinstance(value, int):
            numbers[name] = int(value)
        elif value is None:
            nulls += 1
        elif isinstance(value, dict) and value.get("_type") == "integer":
            # Beyond the range of a float: as far from finite as an infinity.
            nonfinite.append(name)
        else:
            others[name] = clean(value)
    return numbers, others, nonfinite, nulls


def clean(value: Any, depth: int = 0) -> Any:
    """Any decoded msgpack value as JSON that the receiver takes."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict | list) and depth >= _DEEPEST:
        return f"nested deeper than {_DEEPEST} levels"
    if isinstance(value, dict):
        return {clean_text(str(key)): clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value

"""Text from elsewhere, made safe for a terminal or for JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def shown(value: object, limit: int = 200) -> str:
    r"""`value` as text of at most `limit` characters, with nothing in it that a terminal obeys.

    What is not printable (control characters, direction marks, lone surrogates, line ends) stands
    there as Python writes it in a literal: `\x1b`, `\u202e`.
    """
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= limit else f"{text[: max(limit - 1, 0)]}…"
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else _escaped(char) for char in cut)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def number(value: float) -> str:
    """A number as people read it: six digits, whole ones whole."""
    if isinstance(value, int) and abs(value) < 10**15:
        return str(value)
    try:
        return f"{value:.6g}"
    except OverflowError:
        return str(value)


def clock(seconds: float | None, *, fine: bool = False) -> str:
    """Unix seconds as local date and time, `fine` with milliseconds; "-" for what is none."""
    if seconds is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return "-"  # beyond the calendar
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}" if fine else text


def seconds_in(body: Mapping[str, Any]) -> float | None:
    """The `time` of a body, None where it is no number that a clock shows."""
    time = body.get("time")
    if isinstance(time, bool) or not isinstance(time, int | float):
        return None
    return float(time) if abs(time) < 1e11 else None


def jsonable(value: Any) -> Any:
    """What JSON can hold: NaN and infinities as their names, bytes as their length, keys as text.

    Lone surrogates, for which UTF-8 has no place, become question marks; so do those that stand
    for bytes of a damaged file that are no UTF-8.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {jsonable(str(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        return {"_type": "bytes", "length": len(value)}
    return value

"""Numbers, times and untrusted text for people and for JSON, the same everywhere. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in powers of 1024, with at most three digits before the point: `1.5 GiB`."""
    amount, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def sanitize(value: object, limit: int = 200) -> str:
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


def json_safe(value: Any) -> Any:
    """What JSON can hold: NaN and infinities as their names, bytes as their length, keys as text.

    Lone surrogates, for which UTF-8 has no place, become question marks; so do those that stand
    for bytes of a damaged file that are no UTF-8.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {json_safe(str(key)): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_safe(item) for item in value]
    if isinstance(value, bytes):
        return {"_type": "bytes", "length": len(value)}
    return value

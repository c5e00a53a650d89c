"""Numbers, times and untrusted text for people and for JSON, the same everywhere. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

_MOST_NAMES = 10
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in powers of 1024, with at most three digits before the point: `1.5 GiB`."""
    amount, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.1 d`; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def clock(seconds: float | None, *, fine: bool = False) -> str:
    """Unix seconds as local date and time, `fine` with milliseconds.

    "-" stands for None and for what is beyond the calendar.
    """
    if seconds is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return "-"
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{moment.microsecond // 1000:03d}" if fine else text


def time_of_day(then: float, now: float) -> str:
    """Local hours and minutes, with the date when that is not today's."""
    at = time.localtime(then)
    same = time.localtime(now)[:3] == at[:3]
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", at)


def counted(number: int, noun: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def by_reason(counts: Mapping[str, int]) -> str:
    """Counts by reason: `3 disk-full, 1 root-cap`; those that are rare as one number."""
    pieces = most_frequent(counts).items()
    return ", ".join(f"{count:,} {sanitize(name, 64)}" for name, count in pieces)


def most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    """By name; of more than `_MOST_NAMES`, which a stranger may have made up, the others as one."""
    if len(counts) <= _MOST_NAMES:
        return dict(sorted(counts.items()))
    by_count = sorted(counts, key=lambda name: (-counts[name], name))
    few = {name: counts[name] for name in sorted(by_count[:_MOST_NAMES])}
    others = by_count[_MOST_NAMES:]
    return {**few, f"of {len(others):,} other reasons": sum(counts[name] for name in others)}


def short(number: int) -> str:
    """A count in few characters, exact below a million: `1.5 M`."""
    for unit, factor in (("G", 10**9), ("M", 10**6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:,}"


def number(value: float) -> str:
    """A measured value: six digits, whole numbers whole."""
    if isinstance(value, int) and abs(value) < 10**15:
        return str(value)
    try:
        return f"{value:.6g}"
    except OverflowError:
        return str(value)


def sanitize(value: object, limit: int | None = 200) -> str:
    r"""`value` as text of at most `limit` characters with nothing in it that a terminal acts upon.

    Control characters, direction marks, lone surrogates and line ends become what a Python literal
    has for them: `\x1b`, `\u202e`.
    """
    text = value if isinstance(value, str) else str(value)
    if limit is not None and len(text) > limit:
        text = f"{text[: max(limit - 1, 0)]}…"
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


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


def to_json(value: Any, *, indent: bool = False) -> bytes:
    """`value` as JSON; characters that UTF-8 cannot encode become question marks."""
    option = orjson.OPT_INDENT_2 if indent else 0
    try:
        return orjson.dumps(value, default=str, option=option)
    except TypeError:  # a path that is not UTF-8
        return orjson.dumps(
            json_safe(value), default=lambda one: json_safe(str(one)), option=option
        )

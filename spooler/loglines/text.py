"""What parsers share: numbers, colours, the time and the origin of a line. Pure."""

from __future__ import annotations

import re
from datetime import datetime

# A number as frameworks print it. Digits are bounded: nothing is read twice.
_DIGITS = r"(?:[0-9]{1,20}(?:,[0-9]{3}){0,6}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
_NUMBER = rf"[-+]?{_DIGITS}(?:[eE][-+]?[0-9]{{1,4}})?(?!\.?[0-9])"
VALUE = rf"(?:{_NUMBER}|[-+]?(?:nan|NaN|inf|Infinity)(?![A-Za-z]))"
_WHOLE = 18  # digits of a number that fits into 64 bits
_AT_BEGIN = re.compile(rf"\s{{0,32}}({VALUE})")
_COLOURS = re.compile(r"\x1b\[[0-9;?]{0,32}[A-Za-z]")
_HEAD = 200  # characters of a line in which its time and its origin stand
_TIME = re.compile(
    r"(?<!\d)(\d{4})([-/]?)(\d\d)\2(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(?!\d)"
)
# Put before a line by torchrun (`[rank0]:`, `[default7]:`), launchers with the name of a host
# (`[node12:3]:`), `srun -l` (`7: `) and Primus (`[rank-31/32]`).
_ORIGIN = re.compile(r"\s{0,8}(?:\[([\w.\-]{1,64}(?::\d{1,6})?)\]:|(\d{1,6}): )")
_PRIMUS = re.compile(r"\[(rank-\d{1,8})/\d{1,8}\]")


def plain(line: str) -> str:
    """A line without colours."""
    return _COLOURS.sub("", line) if "\x1b" in line else line


def number(text: str) -> float | None:
    """The number at the beginning of a text, whatever follows it; None without one."""
    found = _AT_BEGIN.match(text)
    return None if found is None else value(found[1])


def value(digits: str) -> float:
    """A text that `VALUE` matches, as a number; whole ones stay whole."""
    digits = digits.replace(",", "")
    is_whole = len(digits) <= _WHOLE and digits.lstrip("+-").isdigit()
    return int(digits) if is_whole else float(digits)


def moment(line: str) -> float | None:
    """The time that a line begins with, in Unix seconds: it is local time. None without one."""
    found = _TIME.search(line[:_HEAD])
    if found is None:
        return None
    year, _, month, day, hour, minute, second, fraction = found.groups()
    text = f"{year}-{month}-{day}T{hour}:{minute}:{second}.{(fraction or '')[:6]:0<6}"
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None  # no day of the calendar


def origin(line: str) -> str:
    """Which process has printed a line, as a launcher or the framework says; "" if neither does."""
    head = line[:_HEAD]
    found = _ORIGIN.match(head) or _PRIMUS.search(head)
    return "" if found is None else found[found.lastindex or 0]

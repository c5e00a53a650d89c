"""Whatever a program knows of its failure, as text and exit codes. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from spooler.async_exceptions import ours

_TEXT_LIMIT = 64 * 1024
_DEPTH_LIMIT = 8
_ITEM_LIMIT = 256
_RANKS_LIMIT = 16
_MESSAGES_LIMIT = 2048  # of all messages together: a master keeps them in its memory
_CODE_NAMES = frozenset({"exitcode", "exit_code", "returncode", "return_code"})
# Attributes of what launchers hand over for a dead process.
_ATTRIBUTES = ("message", "error_msg", "error_data", "exitcode", "exit_code", "returncode")
_CODE_IN_TEXT = re.compile(
    r"\b(?:exit(?:ed with)?|return)[ _]?(?:code|status)?\W{0,6}?(-?\d{1,3})\b", re.IGNORECASE
)


def describe(failures: Any) -> str:
    """One "name: value" line for each leaf of `failures`, bounded."""
    try:
        lines = [f"{name}: {text}" if name else text for name, text in _leaves("", failures, 0)]
    except ours(Exception) as error:  # whatever is given may run code of any library
        lines = [f"{type(failures).__name__}, which raises {type(error).__name__}"]
    return "\n".join(lines)[:_TEXT_LIMIT]


def exit_codes(described: str) -> frozenset[int]:
    """The exit codes that a description names, signals as 128 + n."""
    codes = set()
    for line in described.splitlines():
        name, _, value = line.partition(": ")
        last = name.rpartition(".")[2]
        if last in _CODE_NAMES and re.fullmatch(r"-?\d{1,3}", value.strip()):
            codes.add(int(value))
        codes.update(int(found) for found in _CODE_IN_TEXT.findall(line))
    return frozenset(128 - code if code < 0 else code for code in codes)


def error_data(failures: Any, *, rank: int, when: str) -> str:
    """What DLRover's agent reports of failures: JSON, the rank -> what is known of its process.

    A map of ranks is taken as that; anything else is the failure of `rank`. `when` is a local time.
    """
    try:
        errors = _errors(failures, rank, when)
    except ours(Exception):  # as in `describe`
        errors = {str(rank): {"message": describe(failures), "datetime": when}}
    return json.dumps(errors, ensure_ascii=False)


def _errors(failures: Any, rank: int, when: str) -> dict[str, dict[str, Any]]:
    by_rank: Mapping[Any, Any] = {rank: failures}
    if isinstance(failures, Mapping) and all(type(key) is int for key in failures):
        by_rank = dict(list(failures.items())[:_RANKS_LIMIT])
    limit = _MESSAGES_LIMIT // max(len(by_rank), 1)
    return {str(key): _error(value, limit, when) for key, value in by_rank.items()}


def _error(value: Any, limit: int, when: str) -> dict[str, Any]:
    described = describe(value)
    message, codes = getattr(value, "message", None), exit_codes(described)
    return {
        "local_rank": _number(getattr(value, "local_rank", None)),
        "exitcode": _number(getattr(value, "exitcode", min(codes, default=None))),
        "message": (message if isinstance(message, str) else described)[:limit],
        "datetime": when,
    }


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def _leaves(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if depth < _DEPTH_LIMIT and isinstance(value, Mapping):
        for key, item in list(value.items())[:_ITEM_LIMIT]:
            yield from _leaves(_join(name, key), item, depth + 1)
    elif depth < _DEPTH_LIMIT and isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(list(value)[:_ITEM_LIMIT]):
            yield from _leaves(_join(name, index), item, depth + 1)
    elif isinstance(value, BaseException):
        yield name, f"{type(value).__name__}: {_text(value)}"
    else:
        yield name, _text(value)
        yield from _attributes(name, value)


def _attributes(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str | bytes | int | float):
        return
    for attribute in _ATTRIBUTES:
        found = getattr(value, attribute, None)
        if isinstance(found, str | int):
            yield _join(name, attribute), str(found)


def _join(name: str, key: Any) -> str:
    return f"{name}.{_text(key)}" if name else _text(key)


def _text(value: Any) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")[:_TEXT_LIMIT]
        return str(value)[:_TEXT_LIMIT]
    except ours(Exception):  # the text of any object is code of any library
        return f"<{type(value).__name__}>"

"""From the bytes of a body to typed values, by the rules of Go's encoding/json.

Rules:

* Only the first JSON value of the body is read; what follows it is ignored.
* An int64 takes integers in range only: ``1.0``, ``1e3``, ``"1"`` and ``true`` are refused.
  A float64 takes numbers in range: ``1e309`` is refused, ``1e-400`` is 0.
* ``null`` leaves the zero value; for a list or a map it means empty, and as a list element or
  a map value it stands for a zero element.
* Unknown fields are ignored (but must be well formed). A known field is found by its exact
  name, or else without regard to case. Of repeated fields the last wins; repeated objects,
  maps and lists merge element by element.
* Bytes that are not UTF-8 and lone surrogates become U+FFFD, one each.
* One complaint refuses the whole body: ``InvalidRequest`` carries the place and the reason.

An object is a tuple of pairs until a kind has read it, because repeated and differently
spelled names must still be seen in their order. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from tests.kit.processor.errors import InvalidRequest

DEEPEST = 200
"""Levels of nesting accepted in free-form values; Go's own limit is 10000."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)
_LONGEST_INTEGER = 400  # digits; anything longer is beyond float64 as well


@dataclass(frozen=True)
class Kind:
    """One type of value: its zero, and how JSON is read over what stands there already."""

    zero: Callable[[], Any]
    read: Callable[[Any, Any], Any]


def decoded(kind: Kind, body: bytes) -> Any:
    """Return the first JSON value of ``body`` as ``kind``, or raise InvalidRequest."""
    try:
        return kind.read(_first_value(body), kind.zero())
    except RecursionError:
        raise InvalidRequest("nested too deeply") from None


def record(**fields: Kind) -> Kind:
    """Return the kind of an object with these named fields, read into a dict."""
    folded = {_fold(name): name for name in fields}

    def zero() -> dict[str, Any]:
        return {name: kind.zero() for name, kind in fields.items()}

    def read(value: Any, before: dict[str, Any]) -> dict[str, Any]:
        if value is None:
            return before
        if type(value) is not tuple:
            raise _mismatch("an object", value)
        result = dict(before)
        for key, item in value:
            name = key if key in fields else folded.get(_fold(key))
            if name is not None:
                result[name] = _read(fields[name], item, result[name], at=name)
        return result

    return Kind(zero, read)


def nullable(kind: Kind) -> Kind:
    """Return ``kind`` as a pointer: absent and null are None."""

    def read(value: Any, before: Any) -> Any:
        if value is None:
            return None
        return kind.read(value, kind.zero() if before is None else before)

    return Kind(lambda: None, read)


def table(kind: Kind) -> Kind:
    """Return the kind of a map from strings to ``kind``."""

    def read(value: Any, before: dict[str, Any]) -> dict[str, Any]:
        if value is None:
            return {}
        if type(value) is not tuple:
            raise _mismatch("an object", value)
        result = dict(before)
        for key, item in value:
            result[_clean(key)] = _read(kind, item, kind.zero(), at=key)
        return result

    return Kind(dict, read)


def each(kind: Kind) -> Kind:
    """Return the kind of a list of ``kind``."""

    def read(value: Any, before: list[Any]) -> list[Any]:
        if value is None:
            return []
        if type(value) is not list:
            raise _mismatch("an array", value)
        earlier = [*before, *(kind.zero() for _ in value[len(before) :])]
        return [
            _read(kind, item, earlier[index], at=f"[{index}]") for index, item in enumerate(value)
        ]

    return Kind(list, read)


def _read(kind: Kind, value: Any, before: Any, *, at: str) -> Any:
    """Read one element; a complaint learns its place on the way out."""
    try:
        return kind.read(value, before)
    except InvalidRequest as complaint:
        raise complaint.within(at) from None


def _text(value: Any, before: str) -> str:
    if value is None:
        return before
    if type(value) is not str:
        raise _mismatch("a string", value)
    return _clean(value)


def _flag(value: Any, before: bool) -> bool:
    if value is None:
        return before
    if type(value) is not bool:
        raise _mismatch("true or false", value)
    return value


def _whole(value: Any, before: int) -> int:
    if value is None:
        return before
    if type(value) is not int or value not in _INT64:
        raise _mismatch("an integer of 64 bits, written without a point or exponent,", value)
    return value


def _real(value: Any, before: float) -> float:
    if value is None:
        return before
    if type(value) is not float and type(value) is not int:
        raise _mismatch("a number", value)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if math.isinf(result):
        raise InvalidRequest("a number beyond the range of float64")
    return result


def _free(value: Any, depth: int = 0) -> Any:
    """Return a free-form value; all its numbers become float64."""
    if depth > DEEPEST:
        raise InvalidRequest(f"a free-form value nested deeper than {DEEPEST} levels")
    if type(value) is str:
        return _clean(value)
    if type(value) is tuple:
        return {_clean(key): _free(item, depth + 1) for key, item in value}
    if type(value) is list:
        return [_free(item, depth + 1) for item in value]
    if value is None or type(value) is bool:
        return value
    return _real(value, 0.0)


TEXT = Kind(str, _text)
FLAG = Kind(bool, _flag)
WHOLE = Kind(int, _whole)
REAL = Kind(float, _real)
FREE = Kind(lambda: None, lambda value, _before: _free(value))


def _first_value(body: bytes) -> Any:
    # surrogateescape turns each byte that is not UTF-8 into one lone surrogate, and a lone
    # surrogate is replaced by _clean; outside a string it is a syntax error, as it should be.
    text = body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    try:
        value, _end = _PARSER.raw_decode(text)
    except ValueError as error:
        raise InvalidRequest(f"not JSON: {error}") from None
    return value


def _integer(literal: str) -> int | float:
    # int() refuses thousands of digits; as a float they are infinite, and refused by kind.
    return int(literal) if len(literal) < _LONGEST_INTEGER else float(literal)


def _constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a JSON number")


_PARSER = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=_integer, parse_constant=_constant, strict=True
)


def _clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _fold(name: str) -> str:
    # lower() maps the Kelvin sign to k; the long s is the only other letter that folds to ASCII.
    return name.lower().replace("\u017f", "s")


_NAMES: dict[type, str] = {tuple: "an object", list: "an array", str: "a string"}


def _mismatch(wanted: str, value: Any) -> InvalidRequest:
    shown = _NAMES.get(type(value)) or json.dumps(value)
    return InvalidRequest(f"{wanted} is needed, not {shown[:60]}")

"""Turns any value into one that JSON can carry and the receiver can store; pure.

Rules:
- No code of the value's own class runs: no ``__repr__``, ``__str__``, ``__iter__``, ``items``.
  What is not plain data becomes a placeholder ``<module.Class>``.
- NaN and the infinities become texts; integers a double cannot hold exactly become texts; NUL
  and lone surrogates become U+FFFD.
- The result written as JSON (ASCII, default separators) is at most ``SizeLimits.total`` bytes, and
  what was left out is marked with ``[cut]``. Plain values go before nested ones, so that one
  huge sub-tree does not push out its small neighbours. The first value that does not fit ends
  the walk, so that its time is bounded like its result.
- A text that looks like a credential is masked everywhere; a key that names one only on request.

`spooler.records.values` converts what the user logs, and wants the contrary: it asks the values
themselves (`item`, `__float__`, `value`), keeps NaN, 64-bit integers and every element, masks
nothing, and costs nothing for what msgpack can hold. So each has a descent of its own.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from spooler import masking

CUT = "[cut]"
CONTAINERS = (dict, list, tuple, set, frozenset)
EXACT_INTEGER = 2**53
LONGEST_INTEGER_BITS = 1024
SEAM = 64
"""Characters dropped where a text was cut unseen: half a credential has no known format."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SEPARATORS = 4
_MARK = 40
_EMPTY = 4
_LEFT_OUT = object()


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """How much of a value is kept."""

    total: int = 64 * 1024
    depth: int = 8
    items: int = 128
    keys: int = 512
    text: int = 1024
    key: int = 256


DEFAULT = SizeLimits()


def json_safe(value: object, *, hide_by_key: bool = False, limits: SizeLimits = DEFAULT) -> Any:
    """Return what JSON can carry of a value."""
    result = _Walk(limits, hide_by_key).visit(value, 0)
    return CUT if result is _LEFT_OUT else result


def safe_text(text: str, limit: int = DEFAULT.text) -> str:
    """Return a text masked, storable, and at most about ``limit`` long."""
    window = 2 * limit + SEAM
    seen = masking.mask_text(text[:window])
    if len(text) > window:
        seen = seen[: max(len(seen) - SEAM, 0)]
    elif len(seen) <= limit:
        return _UNSTORABLE.sub("\ufffd", seen)
    return _UNSTORABLE.sub("\ufffd", seen[:limit]) + CUT


def leaf(raw: object, limits: SizeLimits = DEFAULT) -> Any:
    """Return one value that holds no others."""
    if raw is None:
        return None
    known = _plain(raw, limits)
    if known is None:
        known = _plain(_unboxed(raw), limits)
    return _placeholder(raw) if known is None else known


def is_a(raw: object, kinds: type | tuple[type, ...]) -> bool:
    """Say what a value really is; ``isinstance`` would ask its ``__class__``, which may lie."""
    return issubclass(type(raw), kinds)


def _plain(raw: Any, limits: SizeLimits) -> bool | int | float | str | None:
    if is_a(raw, bool):
        return raw is True
    if is_a(raw, str):
        return safe_text(str.__str__(raw), limits.text)
    if is_a(raw, int):
        return _integer(int.__int__(raw))
    return _real(float.__float__(raw)) if is_a(raw, float) else None


def _integer(number: int) -> int | str:
    if -EXACT_INTEGER <= number <= EXACT_INTEGER:
        return number
    bits = number.bit_length()
    return str(number) if bits <= LONGEST_INTEGER_BITS else f"<integer of {bits} bits>"


def _real(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")


def _unboxed(raw: object) -> object:
    """Open a NumPy scalar; never a tensor, whose ``item`` would wait for the device."""
    for kind in type(raw).__mro__:
        if kind.__name__ == "generic" and kind.__module__ == "numpy":
            return kind.item(raw)  # type: ignore[attr-defined]
    return None


def _placeholder(raw: object) -> str:
    kind = type(raw)
    module = type.__dict__["__module__"].__get__(kind)
    name = type.__dict__["__qualname__"].__get__(kind)
    where = f"{module}." if isinstance(module, str) else ""
    return safe_text(f"<{where}{name}>", DEFAULT.key)


class _Walk:
    """One descent into a value, spending one budget."""

    def __init__(self, limits: SizeLimits, hide_by_key: bool) -> None:
        self._limits = limits
        self._hide_by_key = hide_by_key
        self._left = limits.total
        self._above: set[int] = set()

    def visit(self, raw: Any, depth: int) -> Any:
        if not is_a(raw, CONTAINERS):
            return self._paid(leaf(raw, self._limits))
        if id(raw) in self._above:
            return self._paid("[cycle]")
        if depth >= self._limits.depth:
            return self._paid(f"{CUT} depth")
        # A container pays for its mark beforehand, so that marking never breaks the budget.
        if not self._spend(_MARK):
            return _LEFT_OUT
        self._above.add(id(raw))
        result = self._map(raw, depth) if is_a(raw, dict) else self._list(raw, depth)
        self._above.discard(id(raw))
        return result

    def _map(self, raw: dict[Any, Any], depth: int) -> dict[str, Any]:
        pairs = [
            (self._key(key), item) for key, item in list(islice(dict.items(raw), self._limits.keys))
        ]
        hidden = masking.hidden_keys(pairs) if self._hide_by_key else frozenset()
        kept: dict[str, Any] = {}
        for nested in (False, True):
            for key, item in pairs if self._left else ():
                if is_a(item, CONTAINERS) is nested:
                    shown = masking.MASK if key in hidden else item
                    self._keep(kept, key, shown, depth)
        result = {key: kept[key] for key, _ in pairs if key in kept}
        missing = dict.__len__(raw) - len(result)
        if missing > 0:
            result[CUT] = f"{missing} keys"
        else:
            self._left += _MARK - _EMPTY
        return result

    def _keep(self, kept: dict[str, Any], key: str, item: object, depth: int) -> None:
        if self._spend(len(json.dumps(key)) + _SEPARATORS):
            value = self.visit(item, depth + 1)
            if value is not _LEFT_OUT:
                kept[key] = value

    def _list(self, raw: Any, depth: int) -> list[Any]:
        kind: Any = next(base for base in CONTAINERS if is_a(raw, base))
        items: list[Any] = list(islice(kind.__iter__(raw), self._limits.items))
        hidden = masking.hidden_positions(items) if self._hide_by_key else frozenset()
        kept = []
        for position, item in enumerate(items):
            value = self.visit(masking.MASK if position in hidden else item, depth + 1)
            if value is _LEFT_OUT:
                break
            kept.append(value)
        if kind in (set, frozenset):
            kept.sort(key=json.dumps)
        missing = kind.__len__(raw) - len(kept)
        if missing > 0:
            kept.append(f"{CUT} {missing} items")
        else:
            self._left += _MARK - _EMPTY
        return kept

    def _key(self, raw: Any) -> str:
        known = str.__str__(raw) if is_a(raw, str) else leaf(raw, self._limits)
        text = known if isinstance(known, str) else json.dumps(known)
        return safe_text(text, self._limits.key)

    def _paid(self, value: Any) -> Any:
        return value if self._spend(len(json.dumps(value)) + _SEPARATORS) else _LEFT_OUT

    def _spend(self, cost: int) -> bool:
        self._left = self._left - cost if cost <= self._left else 0
        return self._left > 0

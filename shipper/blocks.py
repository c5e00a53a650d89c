"""Bodies that differ in their numbers alone, read as a table without decoding each of them. Pure.

Most steps of a run have the same names, and each value has the same type. Their bodies have the
same length, and the same bytes but where the numbers are. So the first one is decoded, and tells
where they are. Another body with the same bytes around them is a step of the same run and names,
and its numbers are read in place.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from spooler.spool import codec

LEAST = 8  # bodies of a form that are worth the search for it
STEPS = range(2**31)
# Seconds between which a time is usual: 1972 to 2106. In milliseconds it takes 36 to 42 bits, so
# that each is a varint of six bytes.
_FIRST_TIME, _LAST_TIME = float(2**26), float(2**32)
# First byte of a number of msgpack -> how `struct` reads what follows.
_NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))
_STEP, _TIME, _DATA = b"\xa4step", b"\xa4time", b"\xa4data"
_SMALLEST = -32  # of the numbers that are their own first byte

Row = tuple[Any, ...]  # step, time, values


class Form(NamedTuple):
    """Where the numbers of a body are, and which bytes are around them."""

    length: int
    mask: int
    around: int
    layout: struct.Struct
    own: tuple[int, ...]  # columns whose numbers are their own first byte

    def fitting(self, bodies: Iterable[bytes]) -> list[bytes]:
        """The first of these bodies that have this form."""
        found: list[bytes] = []
        length, mask, around, number = self.length, self.mask, self.around, int.from_bytes
        for body in bodies:
            if len(body) != length or number(body, "big") & mask != around:
                break
            found.append(body)
        return found

    def rows(self, bodies: Sequence[bytes]) -> list[Row]:
        """The numbers of these bodies, up to the first one with an unusual number."""
        rows = list(self.layout.iter_unpack(b"".join(bodies)))
        if self._are_usual(tuple(zip(*rows, strict=True))):
            return rows
        usual = (self._are_usual([(number,) for number in row]) for row in rows)
        return rows[: next(index for index, one in enumerate((*usual, False)) if not one)]

    def _are_usual(self, columns: Sequence[Sequence[Any]]) -> bool:
        """Whether all numbers are finite, and step and time in a usual range."""
        steps, times = columns[:2]
        return (
            min(steps) >= STEPS.start
            and max(steps) < STEPS.stop
            and all(map(math.isfinite, map(sum, columns)))
            and min(times) >= _FIRST_TIME
            and max(times) < _LAST_TIME
            and all(min(columns[index]) >= _SMALLEST for index in self.own)
        )


def form_of(body: bytes) -> Form | None:
    """The form of the body of a step; None if a value in it is not a plain number."""
    outer, inner = codec.spans(body, _DATA)
    if _STEP not in outer or _TIME not in outer or _DATA not in outer:
        return None  # in another form of text
    holes, mask, at, layout = [outer[_STEP], outer[_TIME], *inner], bytearray(), 0, ">"
    own: list[int] = []
    for column, (start, end) in enumerate(holes):
        kind = _NUMBERS.get(body[start])
        begin = start if kind is None else start + 1
        if kind is None:
            kind = "b"
            own.append(column)
            if end != start + 1 or -128 <= struct.unpack_from("b", body, start)[0] < _SMALLEST:
                return None
        if start < at:
            return None  # the time is written before the step
        mask += b"\xff" * (begin - at) + bytes(end - begin)
        layout += f"{begin - at}x{kind}"
        at = end
    mask += b"\xff" * (len(body) - at)
    bits = int.from_bytes(mask, "big")
    return Form(
        length=len(body),
        mask=bits,
        around=int.from_bytes(body, "big") & bits,
        layout=struct.Struct(f"{layout}{len(body) - at}x"),
        own=tuple(own),
    )

"""The wire format of Protocol Buffers, as far as reading takes: fields of one message, in order.

A field is a tag, a varint of ``number << 3 | wire type``, and a value: wire type 0 is a varint,
1 is 8 bytes, 2 is a varint length and that many bytes (text, bytes, a message), 5 is 4 bytes.
Groups (3 and 4) are long gone and refused. What a field means is its reader's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_FIXED = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10  # of 64 bits at most
_DOUBLE = struct.Struct("<d")


class Malformed(ValueError):
    """The bytes are not those of a message."""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an integer for a varint, else the bytes.

    Raises:
        Malformed: after the fields that could be read.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if not number:
            raise Malformed(f"field number 0 before byte {at}")
        if wire_type == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == BYTES:
            length, at = _varint(message, at)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        else:
            raise Malformed(f"wire type {wire_type} before byte {at}")
        if at + length > end:
            raise Malformed(f"{length} bytes at byte {at} of {end}")
        yield number, message[at : at + length]
        at += length


def signed(value: int | bytes) -> int:
    """An `int32` or `int64`, 0 when it is none."""
    if isinstance(value, bytes):
        return 0
    return value - 2**64 if value >= 2**63 else value


def zigzag(value: int | bytes) -> int:
    """An `sint64`, 0 when it is none."""
    return 0 if isinstance(value, bytes) else (value >> 1) ^ -(value & 1)


def double(value: int | bytes) -> float:
    """A `double`, 0 when it is none."""
    if isinstance(value, int) or len(value) != _DOUBLE.size:
        return 0.0
    number: float = _DOUBLE.unpack(value)[0]
    return number


def text(value: int | bytes) -> str:
    """A `string`, empty when it is none; what is not UTF-8 is replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def message(value: int | bytes) -> bytes:
    """An embedded message, empty when it is none."""
    return value if isinstance(value, bytes) else b""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and the place after it."""
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES, 7):
        if at >= len(data):
            raise Malformed("ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise Malformed(f"a number of more than {_VARINT_BYTES} bytes before byte {at}")

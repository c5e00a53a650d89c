"""The wire format of Protocol Buffers: the fields of one message, in order. Pure.

A field is a tag, a varint of ``number << 3 | wire type``, and a value: wire type 0 is a varint,
1 is 8 bytes, 2 is a varint length and that many bytes (text, bytes, a message), 5 is 4 bytes.
Groups (3 and 4) are obsolete and rejected. The caller knows what a field means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_FIXED = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10  # 64 bits, 7 in each byte
_DOUBLE = struct.Struct("<d")


class MalformedMessage(ValueError):
    """The bytes are not a message."""


def varint(number: int) -> bytes:
    """An integer of 64 bits; a negative one in two's complement."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """One field: a varint for an integer, else the bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def repeated(pattern: bytes, columns: Mapping[int, bytes], count: int) -> bytes:
    """`pattern` so many times, with bytes of its own at each offset of `columns`.

    A column has as many equal pieces one after the other. This is how a table becomes messages of
    one form without an object for each.
    """
    out, size = bytearray(pattern * count), len(pattern)
    for offset, column in columns.items():
        width = len(column) // count
        for byte in range(width):
            out[offset + byte :: size] = column[byte::width]
    return bytes(out)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an integer for a varint, else the bytes.

    Raises:
        MalformedMessage: after the fields that could be read.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint_at(message, at)
        number, wire_type = tag >> 3, tag & 7
        if not number:
            raise MalformedMessage(f"field number 0 before byte {at}")
        if wire_type == VARINT:
            value, at = _varint_at(message, at)
            yield number, value
            continue
        if wire_type == BYTES:
            length, at = _varint_at(message, at)
        elif wire_type in _FIXED:
            length = _FIXED[wire_type]
        else:
            raise MalformedMessage(f"wire type {wire_type} before byte {at}")
        if at + length > end:
            raise MalformedMessage(f"{length} bytes at byte {at} of {end}")
        yield number, message[at : at + length]
        at += length


# A field of another wire type than expected has the default value of the expected type.


def signed(value: int | bytes) -> int:
    """An `int32` or `int64`."""
    if isinstance(value, bytes):
        return 0
    return value - 2**64 if value >= 2**63 else value


def zigzag(value: int | bytes) -> int:
    """An `sint64`."""
    return 0 if isinstance(value, bytes) else (value >> 1) ^ -(value & 1)


def double(value: int | bytes) -> float:
    """A `double`."""
    if isinstance(value, int) or len(value) != _DOUBLE.size:
        return 0.0
    number: float = _DOUBLE.unpack(value)[0]
    return number


def text(value: int | bytes) -> str:
    """A `string`; bytes that are not UTF-8 are replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def message(value: int | bytes) -> bytes:
    """An embedded message or `bytes`."""
    return value if isinstance(value, bytes) else b""


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    """A varint and the offset after it."""
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES, 7):
        if at >= len(data):
            raise MalformedMessage("ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise MalformedMessage(f"a number of more than {_VARINT_BYTES} bytes before byte {at}")

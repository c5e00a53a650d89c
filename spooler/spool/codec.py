"""Record bodies to bytes and back, and their checksum. Pure.

The only importer of msgpack in the training process and of the record format in the service.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from spooler.async_exceptions import ours
from spooler.errors import BodyTooLarge, BodyUnreadable

# Otherwise msgpack's Python code packs, with the same result.
IS_COMPILED = msgpack.Packer.__module__ != "msgpack.fallback"

_prefixes: dict[str, int] = {}
# Packers at rest, by their `default`. One is never in two hands: other threads, a signal handler or
# a `default` that packs find it gone and take another. One that failed or has grown is let go.
_idle: dict[Callable[[Any], Any] | None, list[Any]] = {}
# Readers at rest that walk over what was packed, in the same way.
_walkers: list[Any] = []
_KEPT_BYTES = 64 * 1024
_KIND_CHARACTERS = 64  # of a kind that is worth keeping
# What a body may take once it is decoded: a byte of msgpack may become eighty in memory.
DECODED_BYTES = 32 * 1024 * 1024
_MEASURED_BYTES = DECODED_BYTES // 128  # a smaller body never takes so much


def checksum_begin(kind: str) -> int:
    """The state of a checksum that a body follows, in parts by `zlib.crc32`.

    It is kept, as there are a handful of kinds.
    """
    state = zlib.crc32(kind.encode("utf-8", "surrogatepass") + b"\0")
    if len(_prefixes) < 256 and len(kind) <= _KIND_CHARACTERS:
        _prefixes[kind] = state
    return state


def checksum(kind: str, body: bytes, seq: int) -> int:
    """CRC-32 of a record as `spooler.spool.format` defines it: 0 … 2**32-1."""
    state = _prefixes.get(kind)
    if state is None:
        state = checksum_begin(kind)
    return zlib.crc32(seq.to_bytes(8, "big"), zlib.crc32(body, state))


def checksum_end(state: int, seq: int) -> int:
    """The checksum of a record whose body `state` has seen."""
    return zlib.crc32(seq.to_bytes(8, "big"), state)


def pack(body: dict[str, Any], default: Callable[[Any], Any] | None = None) -> bytes:
    """Encode a body as msgpack; `default` turns what msgpack does not know into what it does.

    Raises what msgpack raises (TypeError, ValueError, OverflowError) when that is not enough, and
    ValueError when a map or list was changed by other code meanwhile, or lies about its length.
    """
    try:
        idle = _idle[default]
        packer = idle.pop()
    except ours(IndexError, KeyError):
        idle = _idle.setdefault(default, [])
        packer = msgpack.Packer(default=default)
    packed: bytes
    try:
        packed = packer.pack(body)
    except ours(UnicodeEncodeError):  # a text with half of a surrogate pair
        packer = msgpack.Packer(default=default, unicode_errors="surrogatepass")
        packed = packer.pack(body)
    if default is not None and not _is_whole(packed):
        raise ValueError("a map or list has fewer members than its length")
    if len(packed) <= _KEPT_BYTES:
        idle.append(packer)
    return packed


def _is_whole(packed: bytes) -> bool:
    """Whether this is one value and nothing more; half of what it costs to pack a usual step."""
    try:
        walker = _walkers.pop()
    except ours(IndexError):
        walker = msgpack.Unpacker(max_buffer_size=0)
    try:
        walker.feed(packed)
        walker.skip()
        more = walker.read_bytes(1)
    except ours(ValueError, msgpack.UnpackException):
        return False
    if more:
        return False
    if len(packed) <= _KEPT_BYTES:
        _walkers.append(walker)
    return True


def unpack(body: bytes) -> dict[str, Any]:
    """Decode a body.

    Raises:
        BodyTooLarge: it takes more than `DECODED_BYTES` of memory.
        BodyUnreadable: it is not a msgpack map, or holds extension types, which no writer of
            this format produces.
    """
    if len(body) > _MEASURED_BYTES and decoded_bytes(body) > DECODED_BYTES:
        raise BodyTooLarge(f"takes more than {DECODED_BYTES >> 20} MiB of memory once decoded")
    try:
        try:
            value = _decode(body)
        except TypeError:
            # A key that Python cannot hash: msgpack gives a user's tuple back as a list.
            value = _decode(body, _map_with_text_keys)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError) as error:
        raise BodyUnreadable(f"not msgpack: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise BodyUnreadable(f"a msgpack {type(value).__name__}, not a map")
    return value


def spans(body: bytes, inside: bytes) -> tuple[dict[bytes, tuple[int, int]], list[tuple[int, int]]]:
    """Where the values of a map begin and end: by packed key, and in order those of map `inside`.

    For a body that `unpack` has decoded.
    """
    walker = msgpack.Unpacker(max_buffer_size=0)
    walker.feed(body)
    outer: dict[bytes, tuple[int, int]] = {}
    inner: list[tuple[int, int]] = []
    for _ in range(walker.read_map_header()):
        begin = walker.tell()
        walker.skip()
        key = body[begin : walker.tell()]
        begin = walker.tell()
        for _ in range(walker.read_map_header() if key == inside else 0):
            walker.skip()
            start = walker.tell()
            walker.skip()
            inner.append((start, walker.tell()))
        if key != inside:
            walker.skip()
        outer[key] = begin, walker.tell()
    return outer, inner


def _decode(body: bytes, pairs_hook: Callable[[Any], Any] | None = None) -> Any:
    return msgpack.unpackb(
        body,
        ext_hook=_refuse_extension,
        timestamp=1,  # Unix seconds: what msgpack itself knows stays a number
        strict_map_key=False,
        unicode_errors="surrogatepass",
        object_pairs_hook=pairs_hook,
    )


def decoded_bytes(body: bytes) -> int:
    """About how many bytes of memory a body takes once decoded; counted to `DECODED_BYTES`.

    Values follow one another, whatever they are nested in, so nothing is decoded for this.
    """
    forms, at, total, end = _forms(), 0, 0, len(body)
    while at < end and total <= DECODED_BYTES:
        own, member, size, count, skip = forms[body[at]]
        at += 1
        if size:
            count = min(int.from_bytes(body[at : at + size], "big"), end - at)
            at += size
        total += own + member * count
        if member == 1:
            text = body[at : at + count]
            total += 0 if text.isascii() else _width(text) * len(text) - count
            at += count
        at += skip
    return total


def _width(text: bytes) -> int:
    """How many bytes each character of a text takes, by its largest one."""
    return 4 if re.search(rb"[\xf0-\xf7]", text) else 2 if re.search(rb"[\xc4-\xef]", text) else 1


@functools.cache
def _forms() -> tuple[tuple[int, int, int, int, int], ...]:
    """What each first byte of a value says.

    Memory for the value and for each of its members, bytes of the number of members, or that
    number, and bytes to skip. The members of a text are its bytes.
    """
    text, container_map, container_list = (64, 1), (240, 72), (72, 8)
    forms = [(0, 0, 0, 0, 0)] * 256  # small numbers, nil, true and false: made once
    for count in range(32):
        forms[0xA0 + count] = (*text, 0, count, 0)
        forms[0x90 + count % 16] = (*container_list, 0, count % 16, 0)
        forms[0x80 + count % 16] = (*container_map, 0, count % 16, 0)
    for place, size in enumerate((1, 2, 4)):
        forms[0xC4 + place] = forms[0xD9 + place] = (*text, size, 0, 0)
        forms[0xC7 + place] = (*text, size, 0, 1)  # an extension, and its type
    for place, size in enumerate((4, 8, 1, 2, 4, 8, 1, 2, 4, 8)):
        forms[0xCA + place] = (32, 0, 0, 0, size)
    for place in range(5):
        forms[0xD4 + place] = (64, 0, 0, 0, 1 + 2**place)
    for place, size in enumerate((2, 4)):
        forms[0xDC + place] = (*container_list, size, 0, 0)
        forms[0xDE + place] = (*container_map, size, 0, 0)
    return tuple(forms)


def _map_with_text_keys(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    return {str(k) if isinstance(k, list | dict) else k: value for k, value in pairs}


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} of {len(data)} bytes")

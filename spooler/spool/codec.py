"""Record bodies to bytes and back, and their checksum. Pure.

The only importer of msgpack in the training process and of the record format in the service.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from spooler.async_exceptions import is_async
from spooler.errors import BodyUnreadable

_prefixes: dict[str, int] = {}
# Packers at rest, by their `default`. One is never in two hands: other threads, a signal handler or
# a `default` that packs find it gone and take another. One that failed or has grown is let go.
_idle: dict[Callable[[Any], Any] | None, list[Any]] = {}
# Readers at rest that walk over what was packed, in the same way.
_walkers: list[Any] = []
_KEPT_BYTES = 64 * 1024
_KIND_CHARACTERS = 64  # of a kind that is worth keeping
# A body of this size is counted while it is decoded: a byte of msgpack may become a hundred in
# memory. As many numbers as a body can hold are fine; a container counts as eight of them.
_COUNTED_BYTES = 1024 * 1024
_MOST_VALUES = 8 * 1024 * 1024
_NOT_COUNTED: dict[str, Any] = {}


def _prefix(kind: str) -> int:
    """CRC state after `kind` and its terminating zero; a handful of kinds, so kept."""
    state = zlib.crc32(kind.encode("utf-8", "surrogatepass") + b"\0")
    if len(_prefixes) < 256 and len(kind) <= _KIND_CHARACTERS:
        _prefixes[kind] = state
    return state


def checksum(kind: str, body: bytes, seq: int) -> int:
    """CRC-32 of a record as `spooler.spool.format` defines it: 0 … 2**32-1."""
    state = _prefixes.get(kind)
    if state is None:
        state = _prefix(kind)
    return zlib.crc32(seq.to_bytes(8, "big"), zlib.crc32(body, state))


def pack(body: dict[str, Any], default: Callable[[Any], Any] | None = None) -> bytes:
    """Encode a body as msgpack; `default` turns what msgpack does not know into what it does.

    Raises what msgpack raises (TypeError, ValueError, OverflowError) when that is not enough, and
    ValueError when a map or list was changed by other code meanwhile, or lies about its length.
    """
    idle = _idle.setdefault(default, [])
    try:
        packer = idle.pop()
    except IndexError as error:
        if is_async(error):
            raise
        packer = msgpack.Packer(default=default, unicode_errors="surrogatepass")
    packed: bytes = packer.pack(body)
    if default is not None and not _is_whole(packed):
        raise ValueError("a map or list has fewer members than its length")
    if len(packed) <= _KEPT_BYTES:
        idle.append(packer)
    return packed


def _is_whole(packed: bytes) -> bool:
    """Whether this is one value and nothing more; half of what it costs to pack a usual step."""
    try:
        walker = _walkers.pop()
    except IndexError as error:
        if is_async(error):
            raise
        walker = msgpack.Unpacker(max_buffer_size=0)
    start = walker.tell()
    try:
        walker.feed(packed)
        walker.skip()
    except (ValueError, msgpack.UnpackException) as error:
        if is_async(error):
            raise
        return False
    if walker.tell() - start != len(packed):
        return False
    if len(packed) <= _KEPT_BYTES:
        _walkers.append(walker)
    return True


def unpack(body: bytes) -> dict[str, Any]:
    """Decode a body.

    Raises:
        BodyUnreadable: it is not a msgpack map, or holds extension types, which no writer of
            this format produces.
    """
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


def _decode(body: bytes, pairs_hook: Callable[[Any], Any] | None = None) -> Any:
    if len(body) < _COUNTED_BYTES:
        counting = _NOT_COUNTED
    else:
        count = _Count()
        counting = {
            "list_hook": count.list,
            "max_array_len": _MOST_VALUES,
            "max_map_len": _MOST_VALUES,
        }
        if pairs_hook is None:
            counting["object_hook"] = count.map
        else:
            inner = pairs_hook
            pairs_hook = lambda pairs: count.map(inner(pairs))  # noqa: E731 - one line in one place
    return msgpack.unpackb(
        body,
        **counting,
        ext_hook=_refuse_extension,
        timestamp=1,  # Unix seconds: what msgpack itself knows stays a number
        strict_map_key=False,
        unicode_errors="surrogatepass",
        object_pairs_hook=pairs_hook,
    )


class _Count:
    """Counts what a body decodes to, and stops before that is too much for its reader."""

    def __init__(self) -> None:
        self.values = 0

    def list(self, found: list[Any]) -> list[Any]:
        self._more(len(found))
        return found

    def map(self, found: dict[Any, Any]) -> dict[Any, Any]:
        self._more(2 * len(found))
        return found

    def _more(self, values: int) -> None:
        self.values += values + 8
        if self.values > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES} values")


def _map_with_text_keys(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    return {str(k) if isinstance(k, list | dict) else k: value for k, value in pairs}


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} of {len(data)} bytes")

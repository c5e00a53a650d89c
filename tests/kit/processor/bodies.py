"""The body of a request, read off the connection.

Rules:

* ``Transfer-Encoding: chunked`` counts before ``Content-Length``; with neither the body is
  empty.
* A body that breaks off is returned as far as it came, and the connection is of no further
  use. Headers that do not say where the body ends raise BadFraming.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from io import BufferedIOBase

from tests.kit.processor.errors import BadFraming

_PIECE = 1 << 20  # a claimed length must not allocate more than what really comes
_LONGEST_LINE = 4096


@dataclass(frozen=True, kw_only=True)
class Body:
    """What was read; ``whole`` is False when it broke off."""

    data: bytes
    whole: bool = True


def read_body(stream: BufferedIOBase, headers: Message) -> Body:
    """Read one body."""
    coding = (headers.get("Transfer-Encoding") or "").strip().lower()
    if coding == "chunked":
        return _chunked(stream)
    if coding not in ("", "identity"):
        raise BadFraming(f"unsupported transfer encoding {coding!r}; send chunked or a length")
    lengths = {value.strip() for value in headers.get_all("Content-Length", ())}
    if not lengths:
        return Body(data=b"")
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) < 20):
        raise BadFraming("bad Content-Length; send one decimal number")
    data = _exactly(stream, int(length))
    return Body(data=data, whole=len(data) == int(length))


def _chunked(stream: BufferedIOBase) -> Body:
    data = bytearray()
    while True:
        size = _chunk_size(stream.readline(_LONGEST_LINE))
        if size is None:
            return Body(data=bytes(data), whole=False)
        if size == 0:
            return Body(data=bytes(data), whole=_trailers_end(stream))
        chunk = _exactly(stream, size)
        data += chunk
        if len(chunk) < size or stream.readline(_LONGEST_LINE).strip():
            return Body(data=bytes(data), whole=False)


def _chunk_size(line: bytes) -> int | None:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 16 or digits.strip(b"0123456789abcdefABCDEF"):
        return None
    return int(digits, 16)


def _trailers_end(stream: BufferedIOBase) -> bool:
    while line := stream.readline(_LONGEST_LINE):
        if not line.strip():
            return True
    return False


def _exactly(stream: BufferedIOBase, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = stream.read(min(_PIECE, length - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data)

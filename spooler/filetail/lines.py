"""Where a piece of a log file ends: after a line, and never inside a character. Pure."""

from __future__ import annotations

# Bytes read at a time, and thereby the size of a piece at most; a line that is longer comes in
# several. A spool's segment holds some dozens of them, a master's message several.
PIECE_BYTES = 256 * 1024


def complete_lines(data: bytes, *, ended: bool, impatient: bool) -> int:
    """How many bytes of `data` make a piece: 0 to wait for more.

    `ended`: nothing will follow in this file. `impatient`: a line that is not complete has waited
    long enough.
    """
    lines = data.rfind(b"\n") + 1
    if ended and len(data) < PIECE_BYTES:
        return len(data)
    if lines:
        return lines
    if impatient or len(data) >= PIECE_BYTES:
        return len(data) - _begun(data)
    return 0


def text(data: bytes) -> str:
    """The text of a piece; bytes that are no UTF-8 become U+FFFD."""
    return data.decode("utf-8", "replace")


def _begun(data: bytes) -> int:
    """Bytes at the end that begin a character of UTF-8 and do not complete it: 0 to 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue
        return back if _length(byte) > back else 0
    return 0


def _length(first: int) -> int:
    """Bytes of the character that the byte `first` begins; 1 where it begins none."""
    for least, most, length in ((0xC2, 0xDF, 2), (0xE0, 0xEF, 3), (0xF0, 0xF4, 4)):
        if least <= first <= most:
            return length
    return 1

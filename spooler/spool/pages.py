"""SQLite's pages, as far as a segment uses them: rows of leaves, frames of a log. Pure.

Source: "Database File Format" of sqlite.org, sections 1.3 (header), 1.6 (b-tree pages), 2.1 (record
format) and 4.1 (WAL). No schema is read and no SQL is run: a cell with the four columns of a record
is taken for one, and its checksum decides (`spooler.spool.stored`).

Damage costs the cells that it hits: one that makes no sense is passed over.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet

from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.stored import SKIPPED, Row

PAGE = fmt.PAGE_SIZE  # of a log, and of a file that is not sealed
_INTERIOR = 0x05  # of a page above the leaves
LEAF = 0x0D  # first byte of a leaf page of a table; overflow pages begin with 0
LOG_HEADER = 32
FRAME_HEADER = 24
FRAME = FRAME_HEADER + PAGE

# The `size` bytes of a payload that lie from overflow page `number` on, page by page.
Chain = Callable[[int, int], Iterator[bytes]]
# Number, bytes of the payload, where that begins in the data, where the page ends, its size.
Cell = tuple[int, int, int, int, int]
_Value = str | bytes | int | None

# Of each frame: page number, pages in the database after a commit (else 0), the log's salts.
_FRAMES = struct.Struct(f">IIQ{FRAME - 16}x")
_SPILLED = 35  # a payload lies in its leaf alone if it is this much smaller than a page
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type -> bytes
_RECORD, _IDENTITY = 4, 2  # columns
_LETTERS = 4
_LIKE = 6 + _LETTERS  # bytes of a usual header and a short kind
_SKIP = -1
_UNKNOWN = ("", -2, 0)


def committed(data: bytes, salts: int) -> tuple[dict[int, int], list[int]]:
    """The frames at the start of `data` that belong to whole commits of the log with these salts.

    Returns where the newest image of each page begins in `data`, and for each commit the number of
    frames up to its end.
    """
    numbers: list[int] = []
    ends: list[int] = []
    for page, size, salt in _FRAMES.iter_unpack(memoryview(data)[: len(data) - len(data) % FRAME]):
        if salt != salts or not page:
            break
        numbers.append(page)
        if size:
            ends.append(len(numbers))
    del numbers[ends[-1] if ends else 0 :]
    return {page: index * FRAME + FRAME_HEADER for index, page in enumerate(numbers)}, ends


def frames(data: bytes, salts: int) -> Iterator[tuple[int, int, bool]]:
    """Of each frame of the log with these salts: where its page is, its number, if it commits."""
    whole = memoryview(data)[: len(data) - len(data) % FRAME]
    for index, (page, size, salt) in enumerate(_FRAMES.iter_unpack(whole)):
        if salt != salts or not page:
            return
        yield index * FRAME + FRAME_HEADER, page, size > 0


def images(data: bytes) -> dict[int, int]:
    """Where the newest image of each page begins in these frames, whatever they belong to."""
    return {
        int.from_bytes(data[at : at + 4], "big"): at + FRAME_HEADER
        for at in range(0, len(data) - FRAME + 1, FRAME)
    }


def number_at(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def page_size(head: bytes) -> int:
    """The size of a file's pages. Where its header is damaged, its second page tells, a leaf."""
    told = int.from_bytes(head[16:18], "big")
    if told in (PAGE, fmt.SEALED_PAGE_SIZE):
        return told
    is_small = head[PAGE : PAGE + 1] == bytes((LEAF,))
    return PAGE if is_small or len(head) <= PAGE else fmt.SEALED_PAGE_SIZE


def is_whole(head: bytes, size: int) -> bool:
    """Whether a database file of `size` bytes has the pages that its first three pages tell of."""
    page = page_size(head)
    if len(head) < 3 * page or size != page * number_at(head, 28):
        return False
    schema, identity, record = head[100], head[page], head[2 * page]
    return schema == LEAF and identity == LEAF and record in (LEAF, _INTERIOR)


def ends_commit(data: bytes, at: int) -> bool:
    """Whether the frame whose page is at `at` is the last one of a commit."""
    header = data[at - FRAME_HEADER : at]
    return header[4:8] != b"\0\0\0\0" and header[8:16] != bytes(8)


def cells(data: bytes, at: int, after: int, page: int = PAGE) -> list[Cell]:
    """The cells with a number above `after` of the leaf page at `at`, the last one first."""
    found: list[Cell] = []
    end = at + page
    place = at + 8 + 2 * min(data[at + 3] << 8 | data[at + 4], (page - 8) // 2)
    while place > at + 8:
        place -= 2
        try:
            cell = at + (data[place] << 8 | data[place + 1])
            size, second = data[cell], data[cell + 1]
            if size >= 0x80 > second:  # almost every record takes two bytes to tell its size
                size, cell = (size & 0x7F) << 7 | second, cell + 2
            else:
                size, cell = varint(data, cell)
            seq, second, third = data[cell], data[cell + 1], data[cell + 2]
            if seq >= 0x80 > second:
                seq, cell = (seq & 0x7F) << 7 | second, cell + 2
            elif second >= 0x80 > third and seq >= 0x80:
                seq, cell = (seq & 0x7F) << 14 | (second & 0x7F) << 7 | third, cell + 3
            else:
                seq, cell = varint(data, cell)
        except IndexError:
            continue  # damaged; its neighbours need not be
        if seq <= after:
            break  # they are in the order of their numbers
        if not seq >> 63:  # below zero no writer of ours counts
            found.append((seq, size, cell, end, page))
    return found


def rows(
    data: bytes, cells: Iterable[Cell], chain: Chain, skip: AbstractSet[bytes] = frozenset()
) -> list[Row]:
    """The records in cells, without those for which `row` has none, and without bodies to skip.

    Many have the same header and kind: what these say of the others is found once.
    """
    found: list[Row] = []
    known: dict[bytes, tuple[str, int, int]] = {}  # -> kind, size, bytes of the body
    number = int.from_bytes
    for cell in cells:
        seq, size, at, _, page = cell
        begin = at + _LIKE
        head = data[at:begin]
        name, length, split = known.get(head, _UNKNOWN)
        if length == size:
            split += begin
            checksum = number(data[split : at + size], "big")
            found.append((seq, name, data[begin:split], checksum))
        elif length == _SKIP:
            found.append((seq, "", b"", SKIPPED))
        elif skip and (encoded := kind(data, cell)) in skip:
            found.append((seq, "", b"", SKIPPED))
            if len(encoded) == _LETTERS and head[:2] == b"\6\0":
                known[head] = "", _SKIP, 0
        else:
            one = row(data, cell, chain)
            if one is not None:
                found.append(one)
                if size <= page - _SPILLED and _is_like(head, size, one):
                    known[head] = one[1], size, len(one[2])
    return found


def _is_like(head: bytes, size: int, one: Row) -> bool:
    """Whether all records that begin like this one are divided like it, by `_usual_record`."""
    usual = head[:2] == b"\6\0" and head[3] >= 0x80 > head[4]
    _, kind, body, _ = one
    is_kind = head[6:] == kind.encode("utf-8", "surrogateescape")
    return usual and is_kind and size - _LIKE - len(body) in (4, 6)


def row(data: bytes, cell: Cell, chain: Chain) -> Row | None:
    """The record in a cell, its checksum not verified; None for one of another table, or damaged.

    `chain` is called for the part of it that does not lie in its page.
    """
    seq, size, at, end, page = cell
    try:
        if size > page - _SPILLED or data[at] != 6:
            return _record(_payload(data, at, end, size, page, chain), seq)
        return _usual_record(data, at, at + size, seq)
    except (IndexError, ValueError):
        return None


def long_row(data: bytes, cell: Cell, chain: Chain) -> Row | None:
    """A record that goes beyond its page, without its body; None unless its checksum holds."""
    seq, size, at, end, page = cell
    try:
        local = _local(size, page)
        begin = data[at : at + local]
        head, place = varint(begin, 0)
        is_null, place = varint(begin, place)
        kind_type, place = varint(begin, place)
        body_type, place = varint(begin, place)
        sum_type, place = varint(begin, place)
        body_at, left = head + _size(kind_type), _size(body_type)
        usual = seq > 0 and not is_null and kind_type % 2 and not body_type % 2 and place == head
        if not usual or size > fmt.BODY_LIMIT + PAGE or body_at > local or at + local > end:
            return None
        kind = begin[head:body_at].decode("utf-8", "surrogateescape")
        state, rest = codec.checksum_begin(kind), b""
        overflow = int.from_bytes(data[at + local : at + local + 4], "big")
        for part in itertools.chain((begin[body_at:],), chain(overflow, size - local)):
            state = zlib.crc32(part[:left], state)
            rest += part[left:]
            left -= min(left, len(part))
        found = codec.checksum_end(state, seq)
        return (seq, kind, b"", SKIPPED) if found == _value(sum_type, rest) else None
    except (IndexError, ValueError):
        return None


def kind(data: bytes, cell: Cell) -> bytes:
    """The kind of the record in a cell, unverified; b"" where it does not begin as records do."""
    at = cell[2]
    try:
        head, is_null, kind_type = data[at], not data[at + 1], data[at + 2]
    except IndexError:
        return b""
    usual = head < 0x80 and is_null and 13 <= kind_type < 0x80 and kind_type & 1
    return data[at + head : at + head + (kind_type - 13 >> 1)] if usual else b""


def last_seq(data: bytes, at: int, page: int = PAGE) -> int:
    """The number of the last cell of the leaf page at `at`, 0 without any."""
    count = data[at + 3] << 8 | data[at + 4]
    place = at + 6 + 2 * count
    if not count or place + 2 > at + page:
        return 0
    try:
        _, cell = varint(data, at + (data[place] << 8 | data[place + 1]))
        return varint(data, cell)[0]
    except IndexError:
        return 0


def identities(data: bytes, at: int, chain: Chain, page: int = PAGE) -> Iterator[tuple[bytes, int]]:
    """Bodies and checksums of what looks like an identity in the leaf page at `at`."""
    for place in range(at + 8, at + 8 + 2 * min(data[at + 3] << 8 | data[at + 4], 8), 2):
        try:
            size, cell = varint(data, at + (data[place] << 8 | data[place + 1]))
            _, cell = varint(data, cell)
            columns = _columns(_payload(data, cell, at + page, size, page, chain))
        except (IndexError, ValueError):
            continue
        if len(columns) == _IDENTITY:
            body, checksum = columns
            if isinstance(body, bytes) and isinstance(checksum, int):
                yield body, checksum


def _usual_record(data: bytes, at: int, end: int, seq: int) -> Row | None:
    """As `_record`, of a payload in its leaf that begins as almost every one does.

    With a header of six bytes: a short kind, a body of 58 bytes or more, a checksum.
    """
    kind_type, body_type = data[at + 2], (data[at + 3] & 0x7F) << 7 | data[at + 4]
    body_at = at + 6 + (kind_type - 13 >> 1)
    sum_at = body_at + (body_type - 12 >> 1)
    usual = data[at + 1] == 0 and 13 <= kind_type < 0x80 <= data[at + 3] and data[at + 4] < 0x80
    if not usual or not kind_type & 1 or body_type & 1 or end - sum_at not in (4, 6):
        return _record(data[at:end], seq)
    kind = data[at + 6 : body_at].decode("utf-8", "surrogateescape")
    return seq, kind, data[body_at:sum_at], int.from_bytes(data[sum_at:end], "big")


def _record(payload: bytes, seq: int) -> Row | None:
    """The record with this payload; None for a row of another table."""
    columns = _columns(payload)
    if len(columns) != _RECORD or columns[0] is not None:
        return None
    _, kind, body, checksum = columns
    if isinstance(kind, str) and isinstance(body, bytes) and isinstance(checksum, int):
        return seq, kind, body, checksum
    return seq, "", b"", -1  # of the form of a record, and damaged


def _payload(data: bytes, at: int, end: int, size: int, page: int, chain: Chain) -> bytes:
    if not 0 < size <= fmt.BODY_LIMIT + PAGE:
        raise ValueError("no record is as large as this")
    local = _local(size, page)
    if at + local > end:
        raise ValueError("goes beyond its page")
    if local == size:
        return data[at : at + size]
    overflow = int.from_bytes(data[at + local : at + local + 4], "big")
    return b"".join(itertools.chain((data[at : at + local],), chain(overflow, size - local)))


def follow(number: int, size: int, page_of: Callable[[int], bytes]) -> Iterator[bytes]:
    """`size` bytes from overflow page `number` on; `page_of` gives a page by its number.

    Raises:
        ValueError: the chain ends before them.
    """
    while size > 0:
        page = page_of(number) if number else b""
        if len(page) < PAGE:
            raise ValueError("its chain of pages is broken")
        yield page[4 : 4 + size]
        size -= len(page) - 4
        number = int.from_bytes(page[:4], "big")


def _local(size: int, page: int) -> int:
    """How much of a payload of `size` bytes lies in its leaf, as SQLite divides it."""
    most, least = page - _SPILLED, (page - 12) * 32 // 255 - 23
    if size <= most:
        return size
    fitting = least + (size - least) % (page - 4)
    return fitting if fitting <= most else least


def _columns(payload: bytes) -> list[_Value]:
    end, at = varint(payload, 0)
    types = []
    while at < end:
        kind, at = varint(payload, at)
        types.append(kind)
    values: list[_Value] = []
    for kind in types:
        size = _size(kind)
        raw = payload[at : at + size]
        if len(raw) < size:
            raise ValueError("its columns are longer than it is")
        values.append(_value(kind, raw))
        at += size
    return values


def _size(kind: int) -> int:
    if kind >= 12:
        return (kind - 12) // 2
    if kind in (0, 8, 9):
        return 0
    if kind in _INTEGERS:
        return _INTEGERS[kind]
    raise ValueError("no column of the format has this type")


def _value(kind: int, raw: bytes) -> _Value:
    if kind >= 12:
        return raw.decode("utf-8", "surrogateescape") if kind % 2 else raw
    if kind == 0:
        return None
    return kind - 8 if kind in (8, 9) else int.from_bytes(raw, "big", signed=True)


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """SQLite's variable-length integer at `at`, and where it ends.

    Raises:
        IndexError: it goes beyond the end.
    """
    value = raw[at]
    if value < 0x80:
        return value, at + 1
    byte = raw[at + 1]
    value = (value & 0x7F) << 7 | (byte & 0x7F)
    if byte < 0x80:
        return value, at + 2
    for index in range(at + 2, at + 8):
        byte = raw[index]
        value = value << 7 | (byte & 0x7F)
        if byte < 0x80:
            return value, index + 1
    return value << 8 | raw[at + 8], at + 9

"""Builders of foreign files, byte by byte, and one way to read a foreign source to its end."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shipper.importers import ImportSource, SourceInfo
from shipper.importers.wandb_run import WandbFile
from spooler.spool import codec
from spooler.spool.reader import Damage, Stored
from tests.kit.spools import Found

WANDB_HEADER = b":W&B\xe1\xbe\x00"
BLOCK, HEAD = 32 * 1024, 7


def read_all(source: ImportSource, *, after: int = 0, limit: int = 7) -> Found:
    """Read a source to its end in chunks of `limit`, every number accounted for once."""
    records, damage = list[Stored](), list[Damage]()
    through, at_end = after, False
    while not at_end:
        chunk = source.read(through, limit)
        given = sorted([r.seq for r in chunk.records] + [d.first for d in chunk.damage])
        assert given == list(range(through + 1, chunk.through + 1))
        assert chunk.at_end or len(given) <= limit
        records += chunk.records
        damage += chunk.damage
        through, at_end = chunk.through, chunk.at_end
    return Found(records=tuple(records), damage=tuple(damage), through=through)


def steps(found: Found) -> list[tuple[int, dict[str, Any]]]:
    """Number and data of every step, in order."""
    return [(body["step"], body["data"]) for body in found.bodies("step")]


def is_same(one: Any, other: Any) -> bool:
    """Equality that takes NaN for itself."""
    return codec.pack({"x": _sorted(one)}) == codec.pack({"x": _sorted(other)})


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    if isinstance(value, float) and value != value:
        return "NaN, of whatever sign"
    # wandb's own service writes 1.0 as 1.
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


# --- a log of LevelDB's, as wandb writes it -------------------------------------------------------


def log(records: Iterable[bytes], *, header: bytes = WANDB_HEADER) -> bytes:
    """A whole file of these records."""
    made = bytearray(header)
    for record in records:
        made += framed(record, len(made))
    return bytes(made)


def framed(data: bytes, offset: int) -> bytes:
    """The bytes that put one record at `offset` of a log."""
    made, is_first = bytearray(), True
    while True:
        room = BLOCK - (offset + len(made)) % BLOCK
        if room < HEAD:
            made += bytes(room)
            continue
        piece, data = data[: room - HEAD], data[room - HEAD :]
        made += fragment(piece, {(1, 0): 1, (1, 1): 2, (0, 1): 3, (0, 0): 4}[is_first, bool(data)])
        is_first = False
        if not data:
            return bytes(made)


def fragment(data: bytes, kind: int) -> bytes:
    """One fragment with its head."""
    checksum = zlib.crc32(bytes([kind]) + data)
    return struct.pack("<IHB", checksum, len(data), kind) + data


# --- messages -------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def put(number: int, value: int | float | str | bytes) -> bytes:
    """One field: a varint, a double, or text, bytes and messages with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def item(name: str, value: Any) -> bytes:
    """An item of a history record, under its plain key."""
    return put(1, put(1, name) + put(16, json.dumps(value)))


def history(number: int, **data: Any) -> bytes:
    """A history record with everything that wandb puts into it."""
    named = {**data, "_step": number, "_timestamp": 1700000000.0 + number, "_runtime": number}
    items = b"".join(item(name, value) for name, value in named.items())
    return put(2, items + put(2, put(1, number)))


def run_record(run: str = "r1", **texts: Any) -> bytes:
    return put(17, put(1, run) + put(3, "project") + put(17, put(1, 1700000000)))


def wandb_file(path: Path, count: int, **data: Any) -> WandbFile:
    """A file of one run with `count` steps and its end."""
    records = [
        put(21, put(1, put(1, "0.31.0"))),
        run_record(),
        *(history(number, **(data or {"loss": number / 3})) for number in range(count)),
        put(18, put(1, 0)),
    ]
    path.write_bytes(log(records))
    return WandbFile(path, SourceInfo())

"""Records as they lie on disk, and what reading them finds. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spooler.spool import codec

INSIDE = "missing inside the file"
Row = tuple[int, str, bytes, int]  # seq, kind, body, checksum
# In place of the checksum of a row of a kind that is skipped: no file can hold such a number.
SKIPPED = 1 << 64


class Stored(NamedTuple):
    """One record as it lies on disk, its checksum verified, its body not decoded."""

    seq: int
    kind: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Records that cannot be delivered: `first` to `last` seq, in file `path`, and why."""

    path: str
    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: records {self.first} to {self.last} cannot be read ({self.reason})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What one read found.

    `through` is the position up to which everything is in `records`, in `damage`, or in `skipped`
    (first and last seq of records whose kinds were not wanted, their checksums not verified);
    `at_end` says that there was nothing further at the time of reading; `large`, that there are no
    records because the next one is larger than what was asked for.
    """

    records: tuple[Stored, ...]
    damage: tuple[Damage, ...]
    through: int
    at_end: bool
    skipped: tuple[tuple[int, int], ...] = ()
    large: bool = False


def is_sound(row: Row) -> bool:
    """Whether a row is a record: its checksum holds, or it is skipped."""
    seq, kind, body, checksum = row
    return checksum == SKIPPED or (0 < seq < 2**63 and codec.checksum(kind, body, seq) == checksum)


def in_order(rows: list[Row], after: int) -> list[Stored] | None:
    """Records in `rows`, if each row is sound and follows the one before it, from `after` on."""
    records: list[Stored] = []
    crc32, make, last, begun = zlib.crc32, tuple.__new__, "", 0
    for seq, kind, body, checksum in rows:
        after += 1
        if checksum == SKIPPED and seq == after:
            continue
        if kind != last or not begun:
            last, begun = kind, codec.checksum_begin(kind)
        # As `codec.checksum`: this is done for each record that is read.
        if seq != after or crc32(seq.to_bytes(8, "big"), crc32(body, begun)) != checksum:
            return None
        # As a plain tuple: the constructor takes twice as long.
        records.append(make(Stored, (seq, kind, body)))
    return records


def between(records: list[Stored], after: int, through: int) -> Iterator[tuple[int, int]]:
    """The ranges of seqs from `after` to `through` that are not among these records."""
    if len(records) == through - after:
        return
    for record in records:
        if record.seq > after + 1:
            yield after + 1, record.seq - 1
        after = record.seq
    if after < through:
        yield after + 1, through


def verify(  # noqa: PLR0913 - it fills three lists
    path: Path,
    rows: list[Row],
    position: int,
    records: list[Stored],
    damage: list[Damage],
    *,
    inside: bool = False,
    skipped: list[tuple[int, int]] | None = None,
) -> int:
    """Sort rows into records, damage and what is skipped; return the position reached.

    `inside` says that the file should hold the first of them: what is missing before it is missing
    in this file, and not a file of its own.
    """
    for seq, kind, body, checksum in rows:
        if seq > position + 1:
            reason = INSIDE if inside else "missing"
            damage.append(Damage(path=str(path), first=position + 1, last=seq - 1, reason=reason))
        if checksum == SKIPPED and skipped is not None:
            skipped.append((seq, seq))
        elif is_sound((seq, kind, body, checksum)):
            records.append(Stored(seq, kind, body))
        else:
            damage.append(Damage(path=str(path), first=seq, last=seq, reason="checksum"))
        position, inside = seq, True
    return position

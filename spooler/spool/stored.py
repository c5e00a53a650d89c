"""Records as they lie on disk, and what reading them finds. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spooler.spool import codec

INSIDE = "missing inside the file"
Row = tuple[int, str, bytes, int]  # seq, kind, body, checksum


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

    `through` is the position up to which everything is in `records` or in `damage`;
    `at_end` says that there was nothing further at the time of reading.
    """

    records: tuple[Stored, ...]
    damage: tuple[Damage, ...]
    through: int
    at_end: bool


def is_sound(row: Row) -> bool:
    """Whether a row is a record: its checksum holds."""
    seq, kind, body, checksum = row
    return 0 < seq < 2**63 and codec.checksum(kind, body, seq) == checksum


def in_order(rows: list[Row], after: int) -> list[Stored] | None:
    """`rows` as records, if each is sound and follows the one before it, from `after` on."""
    records: list[Stored] = []
    for seq, kind, body, checksum in rows:
        after += 1
        if seq != after or codec.checksum(kind, body, seq) != checksum:
            return None
        records.append(Stored(seq, kind, body))
    return records


def verify(
    path: Path,
    rows: list[Row],
    position: int,
    records: list[Stored],
    damage: list[Damage],
    *,
    inside: bool = False,
) -> int:
    """Sort rows into records and damage; return the position reached.

    `inside` says that the file should hold the first of them: what is missing before it is missing
    in this file, and not a file of its own.
    """
    for seq, kind, body, checksum in rows:
        if seq > position + 1:
            reason = INSIDE if inside else "missing"
            damage.append(Damage(path=str(path), first=position + 1, last=seq - 1, reason=reason))
        if is_sound((seq, kind, body, checksum)):
            records.append(Stored(seq, kind, body))
        else:
            damage.append(Damage(path=str(path), first=seq, last=seq, reason="checksum"))
        position, inside = seq, True
    return position

"""How far a log file has been recorded: the `source` of a `report` record. Pure.

A path and an offset are not enough: files are renamed, truncated and written again, and inodes are
used again. So a position also holds checksums of what stood at the beginning of the file and just
before the position: only a file that has both is the one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Bytes at the beginning of the file, and before the position, that identify it; fewer when there
# are fewer.
WINDOW = 1024


@dataclass(frozen=True, kw_only=True)
class Position:
    """`begin` to `end` is what the record holds, in bytes; the next piece begins at `end`."""

    path: str  # as it was followed, absolute
    device: int
    inode: int
    begin: int
    end: int
    head: int  # CRC-32 of the first min(end, WINDOW) bytes of the file
    tail: int  # CRC-32 of the last min(end, WINDOW) bytes before `end`

    @property
    def window(self) -> int:
        """How many bytes `head` and `tail` each stand for."""
        return min(self.end, WINDOW)

    def is_in(self, head: bytes, tail: bytes) -> bool:
        """Whether a file with these bytes in the two places is the one."""
        return (
            len(head) == len(tail) == self.window
            and zlib.crc32(head) == self.head
            and zlib.crc32(tail) == self.tail
        )

    def to_map(self) -> dict[str, Any]:
        """What stands in the record."""
        return asdict(self)

    @classmethod
    def from_map(cls, values: Any) -> Position | None:
        """The position in a record, None where there is none."""
        if not isinstance(values, Mapping):
            return None
        names = {f.name: (str if f.type == "str" else int) for f in fields(cls)}
        if not all(isinstance(values.get(name), kind) for name, kind in names.items()):
            return None
        return cls(**{name: values[name] for name in names})

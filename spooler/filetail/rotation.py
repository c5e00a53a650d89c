"""The files that a rotation may have made of a log file: which they are, and in what order.

`train.log` becomes `train.log.1`, `train.log-20240101`, `train.log.2024-01-01_10-00`, or
`train-20240101.log`. Compressed ones are passed over. If the path is a link, the rotation may
happen beside its target.

A name is no proof: `rank_10.log` is no rotated `rank_1.log`. So each file has a `scheme`, the form
of its name, and the follower trusts a scheme once a file of it was seen to hold what was ours.
Within a scheme the names say the order, and no modification time does: clocks are set back. Higher
numbers are older, earlier dates are.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from spooler.async_exceptions import ours

_SUFFIX = r"[.\-_]?\d[\d.:_TZ\-]*"
_COUNT_DIGITS = 4  # a number of more is a date
_KEY_BYTES = 256
_LISTINGS = 20


class FileMoved(Exception):
    """A file was renamed or deleted between two looks: what the first one told is void."""


@dataclass(frozen=True, kw_only=True)
class RotatedFile:
    """One file: where it is now, and what its name says.

    Reading it raises FileMoved where it is not there any more.
    """

    path: Path
    device: int
    inode: int
    size: int
    scheme: str = ""  # "" for the path itself
    number: int = 0  # of a scheme that counts
    date: str = ""  # of another

    @property
    def age(self) -> tuple[int, str, str]:
        """Sorts the files of a scheme, the oldest first."""
        return -self.number, self.date, self.path.name

    @property
    def is_usual(self) -> bool:
        """Whether a rotation is the usual reason for such a name: `.1`, `-20240101`."""
        return self.scheme.partition(":")[2][:1] in (".", "-")

    def key(self) -> str:
        """Names the file for as long as it is: its inode may be used again, by other content."""
        return f"{self.inode}:{zlib.crc32(self.head())}"

    def head(self, size: int = _KEY_BYTES) -> bytes:
        """The first bytes of the file, none where we may not read."""
        found = self.read((0, size))
        return found[0] if found else b""

    def read(self, *places: tuple[int, int]) -> list[bytes] | None:
        """The bytes at each offset, of that size; None where we may not read."""
        descriptor = self.open()
        if descriptor is None:
            return None
        try:
            return [os.pread(descriptor, size, offset) for offset, size in places]
        finally:
            os.close(descriptor)

    def open(self) -> int | None:
        """A descriptor for reading; None where we may not read."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise FileMoved(self.path) from None
        except ours(PermissionError):
            return None
        if os.fstat(descriptor).st_ino != self.inode:
            os.close(descriptor)
            raise FileMoved(self.path)
        return descriptor


def rotated_files(path: Path) -> list[RotatedFile]:
    """The files whose names a rotation of `path` may have made, in each scheme the oldest first.

    A rotation that renames them one by one may be under way: two listings have to agree.

    Raises:
        FileMoved: they never did.
    """
    found = _listed(path)
    for _ in range(_LISTINGS):
        again = _listed(path)
        if [(one.path, one.inode) for one in again] == [(one.path, one.inode) for one in found]:
            return found
        found = again
    raise FileMoved(path)


def is_rotated(path: Path) -> bool:
    """Whether there may be rotated files of `path`, or some that are being renamed."""
    try:
        return bool(rotated_files(path))
    except ours(FileMoved, OSError):
        return True


def stat_file(path: Path) -> RotatedFile | None:
    """The regular file at `path`, None where there is none."""
    try:
        status = os.stat(path)
    except ours(FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return RotatedFile(path=path, device=status.st_dev, inode=status.st_ino, size=status.st_size)


def _listed(path: Path) -> list[RotatedFile]:
    bases = dict.fromkeys((path, Path(os.path.realpath(path))))
    found = [one for base in bases for one in _beside(base)]
    return sorted(found, key=lambda one: (one.scheme, one.age))


def _beside(base: Path) -> Iterator[RotatedFile]:
    pattern = re.compile(
        rf"{re.escape(base.name)}(?P<after>{_SUFFIX})"
        rf"|{re.escape(base.stem)}(?P<within>{_SUFFIX}){re.escape(base.suffix)}"
    )
    try:
        names = os.listdir(base.parent)
    except ours(FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in names:
        match = pattern.fullmatch(name)
        one = stat_file(base.parent / name) if match is not None and name != base.name else None
        if match is not None and one is not None:
            yield _named(one, match.lastgroup or "", match["after"] or match["within"])


def _named(one: RotatedFile, place: str, suffix: str) -> RotatedFile:
    """The file with what the suffix of its name says."""
    digits = suffix.lstrip(".-_")
    number, date = 0, suffix
    form = re.sub(r"\d", "0", suffix)
    if digits.isdecimal() and len(digits) <= _COUNT_DIGITS:
        number, date = int(digits), ""
        form = f"{suffix[: -len(digits)]}N"
    return replace(one, scheme=f"{place}:{form}", number=number, date=date)

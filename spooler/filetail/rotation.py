"""The files that a rotation has made of a log file: which they are, and in what order.

`train.log` becomes `train.log.1`, `train.log-20240101`, `train.log.2024-01-01_10-00`, or
`train-20240101.log`. Compressed ones are passed over. A file's last write dates it; where two are
of the same tick, higher numbers are older, as those who count have it.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

from spooler.async_exceptions import is_async

_SUFFIX = r"[.\-_]?\d[\d.:_TZ\-]*"
_COUNT_LIMIT = 9999
_KEY_BYTES = 256
_LISTINGS = 20


class FileMoved(Exception):
    """A file was renamed or deleted between two looks: what the first one told is void."""


@dataclass(frozen=True, kw_only=True)
class RotatedFile:
    """One file: where it is now, and what dates it."""

    path: Path
    device: int
    inode: int
    written: int  # nanoseconds
    number: int  # of its suffix where that counts, else 0

    @property
    def age(self) -> tuple[int, int, str]:
        """Sorts the oldest first."""
        return self.written, -self.number, self.path.name

    def key(self) -> str:
        """Names the file for as long as it is: its inode may be used again, by other content.

        Raises:
            Moved: it is not there any more.
        """
        return f"{self.inode}:{zlib.crc32(self.head())}"

    def head(self) -> bytes:
        """The first bytes of the file.

        Raises:
            Moved: it is not there any more.
        """
        descriptor = self.open()
        if descriptor is None:
            return b""
        try:
            return os.pread(descriptor, _KEY_BYTES, 0)
        finally:
            os.close(descriptor)

    def open(self) -> int | None:
        """A descriptor for reading; None where we may not read.

        Raises:
            Moved: it is not there any more.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise FileMoved(self.path) from None
        except OSError as error:
            if is_async(error):
                raise
            return None
        if os.fstat(descriptor).st_ino != self.inode:
            os.close(descriptor)
            raise FileMoved(self.path)
        return descriptor


def rotated_files(path: Path) -> list[RotatedFile]:
    """The rotated files of `path`, the oldest first; without `path` itself.

    A rotation that renames them one by one may be under way: two listings have to agree.

    Raises:
        Moved: they never did.
    """
    found = _listed(path)
    for _ in range(_LISTINGS):
        again = _listed(path)
        if [(one.path, one.inode) for one in again] == [(one.path, one.inode) for one in found]:
            return found
        found = again
    raise FileMoved(path)


def is_rotated(path: Path) -> bool:
    """Whether there are rotated files of `path`, or some that are being renamed."""
    try:
        return bool(rotated_files(path))
    except FileMoved:
        return True


def _listed(path: Path) -> list[RotatedFile]:
    pattern = re.compile(
        rf"{re.escape(path.name)}(?P<after>{_SUFFIX})"
        rf"|{re.escape(path.stem)}(?P<within>{_SUFFIX}){re.escape(path.suffix)}"
    )
    found = []
    try:
        names = os.listdir(path.parent)
    except OSError as error:
        if is_async(error):
            raise
        return []
    for name in names:
        match = pattern.fullmatch(name)
        if match is not None and name != path.name:
            one = stat_file(path.parent / name, match["after"] or match["within"])
            if one is not None:
                found.append(one)
    return sorted(found, key=lambda one: one.age)


def stat_file(path: Path, suffix: str = "") -> RotatedFile | None:
    """The regular file at `path`, None where there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        if is_async(error):
            raise
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    digits = suffix.lstrip(".-_")
    number = int(digits) if digits.isdecimal() and int(digits) <= _COUNT_LIMIT else 0
    return RotatedFile(
        path=path,
        device=status.st_dev,
        inode=status.st_ino,
        written=status.st_mtime_ns,
        number=number,
    )

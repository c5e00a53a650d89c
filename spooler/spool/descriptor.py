"""Descriptors that the program may take away: `os.closerange(3, 1000)` closes SQLite's as well.

The next file that the program opens gets the same number. So a descriptor is remembered with its
file, and is used or closed only as long as it still stands for that file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spooler.async_exceptions import ours, suppress

_OPEN = "/proc/self/fd"
_MOST = 4096  # numbers to look at where there is no /proc


@dataclass(frozen=True)
class Descriptor:
    """A number of this process, and the file that it has to stand for: device and inode."""

    number: int
    file: tuple[int, int]

    def is_ours(self) -> bool:
        """Whether the number still stands for the file."""
        try:
            return _file(os.fstat(self.number)) == self.file
        except ours(OSError):
            return False

    def is_at(self, path: str | Path) -> bool:
        """Whether `path` names the file.

        Raises:
            OSError: the file system does not say.
        """
        try:
            return _file(os.lstat(path)) == self.file
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Close it, unless the number stands for another file by now."""
        if self.is_ours():
            with suppress(OSError):
                os.close(self.number)


def of(number: int) -> Descriptor:
    """An open descriptor with its file."""
    return Descriptor(number, _file(os.fstat(number)))


def find(path: Path) -> Descriptor:
    """The descriptor by which this process, which has just opened `path`, has it open.

    Raises:
        OSError: there is none.
    """
    wanted = _file(os.lstat(path))
    for number in _numbers(path.name):
        found = Descriptor(number, wanted)
        if found.is_ours() and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            return found  # one that only reads is the program's, which copies its own folder
    raise OSError(errno.EBADF, "no descriptor of it is open", str(path))


def _numbers(name: str) -> Iterable[int]:
    """Open descriptors of files called `name`; no other file is asked, as its server may hang."""
    try:
        numbers = os.listdir(_OPEN)
    except ours(OSError):
        return range(_MOST)
    return [int(number) for number in numbers if _name(number) == name]


def _name(number: str) -> str:
    try:
        return os.path.basename(os.readlink(f"{_OPEN}/{number}"))
    except ours(OSError):
        return ""


def _file(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

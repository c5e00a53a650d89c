"""Keeps the reader of a spool inside it: its files are written by people who are not trusted.

Rules:

- A path is given with no link in it (`Segments` resolves its folder once) and has to stay so: a
  folder or file that has been replaced by a link leads to another user's.
- Only a regular file is opened: a FIFO would hold the reader up, a device may do anything. One with
  several names has to belong to the owner of its folder. Opening waits for no lease of its tenant.
- Deleting and moving go through the opened folder, so that nothing can be swapped in between.
- The cost of a folder is bounded: after a question that took too long, or very many unreadable
  files, it is not read for `PENALTY_SECONDS`. A thousand bad files cost no more than a few.
- A file is checked by a handle that opens nothing, then opened without waiting. It is used only if
  it is the one that was checked (device and inode).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMING = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC  # opens nothing, only holds what is there
_LINKED = "a folder on the way to it has become a symbolic link"

PENALTY_SECONDS = 30.0
_MOST_FAILURES = 1000  # in one folder within that time
_penalized: dict[str, float] = {}  # folder -> monotonic seconds until which it is not read
_failures: dict[str, tuple[float, int]] = {}  # folder -> monotonic seconds of the first, how many

Mark = tuple[int, int]  # device and inode


class UnsafePath(OSError):
    """The path is not a regular file of a spool and was not opened. Says what it is instead."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(errno.ELOOP, what, path)


def check(path: Path | str) -> Mark:
    """Make sure that `path` is a regular file, reached without a link.

    Raises:
        UnsafePath: it is not.
        FileNotFoundError: nothing is there.
    """
    text = os.fspath(path)
    handle = os.open(text, _NAMING)
    try:
        status, place = os.fstat(handle), _place_of(handle)
    finally:
        os.close(handle)
    _check_kind(text, status)
    if _penalized and _penalized.get(os.path.dirname(text), 0.0) > time.monotonic():
        raise UnsafePath(
            text, f"its folder costs too much time, not read for up to {PENALTY_SECONDS:.0f} s"
        )
    if place != text and os.path.realpath(text) != text:
        raise UnsafePath(text, _LINKED)
    return status.st_dev, status.st_ino


def open_regular(path: Path | str) -> int:
    """Open `path` for reading if it is what `check` wants; a descriptor.

    Raises:
        UnsafePath: it is not.
        OSError: it cannot be opened.
    """
    for _ in range(2):  # a writer replaces a segment once, when it seals it
        mark = check(path)
        descriptor = os.open(path, READING)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) == mark:
            return descriptor
        os.close(descriptor)
    raise UnsafePath(os.fspath(path), "it was replaced while it was opened")


def open_named(path: Path | str) -> BinaryIO:
    """Open a file that a user names, wherever its links lead; waits for no pipe and no lease.

    Raises:
        OSError: it is not a regular file, or cannot be opened now.
    """
    return os.fdopen(open_regular(os.path.realpath(path)), "rb")


def penalize(folder: str) -> None:
    """Do not read a folder for `PENALTY_SECONDS`."""
    now = time.monotonic()
    for key in [key for key, until in list(_penalized.items()) if until < now]:
        _penalized.pop(key, None)
    _penalized[folder] = now + PENALTY_SECONDS


def count_failure(folder: str) -> None:
    """Count an unreadable file in this folder, and penalize the folder if there are too many."""
    now = time.monotonic()
    if len(_failures) > _MOST_FAILURES:
        _failures.clear()
    since, count = _failures.get(folder, (now, 0))
    if now - since > PENALTY_SECONDS:
        since, count = now, 0
    _failures[folder] = (since, count + 1)
    if count >= _MOST_FAILURES:
        penalize(folder)


@contextmanager
def inside(folder: Path) -> Iterator[int]:
    """`folder`, opened, for calls that take a `dir_fd`.

    Raises:
        UnsafePath: the folder, or one above it, has become a link.
        OSError: it cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") != os.fspath(folder):
            raise UnsafePath(os.fspath(folder), _LINKED)
        yield descriptor
    finally:
        os.close(descriptor)


def _place_of(handle: int) -> str:
    """Where the kernel says it is, without a link in it; "" where that cannot be asked."""
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


def _check_kind(path: str, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        # Who may link another's file into a folder of his own is not its owner.
        folder = os.path.dirname(path)
        if status.st_nlink > 1 and status.st_uid != os.lstat(folder).st_uid:
            raise UnsafePath(path, "another user's file, linked here")
        return
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    raise UnsafePath(path, f"{kinds.get(stat.S_IFMT(mode), 'of an unknown kind')}, not a file")

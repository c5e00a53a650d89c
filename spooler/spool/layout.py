"""Where a spool lies: directories, modes, the marks of a root."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

from spooler import async_exceptions
from spooler.async_exceptions import ours
from spooler.config import Limits
from spooler.errors import SpoolUnavailable
from spooler.spool import db
from spooler.spool import format as fmt
from spooler.spool.descriptor import Descriptor

_TRIES = 20  # to make a path while something removes parts of it


def make_directories(root: Path, below: tuple[str, ...], limits: Limits) -> None:
    """Create what is missing of the path, each folder with our mode; others' stay as they are.

    The service removes empty folders of nodes and ranks. One that goes between two steps here is
    made again.
    """
    for _ in range(_TRIES):
        with async_exceptions.suppress(FileNotFoundError):
            _make_directories(root, below, limits)
            return
    _make_directories(root, below, limits)


def _make_directories(root: Path, below: tuple[str, ...], limits: Limits) -> None:
    missing = [root] if not root.exists() else []
    if missing:
        root.parent.mkdir(parents=True, exist_ok=True)
    path = root
    for part in below:
        path = path / part
        missing.append(path)
    for folder in missing:
        try:
            folder.mkdir(mode=limits.directory_mode)
        except ours(FileExistsError):
            if folder.name == fmt.user_name(os.geteuid()):
                _check_own(folder)
            continue
        _hand_over(folder, limits)


def group_of(root: Path) -> int | None:
    """The group that a root hands every spool to; None for a root of one user's own.

    It does if anybody may make a folder in it, and what is made belongs to its group.
    """
    status = _status(root)
    handing = stat.S_ISGID | stat.S_IWOTH
    return status.st_gid if status and status.st_mode & handing == handing else None


def user_folder(root: Path) -> tuple[str, ...]:
    """The folder of this user's own in such a root, where no user may touch another's (sticky)."""
    status = _status(root)
    if group_of(root) is None or status is None or not status.st_mode & stat.S_ISVTX:
        return ()
    return (fmt.user_name(os.geteuid()),)


def is_marked_full(root: Path) -> bool:
    """Whether the service asks writers below `root` to pause, and still lives."""
    try:
        marker, status = os.stat(root / fmt.ROOT_FULL_NAME), os.stat(root)
    except OSError:
        return False
    if status.st_mode & stat.S_ISVTX and marker.st_uid not in (status.st_uid, 0):
        return False  # anybody may put a file there; only the root's owner is believed
    return abs(time.time() - marker.st_mtime) < fmt.ROOT_FULL_SECONDS


def _status(folder: Path) -> os.stat_result | None:
    try:
        return os.stat(folder)
    except ours(OSError):
        return None


def _check_own(folder: Path) -> None:
    """Refuse a folder, or a link, that another user has put where ours belongs."""
    if os.lstat(folder).st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(folder))


def _hand_over(folder: Path, limits: Limits) -> None:
    """Give a new folder its group and mode, as far as its parent has not done so already."""
    status, group = os.stat(folder), limits.group
    if group is not None and status.st_gid != group:
        os.chown(folder, -1, group)
    if group in (None, os.getegid(), *os.getgroups()) or os.geteuid() == 0:
        os.chmod(folder, limits.directory_mode)
    elif stat.S_IMODE(status.st_mode) | limits.directory_mode != limits.directory_mode:
        # One who is no member would take set-group-id away by any change, and the group with it:
        # so only what is too open is closed, and what the umask took stays away.
        os.chmod(folder, stat.S_IMODE(status.st_mode) & limits.directory_mode)


def segment_files(segment: Path) -> tuple[str, ...]:
    """A segment's files: the database last, so that a half-done deletion is repeated.

    Older writers made the shared memory, and may have left the journal.
    """
    return f"{segment}-journal", f"{segment}-shm", f"{segment}-wal", str(segment)


def unlink_segment(segment: Path) -> None:
    """Delete a segment with its WAL.

    Raises:
        SpoolUnavailable: the directory does not let us.
    """
    try:
        for name in segment_files(segment):
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise db.unavailable(error, segment) from error


def check_present(segment: Path, file: Descriptor) -> None:
    """Writes to a deleted file succeed and are lost, so ask the directory now and then.

    Raises:
        SpoolUnavailable: with reason `gone` when `file` is not there any more.
    """
    try:
        if file.is_at(segment):
            return
    except OSError as error:
        raise db.unavailable(error, segment) from error
    raise SpoolUnavailable("gone", f"{segment} was removed while it was being written")

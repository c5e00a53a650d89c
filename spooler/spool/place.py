"""Where a spool lies and whose it is: limits, folders and their modes, the owner's lock."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from spooler.spool import db
from spooler.spool import format as fmt


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a segment ends, and who may read it."""

    segment_bytes: int = 8 * 1024 * 1024  # of record bodies
    segment_records: int = 16384
    segment_seconds: float = 3600.0
    max_bytes: int = 4 * 1024**3  # on disk, of the whole spool
    drop_oldest: bool = False  # above that: rather the oldest records than the newest
    group: int | None = None  # group id that may read and delete; None: the owner alone

    @property
    def directory_mode(self) -> int:
        """Set-group-id keeps the group on every file created inside."""
        return 0o700 if self.group is None else 0o2770

    @property
    def file_mode(self) -> int:
        """-wal and -shm take this mode from the segment: SQLite copies it."""
        return 0o600 if self.group is None else 0o660


def make_directories(root: Path, below: tuple[str, ...], limits: Limits) -> None:
    """Create what is missing of the path, each folder with our mode; others' stay as they are."""
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
        except FileExistsError:
            continue
        if limits.group is not None:
            os.chown(folder, -1, limits.group)
        os.chmod(folder, limits.directory_mode)


def take_ownership(directory: Path, limits: Limits) -> int:
    """Create and lock the owner file.

    It is opened only here: closing any other descriptor of it in this process would drop the
    lock, as POSIX has it.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    descriptor = os.open(directory / fmt.OWNER_NAME, flags, limits.file_mode)
    try:
        os.fchmod(descriptor, limits.file_mode)
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, f"{os.getpid()} {os.uname().nodename}\n".encode())
    except OSError:
        os.close(descriptor)
        os.unlink(directory / fmt.OWNER_NAME)
        raise
    return descriptor


def segment_files(segment: Path) -> tuple[str, str, str]:
    """A segment's files: the database last, so that a half-done deletion is repeated."""
    return f"{segment}-shm", f"{segment}-wal", str(segment)


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

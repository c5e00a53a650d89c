"""What kind of file system a path is on, whether it is one of this host alone, what a folder takes.

The service's own database needs memory that processes share through a file, which a network file
system does not give between hosts. Spools need none, but another host sees their records late.
Network file systems are told by their type in the kernel's table of mounts. What is not known to be
shared between hosts counts as local. Nothing is done here but reading the table and asking for
sizes.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from spooler.async_exceptions import ours

_MOUNTS = Path("/proc/self/mountinfo")

# Types whose files other hosts can change, or whose shared memory mappings are not coherent.
_NETWORK = frozenset({"9p", "acfs", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs",
    "wekafs"})  # fmt: skip
# Of the FUSE file systems, those that only stack on a local one.
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuseblk", "fuse.gocryptfs", "fuse.lxcfs"})


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """The file system under a path: its type as the kernel names it, "" when it cannot be told."""

    type: str
    mount: str

    @property
    def is_local(self) -> bool:
        """Whether no other host can change its files."""
        if self.type in _NETWORK:
            return False
        return not self.type.startswith("fuse") or self.type in _LOCAL_FUSE


def _resolved(path: Path) -> Path:
    """`path` without links, as far as it exists; `realpath` alone would keep any OSError."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except ours(OSError):
        return path if path == path.parent else _resolved(path.parent) / path.name


def file_system_of(path: Path, mounts: str | None = None) -> FileSystem:
    """Look up `path`, or the nearest folder above it that exists; `mounts` is for other tables."""
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except ours(OSError):
            return FileSystem(type="", mount="")
    place = _resolved(path)
    best = FileSystem(type="", mount="")
    for line in mounts.splitlines():
        entry = _parse(line)
        # Of two mounts on one place the later hides the earlier.
        if entry and place.is_relative_to(entry.mount) and len(entry.mount) >= len(best.mount):
            best = entry
    return best


def _parse(line: str) -> FileSystem | None:
    fields, separator, rest = line.partition(" - ")
    parts = fields.split(" ")
    if not separator or len(parts) < 5:
        return None
    mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), parts[4])
    return FileSystem(type=rest.split(" ")[0], mount=mount)


def wal_size(segment: Path) -> int:
    """Bytes of a segment's log; 0 when it has none."""
    try:
        return os.lstat(f"{segment}-wal").st_size
    except FileNotFoundError:
        return 0


def bytes_in(directory: Path) -> int:
    """Bytes of all files in `directory`; what vanishes or cannot be looked at counts nothing.

    A file counts what it takes, not what it claims to be: anybody can make one of a terabyte.
    """
    total = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                total += min(status.st_size, status.st_blocks * 512)
    return total

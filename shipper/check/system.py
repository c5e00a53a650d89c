"""What the machine brings: SQLite and its known faults, and the kernel's notices of new files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shipper.check import CheckContext
from shipper.finding import Finding, fail, ok, warn
from spooler.spool import db
from spooler.spool import format as fmt

# Of the service's own database: spools are read without SQLite.
_SQLITE_LEAST = (3, 22, 0)
# One process resetting the log while another writes: fixed in the version after the last.
_WAL_RESET = ((3, 7, 0), (3, 51, 2))
_KERNEL = Path("/proc/sys/fs/inotify")


def look(ground: CheckContext) -> Iterator[Finding]:
    """See the module."""
    yield _sqlite()
    yield from _notices(ground.config.spool)


def _sqlite() -> Finding:
    version = db.VERSION
    name = "SQLite " + ".".join(map(str, version))
    if version < _SQLITE_LEAST:
        return fail(
            "sqlite", f"{name} is too old for the state database", "use Python with SQLite 3.35"
        )
    if _WAL_RESET[0] <= version <= _WAL_RESET[1]:
        return ok(
            "sqlite",
            f"{name} has the WAL-reset bug (3.7.0 to 3.51.2), which takes two processes that write"
            " or checkpoint one file: each segment has one writer, and is read without SQLite",
        )
    return ok("sqlite", f"{name}, without known bugs that matter here")


@dataclass(frozen=True, kw_only=True)
class _Used:
    """What the processes of this user take of the kernel's notices."""

    instances: int
    watches: int


def _notices(root: Path) -> Iterator[Finding]:
    try:
        instances = int((_KERNEL / "max_user_instances").read_text())
        watches = int((_KERNEL / "max_user_watches").read_text())
    except (OSError, ValueError):
        return  # not a kernel that has them; the root is walked
    used, needed = _used(), _folders(root)
    for name, most, taken, more in (
        ("max_user_instances", instances, used.instances, 1),
        ("max_user_watches", watches, used.watches, needed),
    ):
        if taken + more > most:
            yield warn(
                "inotify",
                f"fs.inotify.{name} is {most}; {taken} are taken and {more} needed: new spools are"
                " found by walking the root every rescan_interval instead",
                f"sysctl -w fs.inotify.{name}={2 * (taken + more)}, and a line in /etc/sysctl.d",
            )
    if used.instances + 1 <= instances and used.watches + needed <= watches:
        yield ok("inotify", f"{needed} watches needed, {watches - used.watches} free")


def _folders(root: Path) -> int:
    """One watch for each folder, and as many again for spools to come."""
    count = 1
    for folder, names, _ in os.walk(root):
        count += len(names)
        if len(Path(folder).relative_to(root).parts) >= 6:
            names[:] = []
        names[:] = [name for name in names if not fmt.is_spool_id(name)]
    return 2 * count


def _used() -> _Used:
    """Counted in /proc, as far as this user may look."""
    instances = watches = 0
    for number in _descriptors():
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(number) == "anon_inode:inotify":
                information = number.parent.with_name("fdinfo") / number.name
                watches += information.read_text().count("inotify wd:")
                instances += 1
    return _Used(instances=instances, watches=watches)


def _descriptors() -> Iterator[Path]:
    """Every open file of this user's processes."""
    for process in os.listdir("/proc"):
        folder = Path("/proc", process, "fd")
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look into
            if process.isdecimal() and folder.stat().st_uid == os.geteuid():
                yield from [folder / name for name in os.listdir(folder)]

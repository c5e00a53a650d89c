"""The machine: the SQLite library and its known faults, and the kernel's inotify limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from shipper.check import CheckContext
from shipper.finding import Finding, fail, ok, warn
from spooler.spool import db
from spooler.spool import format as fmt

# Of the service's own database: spools are read without SQLite.
_OLDEST_SQLITE = (3, 22, 0)
# One process resets the log while another writes; fixed in the version after the last.
_WAL_RESET = ((3, 7, 0), (3, 51, 2))
_KERNEL = Path("/proc/sys/fs/inotify")
_OF_NAMESPACE = Path("/proc/sys/user/max_inotify_instances")


def findings(context: CheckContext) -> Iterator[Finding]:
    yield _sqlite()
    yield from _inotify(context.config.spool)


def _sqlite() -> Finding:
    version = db.VERSION
    name = "SQLite " + ".".join(map(str, version))
    if version < _OLDEST_SQLITE:
        return fail(
            "sqlite", f"{name} is too old for the state database", "use Python with SQLite 3.35"
        )
    if _WAL_RESET[0] <= version <= _WAL_RESET[1]:
        return ok(
            "sqlite",
            f"{name} has the WAL-reset bug (3.7.0 to 3.51.2), which needs two processes that write"
            " or checkpoint one file: each segment has one writer, and is read without SQLite",
        )
    return ok("sqlite", f"{name}, without known bugs that matter here")


def _inotify(root: Path) -> Iterator[Finding]:
    try:
        limits_of_instances = (_KERNEL / "max_user_instances", _OF_NAMESPACE)
        max_instances = min(int(path.read_text()) for path in limits_of_instances)
        max_watches = int((_KERNEL / "max_user_watches").read_text())
    except (OSError, ValueError):
        return  # a kernel without inotify; the root is scanned instead
    instances, watches = _in_use()
    needed = _needed_watches(root)
    limits = (
        ("max_user_instances", max_instances, instances, 1),
        ("max_user_watches", max_watches, watches, needed),
    )
    exceeded = [limit for limit in limits if limit[2] + limit[3] > limit[1]]
    for name, most, used, more in exceeded:
        yield warn(
            "inotify",
            f"fs.inotify.{name} is {most}, {used} are in use and {more} needed: new spools are"
            " found by a scan every rescan_interval instead",
            f"sysctl -w fs.inotify.{name}={2 * (used + more)}, and a line in /etc/sysctl.d",
        )
    if not exceeded:
        yield ok("inotify", f"{needed} watches needed, {max_watches - watches} free")


def _needed_watches(root: Path) -> int:
    """One for each directory, and as many again for new spools."""
    count = 1
    for folder, names, _ in os.walk(root):
        count += len(names)
        if len(Path(folder).relative_to(root).parts) >= 6:
            names[:] = []
        names[:] = [name for name in names if not fmt.is_spool_id(name)]
    return 2 * count


def _in_use() -> tuple[int, int]:
    """The inotify instances and watches of this user's processes, as far as /proc shows them."""
    instances = watches = 0
    for process in os.listdir("/proc"):
        folder = Path("/proc", process)
        with contextlib.suppress(OSError):  # ended, or of another user
            if not process.isdecimal() or folder.stat().st_uid != os.geteuid():
                continue
            for number in os.listdir(folder / "fd"):
                with contextlib.suppress(OSError):  # closed meanwhile
                    if os.readlink(folder / "fd" / number) == "anon_inode:inotify":
                        information = (folder / "fdinfo" / number).read_text()
                        watches += information.count("inotify wd:")
                        instances += 1
    return instances, watches

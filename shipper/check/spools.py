"""The spool root and the spools in it: can this user read and delete them, and if not, why not."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from shipper.check import CheckContext
from shipper.discovery.layout import why_closed
from shipper.finding import Finding, fail, ok, warn
from spooler.errors import NewerFormat, SpoolError
from spooler.spool import format as fmt
from spooler.spool.filesystem import file_system_of
from spooler.spool.layout import is_marked_full
from spooler.spool.reader import Reader

# A list of a thousand spools with one cause is no help: as many are named of each cause.
_NAMED = 3


def look(ground: CheckContext) -> Iterator[Finding]:
    """See the module."""
    root = ground.config.spool
    yield from _file_system(root)
    closed = why_closed(root)
    if closed and os.path.isfile(root):
        yield fail("spool", f"{root} {closed}", "give --spool the folder that the jobs record to")
        return
    if closed:
        yield fail("spool", _closed(root), _step(root))
        return
    if not root.exists():
        yield warn(
            "spool",
            f"{root} is not there yet",
            "the first training job with PRIMUS_LENS_WANDB_OUTPUT_PATH set to it makes it; if"
            " jobs run already, compare that variable with this path",
        )
        return
    yield from _marker(root)
    hidden = list(_hidden_below(root))
    for folder in hidden[:_NAMED]:
        yield fail("spool", _closed(folder), _step(folder))
    if len(hidden) > _NAMED:
        yield fail("spool", f"and {len(hidden) - _NAMED} folders more", "the same as above")
    yield from _spools(ground.spools)


def _file_system(root: Path) -> Iterator[Finding]:
    kind = file_system_of(root)
    name = f"{root} is on {kind.type or 'a file system that cannot be told'}"
    if not kind.is_local:
        yield warn(
            "spool",
            f"{name} ({kind.mount}), a network file system: another host sees records late",
            "put the root on a local disk; else run this service on the host of the jobs, and on"
            " no other",
        )
    elif kind.type == "overlay":
        yield warn(
            "spool",
            f"{name}: the container's own layer, which goes with the container",
            "mount a volume there (hostPath in a DaemonSet), the same one as in the training pods",
        )
    elif kind.type in ("tmpfs", "ramfs"):
        yield warn(
            "spool",
            f"{name}: memory, which a reboot empties and which counts against the jobs",
            "put the root on a disk",
        )
    else:
        yield ok("spool", f"{name}, local to this host")


def _marker(root: Path) -> Iterator[Finding]:
    if is_marked_full(root):
        yield fail(
            "spool",
            f"{root} is full: training processes refuse new records, and count them",
            "raise root_bytes, set when_full = drop-oldest, or look why nothing is delivered",
        )


def _hidden_below(root: Path) -> Iterator[Path]:
    """Folders that spools may stand in and that cannot be entered."""
    for folder, names, _ in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        for name in list(names):
            path = Path(folder) / name
            if not os.access(path, os.R_OK | os.X_OK):
                yield path
        names[:] = [] if depth >= 5 else [name for name in names if not fmt.is_spool_id(name)]


def _spools(spools: list[Path]) -> Iterator[Finding]:
    seen: Counter[str] = Counter()
    for directory in spools:
        found = _spool(directory)
        seen[found.level if found else "fine"] += 1
        if found and seen[found.level] <= _NAMED:
            yield found
    for level in ("fail", "warn"):
        if seen[level] > _NAMED:
            tell = fail if level == "fail" else warn
            yield tell("spool", f"and {seen[level] - _NAMED} spools more", "the same as above")
    live = sum(Reader(directory).is_owned() for directory in spools)
    word = "spool" if len(spools) == 1 else "spools"
    if spools:
        yield ok("spool", f"{len(spools)} {word}: {live} being written, {seen['fine']} all fine")
    else:
        yield warn(
            "spool",
            "no spools below the root",
            "start a training job; `lens-ship hook status` in its environment says whether it is"
            " hooked",
        )


def _spool(directory: Path) -> Finding | None:
    """What is wrong with one spool, None for nothing."""
    if not os.access(directory, os.R_OK | os.X_OK):
        return fail("spool", _closed(directory), _step(directory))
    for path in sorted(directory.iterdir()):
        if not os.access(path, os.R_OK):
            return fail("spool", _closed(path), _step(directory))
    if not os.access(directory, os.W_OK):
        return warn(
            "spool",
            f"{directory}: can be read, and not deleted when it is delivered ({_whose(directory)})",
            _step(directory),
        )
    if Reader(directory).segments():
        try:
            Reader(directory).identity()
        except NewerFormat as error:
            return fail("spool", str(error), "upgrade lens-ship on this node first")
        except (SpoolError, OSError) as error:
            return warn("spool", str(error), "it is left untouched; `lens-ship audit` counts it")
    return None


def _closed(path: Path) -> str:
    return f"{path} cannot be read by {_me()} ({_whose(path)})"


def _me() -> str:
    groups = ", ".join(_group(gid) for gid in sorted({os.getegid(), *os.getgroups()}))
    return f"{_user(os.geteuid())} in {groups}"


def _whose(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError as error:
        return str(error)
    mode = stat.S_IMODE(found.st_mode)
    return f"it is {_user(found.st_uid)}:{_group(found.st_gid)}, mode {mode:04o}"


def _step(path: Path) -> str:
    """The commands that let this user in."""
    try:
        found = path.lstat()
    except OSError:
        return "look again: it has gone meanwhile"
    mine = {os.getegid(), *os.getgroups()}
    if found.st_uid == os.geteuid():
        return f"chmod -R u+rwX {path}"
    group = _group(os.getegid())
    if found.st_gid in mine:
        return (
            f"chmod -R g+rwX {path}; for new spools set PRIMUS_LENS_SPOOL_GROUP="
            f"{_group(found.st_gid)} in the jobs"
        )
    if found.st_gid != 0 and stat.S_IMODE(found.st_mode) & 0o050 == 0o050:
        return (
            f"usermod -aG {_group(found.st_gid)} {_user(os.geteuid())} and restart the service, or"
            f" chgrp -R {group} {path} && chmod -R g+rwX {path}"
        )
    return (
        f"chgrp -R {group} {path} && chmod -R g+rwX {path}; for new spools set"
        f" PRIMUS_LENS_SPOOL_GROUP={group} in the jobs, or share the root (docs/deployment.md)"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

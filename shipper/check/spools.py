"""The spool root and its spools: can this user read and delete them."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from shipper.check import CheckContext, nearest
from shipper.discovery.layout import (
    TakenDirectory,
    find_spools,
    unreadable_text,
    why_unreadable,
)
from shipper.finding import FAIL, Finding, fail, ok, warn
from shipper.humanize import counted
from spooler.errors import NewerFormat, SpoolError
from spooler.spool.filesystem import file_system_of
from spooler.spool.layout import is_marked_full
from spooler.spool.reader import Reader

_REMOUNT = "mount it writable, in a container without readOnly"
_MOST = 3  # findings of one level about spools; the others are counted


def findings(context: CheckContext) -> Iterator[Finding]:
    root = context.config.spool
    yield _file_system(root)
    if _is_read_only(root):
        yield warn(
            "spool",
            f"{root} is mounted read-only: delivered spools are not deleted, and a job that has the"
            " same mount drops all records",
            _REMOUNT,
        )
    closed = why_unreadable(root)
    if closed and os.path.isfile(root):
        yield fail("spool", f"{root} {closed}", "give --spool the directory that jobs record to")
    elif closed:
        yield _unreadable(root)
    elif not root.exists():
        yield _missing(root)
    else:
        if is_marked_full(root):
            yield fail(
                "spool",
                f"{root} is full: training processes refuse new records, and count them",
                "raise root_bytes, set when_full = drop-oldest, or find out why nothing is"
                " delivered",
            )
        yield from _limited(_unreadable_below(root), "path")
        yield from _spools(root, context.spools)


def _missing(root: Path) -> Finding:
    above = nearest(root)
    if not os.access(above, os.W_OK | os.X_OK):
        return warn(
            "spool",
            f"{root} does not exist, and a job of user {_user(os.geteuid())} cannot create it in"
            f" {above}: it drops all records",
            "create it, writable for the jobs (`lens-ship docs deployment`), or give another"
            " --spool",
        )
    return warn(
        "spool",
        f"{root} does not exist yet",
        "the first training job with PRIMUS_LENS_WANDB_OUTPUT_PATH set to it creates it; if jobs"
        " are running already, compare that variable with this path",
    )


def _file_system(root: Path) -> Finding:
    kind = file_system_of(root)
    name = f"{root} is on {kind.type or 'an unknown file system'}"
    if not kind.is_local:
        return warn(
            "spool",
            f"{name} ({kind.mount}), a network file system: another host sees records late",
            "put the root on a local disk, or run this service on the host of the jobs and nowhere"
            " else",
        )
    if kind.type == "overlay":
        return warn(
            "spool",
            f"{name}: the container's own layer, which is deleted with the container",
            "mount a volume there (hostPath in a DaemonSet), the same one as in the training pods",
        )
    if kind.type in ("tmpfs", "ramfs"):
        return warn(
            "spool",
            f"{name}: memory, which a reboot empties and which counts against the jobs",
            "put the root on a disk",
        )
    return ok("spool", f"{name}, local to this host")


def _unreadable_below(root: Path) -> list[Finding]:
    """Directories that spools may be in and that cannot be entered, or used."""
    found: list[Finding] = []

    def note(path: Path, error: OSError) -> None:
        if isinstance(error, TakenDirectory):
            taken.add(path)
            found.append(_taken(path, error))
        elif path not in taken:
            found.append(_unreadable(path))

    taken: set[Path] = set()
    for _ in find_spools(root, note):
        pass
    return found


def _taken(path: Path, error: TakenDirectory) -> Finding:
    """A change of its mode or group would leave it to its maker."""
    aside, group = f"{path.parent}/taken_{path.name}", _group(os.stat(path.parent).st_gid)
    return fail(
        "spool",
        f"{path} {unreadable_text(error)} ({_owner(path)})",
        f"as root: mv -T {path} {aside} && install -d -o {error.user} -g {group} -m 2770 {path};"
        f" spools in {aside} are shipped from there; ask user {_user(error.owner)} why it was made",
    )


def _limited(found: list[Finding], what: str) -> Iterator[Finding]:
    """The first few of each level, and a count of the others."""
    by_level = sorted(found, key=lambda one: one.level)
    for level, group in groupby(by_level, key=lambda one: one.level):
        same = list(group)
        yield from same[:_MOST]
        if len(same) > _MOST:
            more = fail if level == FAIL else warn
            yield more("spool", f"and {counted(len(same) - _MOST, what)} more", "the same as above")


def _spools(root: Path, spools: list[Path]) -> Iterator[Finding]:
    problems = [problem for directory in spools if (problem := _problem(directory))]
    yield from _limited(problems, "spool")
    if spools:
        live = sum(Reader(directory).is_owned() for directory in spools)
        fine = len(spools) - len(problems)
        text = f"{counted(len(spools), 'spool')}: {live} being written, {fine} without problems"
        yield ok("spool", text)
    elif not os.access(root, os.W_OK | os.X_OK) and not _is_read_only(root):
        text = f"no spools below the root, which user {_user(os.geteuid())} cannot write"
        text += f" ({_owner(root)}): a job of this user drops all records"
        yield warn("spool", text, _permission_step(root))
    else:
        yield warn(
            "spool",
            "no spools below the root",
            "start a training job; `lens-ship hook status` in its environment shows whether the"
            " hook is active",
        )


def _problem(directory: Path) -> Finding | None:
    if not os.access(directory, os.R_OK | os.X_OK):
        return _unreadable(directory)
    for path in sorted(directory.iterdir()):
        if not os.access(path, os.R_OK):
            return _unreadable(path, of=directory)
    if not os.access(directory, os.W_OK):
        text = f"{directory} is readable, but cannot be deleted once delivered"
        return warn("spool", f"{text} ({_owner(directory)})", _permission_step(directory))
    if Reader(directory).segments():
        try:
            Reader(directory).identity()
        except NewerFormat as error:
            return fail("spool", str(error), "upgrade lens-ship on this node first")
        except (SpoolError, OSError) as error:
            return warn("spool", str(error), "it is left untouched; `lens-ship audit` counts it")
    return None


def _unreadable(path: Path, *, of: Path | None = None) -> Finding:
    groups = ", ".join(_group(gid) for gid in sorted({os.getegid(), *os.getgroups()}))
    text = (
        f"{path} is not readable by user {_user(os.geteuid())} of group {groups} ({_owner(path)})"
    )
    return fail("spool", text, _permission_step(of or path))


def _owner(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError as error:
        return str(error)
    mode = stat.S_IMODE(found.st_mode)
    return f"it is {_user(found.st_uid)}:{_group(found.st_gid)}, mode {mode:04o}"


def _permission_step(path: Path) -> str:
    """The commands that give this user access."""
    try:
        found = path.lstat()
    except OSError:
        return "run the check again: the path has been deleted"
    if _is_read_only(path):
        return _REMOUNT
    if found.st_uid == os.geteuid():
        return f"chmod -R u+rwX {path}"
    theirs, mine = _group(found.st_gid), _group(os.getegid())
    if found.st_gid in {os.getegid(), *os.getgroups()}:
        return (
            f"chmod -R g+rwX {path}; for new spools set PRIMUS_LENS_SPOOL_GROUP={theirs} in the"
            " jobs"
        )
    if found.st_gid != 0 and stat.S_IMODE(found.st_mode) & 0o050 == 0o050:
        return (
            f"usermod -aG {theirs} {_user(os.geteuid())} and restart the service, or chgrp -R"
            f" {mine} {path} && chmod -R g+rwX {path}"
        )
    return (
        f"chgrp -R {mine} {path} && chmod -R g+rwX {path}; for new spools set"
        f" PRIMUS_LENS_SPOOL_GROUP={mine} in the jobs, or share the root (`lens-ship docs"
        " deployment#a-root-that-several-users-share`)"
    )


def _is_read_only(path: Path) -> bool:
    """Whether the mount of a path refuses every write."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


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

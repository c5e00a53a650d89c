"""Makes a folder a spool root that users or pods share without trusting each other.

The same as `systemd/lens-ship.tmpfiles.conf`, for where systemd is not: 3777, owned by the service,
with a default ACL by which the group may write below it whatever the umask of a job is. A folder
that is right already is left alone, which needs no privilege.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from shipper.errors import ShipperError

ROOT_MODE = 0o3777  # set-group-id, sticky; others may make folders and sync their names
STATE_MODE = 0o700
# POSIX ACL as the kernel keeps it: version 2, then tag, permissions, id of each entry.
_ACL_NAME = "system.posix_acl_default"
_USER, _GROUP, _OTHER, _NOBODY = 0x01, 0x04, 0x20, 0xFFFFFFFF
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, _NOBODY)
    for tag, permissions in ((_USER, 7), (_GROUP, 7), (_OTHER, 0))
)


class RootError(ShipperError):
    """The folder cannot be made or changed."""


def prepare(root: Path, *, uid: int, gid: int) -> list[str]:
    """Make `root`, or change it; return what is worth saying.

    Raises:
        RootError: it is a link, or the system does not let this user do it.
    """
    lines = _hand_over(root, uid, gid, ROOT_MODE)
    if _acl(root) == _ACL:
        return lines
    try:
        os.setxattr(root, _ACL_NAME, _ACL, follow_symlinks=False)
    except OSError as error:
        lines.append(
            f"{root}: no default ACL ({error.strerror}): jobs that are not root need a umask of"
            " 007 or less, or delivered segments cannot be deleted"
        )
    return lines


def prepare_state(state: Path, *, uid: int, gid: int) -> list[str]:
    """The same for the service's own folder, which nobody else may enter.

    Raises:
        RootError: it is a link, or the system does not let this user do it.
    """
    return _hand_over(state, uid, gid, STATE_MODE)


def _hand_over(folder: Path, uid: int, gid: int, mode: int) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode):
            raise RootError(f"{folder} is a link; name the folder that it leads to")
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, gid, mode):
            return [f"{folder}: right already"]
        # By descriptor: what the name leads to cannot be exchanged between two steps.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RootError(
            f"{folder}: {error}; it takes root, or its capabilities CHOWN, FOWNER and FSETID"
        ) from error
    return [f"{folder}: mode {mode:o}, owner {uid}:{gid}"]


def _acl(folder: Path) -> bytes:
    try:
        return os.getxattr(folder, _ACL_NAME, follow_symlinks=False)
    except OSError:
        return b""

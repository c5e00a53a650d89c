"""Turns a directory into a shared spool root, for users or pods that do not trust each other.

The same as `systemd/lens-ship.tmpfiles.conf`, for hosts without systemd: mode 3777, owned by the
service, with a default ACL that lets the group write below it whatever the umask of a job. If
everything is right already, nothing is changed, which needs no privilege.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from shipper.errors import ShipperError

ROOT_MODE = 0o3777  # set-group-id, sticky; others may create directories and sync their names
POD_MODE = 0o2777  # as the kubelet makes it in such a root
STATE_MODE = 0o700
# A POSIX ACL as the kernel stores it: version 2, then tag, permissions and id of each entry.
_ACL_NAME = "system.posix_acl_default"
_USER, _GROUP, _OTHER, _UNDEFINED_ID = 0x01, 0x04, 0x20, 0xFFFFFFFF
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, _UNDEFINED_ID)
    for tag, permissions in ((_USER, 7), (_GROUP, 7), (_OTHER, 0))
)


class RootError(ShipperError):
    """The directory cannot be created or changed."""


def prepare(root: Path, *, uid: int, gid: int) -> list[str]:
    """Create `root`, or change it; return what was done.

    Raises:
        RootError: it is a link, or this user may not do it.
    """
    return [*_give(root, uid, gid, ROOT_MODE), *_set_acl(root)]


def repair_pod(directory: Path, *, gid: int) -> list[str]:
    """Change a pod's directory that the kubelet made before the root was prepared.

    It is root's, and closed to the pod's user, who records nothing until then.

    Raises:
        RootError: this user may not do it.
    """
    found = os.lstat(directory)
    if found.st_uid != 0 or found.st_gid == gid:
        return []
    return [*_give(directory, 0, gid, POD_MODE), *_set_acl(directory)]


def _set_acl(directory: Path) -> list[str]:
    with suppress(OSError):  # it has none yet
        if os.getxattr(directory, _ACL_NAME, follow_symlinks=False) == _ACL:
            return []
    try:
        os.setxattr(directory, _ACL_NAME, _ACL, follow_symlinks=False)
    except OSError as error:
        why = f"{directory}: no default ACL ({error.strerror}): jobs that are not root need a umask"
        return [f"{why} of 007 or less, or delivered segments cannot be deleted"]
    return []


def prepare_state(state: Path, *, uid: int, gid: int) -> list[str]:
    """Create the state directory, or change it; only the service may enter it.

    Raises:
        RootError: it is a link, or this user may not do it.
    """
    try:
        if os.path.lexists(state) and os.lstat(state).st_uid != uid:  # of a service of another user
            # Root without capabilities may look into no directory but its own.
            _give(state, os.geteuid(), gid, STATE_MODE)
            for file in os.listdir(state):
                os.chown(state / file, uid, gid, follow_symlinks=False)
    except OSError as error:
        raise RootError(f"{state}: {error}; this needs root, or the capability CHOWN") from error
    return _give(state, uid, gid, STATE_MODE)


def _give(directory: Path, uid: int, gid: int, mode: int) -> list[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        status = os.lstat(directory)
        if not stat.S_ISDIR(status.st_mode):
            raise RootError(f"{directory} is a link; give the directory that it points to")
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, gid, mode):
            return [f"{directory}: nothing to change"]
        # By descriptor: the name may point elsewhere between the two steps.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RootError(
            f"{directory}: {error}; this needs root, or its capabilities CHOWN, FOWNER and FSETID"
        ) from error
    return [f"{directory}: mode {mode:o}, owner {uid}:{gid}"]

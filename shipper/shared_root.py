"""Makes a folder a spool root that users or pods share without trusting each other.

The same as `systemd/lens-ship.tmpfiles.conf`, for where systemd is not: 3773, owned by the service,
with a default ACL by which the group may write below it whatever the umask of a job is.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from shipper.errors import ShipperError

MODE = 0o3773  # set-group-id, sticky; others may make folders, not list them
# POSIX ACL as the kernel keeps it: version 2, then tag, permissions, id of each entry.
_USER, _GROUP, _OTHER, _NOBODY = 0x01, 0x04, 0x20, 0xFFFFFFFF
_DEFAULT_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, _NOBODY)
    for tag, permissions in ((_USER, 7), (_GROUP, 7), (_OTHER, 0))
)


class RootError(ShipperError):
    """The folder cannot be made or changed."""


def prepare(root: Path, *, uid: int, gid: int) -> list[str]:
    """Make `root`, or change it; return what is worth saying. Repeating it changes nothing.

    Raises:
        RootError: it is a link, or the system does not let this user do it.
    """
    lines = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        # By descriptor: what the name leads to cannot be exchanged between two steps.
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(folder, uid, gid)
            os.fchmod(folder, MODE)
            try:
                os.setxattr(folder, "system.posix_acl_default", _DEFAULT_ACL)
            except OSError as error:
                lines.append(
                    f"{root}: no default ACL ({error.strerror}): jobs that are not root need a"
                    " umask of 007 or less, or delivered segments cannot be deleted"
                )
        finally:
            os.close(folder)
    except OSError as error:
        raise RootError(
            f"{root}: {error}; it takes root, or the capabilities CHOWN, FOWNER and FSETID"
        ) from error
    return [f"{root}: mode {MODE:o}, owner {uid}:{gid}", *lines]

"""Where the spools and the state of a user's jobs are when nothing else is given.

They are those of the user's service of systemd, so that one service is enough for both. Where the
home directory is shared by several nodes, or cannot be written, it is a directory in /var/tmp.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from shipper.config.load import default_state
from shipper.errors import LaunchFailed
from shipper.install.systemd import DEFAULT_SPOOL
from spooler.spool.filesystem import file_system_of

_SHARED = Path("/var/tmp")


def choose(
    environ: Mapping[str, str],
    *,
    spool: Path | None,
    state: Path | None,
    shared: Path = _SHARED,
    make: bool = True,
) -> tuple[Path, Path]:
    """Spool root and state directory; None stands for what is not given.

    With `make` they are made.

    Raises:
        LaunchFailed: one of them cannot be made.
    """
    try:
        usual = _usual_spool()
        if spool:
            root = spool.absolute()
        else:
            root = usual if _is_usable(usual) else _own(shared, make) / "spool"
        if state is None:
            state = default_state(environ)
            state = state if _is_usable(state) else _own(shared, make) / "state"
            if spool not in (None, usual):  # a state belongs to one root
                state /= f"exec-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
        for directory in (root, state) if make else ():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchFailed(
            f"{error.filename}: {error.strerror}. Give --spool and --state"
        ) from error
    return root, state.absolute()


def _usual_spool() -> Path:
    if os.geteuid() == 0:
        return Path(DEFAULT_SPOOL)
    return Path(os.path.expanduser("~")) / ".local/share/lens-ship/spool"


def _is_usable(directory: Path) -> bool:
    """Whether this user can make it, on a disk of this node alone."""
    nearest = directory
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return writable and file_system_of(directory).is_local


def _own(shared: Path, make: bool) -> Path:
    """A directory of this user in one that all users can write to.

    Raises:
        PermissionError: another user has made it.
    """
    directory = shared / f"lens-ship-{os.geteuid()}"
    if make:
        directory.mkdir(mode=0o700, exist_ok=True)
    elif not os.path.lexists(directory):
        return directory
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(1, "is not a directory of this user alone", str(directory))
    return directory

"""A tenant that holds its own files against every reader; as another user where this one may.

`held` runs this module as a process of its own: it takes a POSIX lock or a lease on every file of a
folder, and takes it again whenever the kernel has broken it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.spools import REPOSITORY, environment

TENANT = 65534  # a user who is not the service's
_AGAIN_SECONDS = 0.05


@contextmanager
def held(folder: Path, how: str) -> Iterator[None]:
    """Until the end, every file below `folder` is under a "lock" or a "lease" of its tenant."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kit.holding", str(folder), how],
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def own(folder: Path) -> None:
    """Give everything below a folder to the tenant, where this user may."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, TENANT, TENANT, follow_symlinks=False)


def _holds(descriptor: int, how: str) -> bool:
    try:
        if how == "lock":
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    return True


def _main(folder: str, how: str) -> None:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    descriptors = [os.open(path, os.O_RDWR) for path in files]
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody wants to open one: let them wait
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(TENANT, TENANT, TENANT)
        os.setresuid(TENANT, TENANT, TENANT)
    # One that the service has open just now is held later.
    while not all(_holds(descriptor, how) for descriptor in descriptors):
        time.sleep(_AGAIN_SECONDS)
    print("held", flush=True)
    while True:
        time.sleep(_AGAIN_SECONDS)
        for descriptor in descriptors:
            _holds(descriptor, how)


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""File systems of a test's own: images in files, mounted for this process and its children alone.

The mounts stand in a mount namespace of the test's process: what a killed test leaves is unmounted
by the kernel. Where this machine gives no such mount, the test is skipped and says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.spools import PATIENCE_SECONDS

_MIB = 1024 * 1024
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
_CHUNKS = (_MIB, 4096, 1024)  # bytes; the smallest is the smallest block of the kinds below


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a file system is made, and how large it has to be at least, in bytes."""

    make: tuple[str, ...]
    size: int
    options: str = "loop"


KINDS = {
    "ext4": Kind(make=("mkfs.ext4", "-q", "-m", "0"), size=16 * _MIB),
    "ext4-1k": Kind(make=("mkfs.ext4", "-q", "-m", "0", "-b", "1024"), size=16 * _MIB),
    "ext4-errors-ro": Kind(
        make=("mkfs.ext4", "-q", "-m", "0"), size=16 * _MIB, options="loop,errors=remount-ro"
    ),
    "btrfs": Kind(make=("mkfs.btrfs", "-q"), size=112 * _MIB),
    "btrfs-quota": Kind(make=("mkfs.btrfs", "-q"), size=112 * _MIB),
    "xfs": Kind(make=("mkfs.xfs", "-q"), size=300 * _MIB),
}
_QUOTA_BYTES = 4 * _MIB


class Disk:
    """A mounted file system with a folder, `top`, to work in."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = KINDS[kind]
        self._image = folder / f"{kind}.image"
        self._mount = folder / kind
        self._mount.mkdir()
        with open(self._image, "wb") as image:
            image.truncate(self._kind.size)
        run(*self._kind.make, str(self._image))
        self.mount()
        self.top = self._mount / "top"
        self.prepare()

    def prepare(self) -> None:
        """Make the folder."""
        self.top.mkdir()

    def mount(self) -> None:
        """Mount it; skips on a kernel that does not know it, or has no loop device."""
        command = ("mount", "-o", self._kind.options, str(self._image), str(self._mount))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if any(sign in done.stderr for sign in ("unknown filesystem", "loop device")):
            pytest.skip(f"no such mount here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        """Take it away; what still holds a file of it open keeps that file until it ends."""
        run("umount", "-l", str(self._mount))

    def fill(self) -> None:
        """Write until not a single block can be written any more."""
        descriptor = os.open(self.top / "filling", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for chunk in _CHUNKS:
                with contextlib.suppress(OSError):
                    while True:
                        os.write(descriptor, bytes(chunk))
                self.sync()
        finally:
            os.close(descriptor)

    def release(self, count: int) -> None:
        """Free so many bytes of what `fill` has taken."""
        filling = self.top / "filling"
        os.truncate(filling, max(0, filling.stat().st_size - count))
        self.sync()

    def free(self) -> None:
        """Give back all that `fill` has taken."""
        (self.top / "filling").unlink()
        self.sync()

    def sync(self) -> None:
        """Write everything back, so that the next write to any page asks for its block anew."""
        subprocess.run(["sync", "-f", str(self._mount)], capture_output=True, check=False)

    def shut_down(self) -> None:
        """Have XFS end all service, as it does when its disk fails."""
        run("xfs_io", "-x", "-c", "shutdown -f", str(self._mount))

    def fail(self) -> None:
        """Have ext4 meet an error, whereupon it mounts itself read-only."""
        number = os.stat(self._mount).st_dev
        device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test\n")


class Quota(Disk):
    """A folder of btrfs that may take so much and no more."""

    def prepare(self) -> None:
        run("btrfs", "quota", "enable", str(self._mount))
        run("btrfs", "subvolume", "create", str(self.top))
        self._limit(_QUOTA_BYTES)

    def release(self, count: int) -> None:
        self._limit(self._bytes + count)

    def free(self) -> None:
        self._limit(4 * _QUOTA_BYTES)

    def _limit(self, count: int) -> None:
        self._bytes = count
        run("btrfs", "qgroup", "limit", str(count), str(self.top))
        self.sync()


@contextlib.contextmanager
def disk(kind: str, folder: Path) -> Iterator[Disk]:
    """A new file system below `folder`, unmounted afterwards; skips where there can be none."""
    program = KINDS[kind].make[0]
    needs = [program, "mount", *(["btrfs"] if kind == "btrfs-quota" else [])]
    missing = [name for name in needs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} here")
    own_mounts()
    made = (Quota if kind == "btrfs-quota" else Disk)(kind, folder)
    try:
        yield made
    finally:
        made.unmount()


@contextlib.contextmanager
def read_only_view(place: Path, view: Path) -> Iterator[Path]:
    """`place` mounted read-only at `view`, as a container is given the folder of another."""
    own_mounts()
    view.mkdir()
    run("mount", "--bind", str(place), str(view))
    try:
        run("mount", "-o", "remount,bind,ro", str(view))
        yield view
    finally:
        run("umount", "-l", str(view))


@functools.cache
def own_mounts() -> None:
    """Give this process a mount namespace: what is mounted from now on ends with it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) != 0:
        pytest.skip(f"no mount namespace here: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rslave", "/")


def run(*command: str) -> None:
    """Run one command of the system, which has to work."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

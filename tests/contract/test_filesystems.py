"""Where a spool may lie: on tmpfs, overlay and FUSE, with locks and without.

The FUSE file system is a real one (bindfs), and the overlay a real mount; where this machine gives
neither, those tests are skipped and say so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spooler.spool.filesystem import file_system_of
from tests.kit import spools
from tests.kit.trainer import Trainer

pytestmark = pytest.mark.promise("G1")


def steps(directory: Path) -> list[int]:
    found = spools.read_whole(directory)
    return [body["step"] for body in found.bodies("step")]


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Path]:
    behind, mount = tmp_path / "behind", tmp_path / "mount"
    behind.mkdir()
    mount.mkdir()
    program = shutil.which("bindfs")
    if program is None or not os.path.exists("/dev/fuse"):
        pytest.skip("no bindfs or no /dev/fuse here")
    if subprocess.run([program, str(behind), str(mount)], check=False).returncode:
        pytest.skip("FUSE mounts are not allowed here")
    yield mount
    subprocess.run(["fusermount", "-u", "-z", str(mount)], check=True)


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    place = Path("/dev/shm")
    if file_system_of(place).type != "tmpfs":
        pytest.skip("no tmpfs here")
    folder = place / f"lens-ship-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_on_tmpfs_a_reader_follows_the_writer(tmpfs: Path) -> None:
    trainer = Trainer(tmpfs / "spool")
    assert steps(trainer.directory) == list(range(50))
    trainer.record_more()
    assert steps(trainer.directory) == list(range(100))
    trainer.kill()
    assert steps(trainer.directory) == list(range(100))


def test_on_a_real_fuse_mount_a_reader_follows_the_writer(fuse: Path) -> None:
    """As on a network file system: there is one way of writing, which shares no memory."""
    assert not file_system_of(fuse).is_local
    trainer = Trainer(fuse / "spool")
    assert steps(trainer.directory) == list(range(50))
    trainer.record_more()
    assert steps(trainer.directory) == list(range(100))
    trainer.kill()
    assert steps(trainer.directory) == list(range(100))


def test_on_a_real_fuse_mount_what_is_sealed_is_read(fuse: Path) -> None:
    trainer = Trainer(fuse / "spool")
    trainer.end()
    assert steps(trainer.directory) == list(range(50))


def test_where_files_cannot_be_locked_the_segments_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    directory, _ = spools.fill(tmp_path, 5, segment_records=4)
    assert spools.read_whole(directory).numbers == [1, 2, 3, 4, 5]


def refuse(descriptor: int, command: int, *rest: Any) -> Any:
    """What NFS without its lock daemon says, and Lustre without `flock`."""
    if command in (fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK, fcntl.F_SETLK):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    return _FCNTL(descriptor, command, *rest)


_FCNTL = fcntl.fcntl


def test_nothing_is_shared_and_nothing_mapped(tmp_path: Path) -> None:
    """A mapped file that another process cuts short, or that has no room, ends a process."""
    directory, one = spools.fill(tmp_path, 9, close=False, segment_records=4)
    assert not list(directory.glob("*-shm"))
    assert str(directory) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    one.close()


OVERLAY = """
mkdir -p "$1/lower" "$1/upper" "$1/work" "$1/merged"
where="lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work"
mount -t overlay overlay -o "$where" "$1/merged" || exit 77
shift; exec "$@"
"""
FOLLOW = """
import json, pathlib, sys
from spooler.spool.filesystem import file_system_of
from tests.contract.test_filesystems import Trainer, steps
root = pathlib.Path(sys.argv[1])
trainer = Trainer(root / "spool")
first = steps(trainer.directory)
trainer.record_more()
second = steps(trainer.directory)
trainer.kill()
print(json.dumps([file_system_of(root).type, first, second, steps(trainer.directory)]))
"""


def test_on_overlay_a_reader_follows_the_writer(tmp_path: Path) -> None:
    base = Path("/dev/shm") if file_system_of(tmp_path).type == "overlay" else tmp_path
    folder = base / f"lens-ship-overlay-{os.getpid()}"
    folder.mkdir()
    script = ("sh", "-c", OVERLAY, "sh", str(folder))
    try:
        done = spools.python(FOLLOW, folder / "merged", before=("unshare", "-m", *script))
    except FileNotFoundError:
        pytest.skip("no unshare here")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode == 77 or "not permitted" in done.stderr:
        pytest.skip("overlay mounts are not allowed here")
    kind, first, second, third = spools.answer(done)
    assert kind == "overlay"
    assert (first, second, third) == (list(range(50)), list(range(100)), list(range(100)))

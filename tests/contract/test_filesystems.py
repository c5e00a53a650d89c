"""Where a spool may lie: on tmpfs, overlay and FUSE, and as on a network file system.

The FUSE file system is a real one (bindfs), and the overlay a real mount; where this machine gives
neither, those tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.spool.filesystem import file_system_of
from spooler.spool.reader import Reader
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


def test_on_a_real_fuse_mount_nothing_is_lost_and_nobody_is_in_the_way(fuse: Path) -> None:
    assert not file_system_of(fuse).takes_wal
    trainer = Trainer(fuse / "spool")
    reader = Reader(trainer.directory)
    assert not list(trainer.directory.glob("*-shm"))
    assert reader.is_owned()
    assert reader.read(0, 1000).records == ()
    assert reader.last_seq() == 0
    trainer.record_more()
    trainer.kill()
    assert steps(trainer.directory) == list(range(100))


def test_on_a_real_fuse_mount_what_is_sealed_is_read(fuse: Path) -> None:
    trainer = Trainer(fuse / "spool")
    trainer.end()
    assert steps(trainer.directory) == list(range(50))


def test_where_no_memory_is_shared_a_segment_is_read_once_it_is_sealed(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "spool", "network")
    reader = Reader(trainer.directory)
    spools.wait_until(lambda: reader.read(0, 1000).through >= 50)
    trainer.record_more()
    spools.wait_until(lambda: reader.read(0, 1000).through >= 100)
    assert reader.is_owned()
    trainer.kill()
    assert steps(trainer.directory) == list(range(100))


def test_a_log_that_cannot_be_indexed_is_read_by_its_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer is dead, and here nobody can make the shared memory that SQLite wants."""
    trainer = Trainer(tmp_path / "spool", "network")
    trainer.record_more()
    trainer.kill()
    for path in trainer.directory.glob("*-wal"):
        assert path.stat().st_size > 0 or path.name
        Path(f"{str(path)[:-4]}-shm").mkdir()
    assert steps(trainer.directory) == list(range(100))


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

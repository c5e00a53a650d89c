"""Where a spool may lie: on tmpfs, overlay and FUSE, and as on a network file system.

The FUSE file system is a real one (bindfs), and the overlay a real mount; where this machine gives
neither, those tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.spool.filesystem import file_system_of
from spooler.spool.reader import Reader
from tests.kit import spools

RECORD = """
import os, sys, time
from spooler import recorder as r
if "network" in sys.argv:
    from spooler.spool.filesystem import FileSystem
    r.file_system_of = lambda path: FileSystem(type="nfs4", mount="/")
    r._NETWORK_SECONDS = 0.2
mine = r.recorder()
def record(numbers):
    for n in numbers:
        assert mine.record("step", {"run": "r", "step": n, "time": 1.0, "closed": True,
                                    "data": {"loss": n + 0.5}})
record(range(50))
print(mine.directory, flush=True)
for line in sys.stdin:
    if line == "more\\n":
        record(range(50, 100))
        print("recorded", flush=True)
    if line == "kill\\n":
        os.kill(os.getpid(), 9)
"""


class Trainer:
    """A process that records, told what to do."""

    def __init__(self, root: Path, *words: str, before: tuple[str, ...] = ()) -> None:
        environ = spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), PYTHONPATH=str(spools.REPOSITORY)
        )
        self._process = subprocess.Popen(
            [*before, sys.executable, "-c", RECORD, *words],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.directory = Path(self._process.stdout.readline().strip())

    def record_more(self) -> None:
        self._say("more")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "recorded\n"

    def kill(self) -> None:
        self._say("kill")
        self.end()
        assert self._process.returncode == -signal.SIGKILL

    def end(self) -> None:
        self._process.communicate(timeout=spools.PATIENCE_SECONDS)

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()


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

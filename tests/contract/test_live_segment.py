"""Training goes on, whatever becomes of the disk and of the files below the spool root.

Real file systems, each in an image of its own. No signal ends the training process, what was
taken is read completely afterwards, and what was not is counted.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spooler.errors import SpoolDamaged
from spooler.spool import source
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.images import disk
from tests.kit.steady import Steady, steps_below, training

FULL = ("btrfs", "btrfs-quota", "ext4", "ext4-1k")
SMALL_SEGMENTS = {"PRIMUS_LENS_SPOOL_SEGMENT_RECORDS": "100"}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a reader that stands still beside the writer read on."""
    monkeypatch.setattr(source, "SECONDS", spools.PATIENCE_SECONDS)


@pytest.mark.promise("G2")
def test_nothing_below_the_root_is_memory_of_the_training_process(tmp_path: Path) -> None:
    with training(tmp_path / "spool", tmp_path / "answers") as job:
        spools.read_whole(job.spool())
        assert job.mapped() == []
        assert list(job.spool().glob("*-shm")) == []


@pytest.mark.promise("G1")
@pytest.mark.promise("G2")
@pytest.mark.parametrize("kind", FULL)
def test_training_outlives_a_full_disk_and_loses_nothing_that_was_taken(
    kind: str, tmp_path: Path
) -> None:
    with disk(kind, tmp_path) as place, training(place.top / "spool", tmp_path / "answers") as job:
        for blocks in range(1, 7):
            with job.paused():
                place.fill()
                # From none to a few blocks: a log, an index, a folder may get the last one.
                place.release(blocks * 4096)
            job.go_on()
        place.free()
        job.recover()
        job.end()
        assert steps_below(place.top / "spool") == job.taken()


# A line each: a run of a few records begins and ends; how its process ended, and what was taken.
RUNS = """
import os, sys
from spooler.recorder import recorder
recorder()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        body = {"run": "r", "time": 1.0, "closed": True, "data": {"loss": 1.0}}
        taken = [recorder().record("step", {**body, "step": step}) for step in range(5)]
        recorder().shutdown()
        os._exit(taken.count(True))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.promise("G1")
@pytest.mark.promise("G2")
@pytest.mark.parametrize("kind", ["ext4-1k", "btrfs"])
def test_a_run_may_begin_on_a_disk_with_any_number_of_free_blocks(
    kind: str, tmp_path: Path
) -> None:
    with disk(kind, tmp_path) as place:
        root, taken = place.top / "spool", 0
        place.fill()
        place.free()
        with child(RUNS, root) as ask:
            assert ask() == "5"
            for free in range(1, 41, 2):
                place.fill()
                place.release(free * 1024)
                code = int(ask())
                assert code >= 0, f"killed by signal {-code} with {free} KiB free"
                taken += code
        place.free()
        assert len(steps_below(root)) == taken + 5


@contextlib.contextmanager
def child(code: str, root: Path) -> Iterator[Callable[[], str]]:
    """A process that records below `root` and answers each time it is asked."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=spools.environment(
            PYTHONPATH=str(spools.REPOSITORY), PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root)
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask() -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        yield ask
    finally:
        process.communicate(timeout=spools.PATIENCE_SECONDS)


@pytest.mark.promise("G1")
@pytest.mark.promise("G2")
def test_training_outlives_a_file_system_that_becomes_read_only(tmp_path: Path) -> None:
    with (
        disk("ext4-errors-ro", tmp_path) as place,
        training(place.top / "spool", tmp_path / "answers") as job,
    ):
        place.fail()
        spools.wait_until(lambda: job.tried() and not job.answers()[-1][1])
        taken = job.taken()
        assert steps_below(place.top / "spool") == taken
        job.go_on()
        assert job.end()
        assert steps_below(place.top / "spool") == taken


@pytest.mark.promise("G1")
@pytest.mark.promise("G2")
def test_training_outlives_xfs_that_is_shut_down_after_a_disk_error(tmp_path: Path) -> None:
    with disk("xfs", tmp_path) as place, training(place.top / "spool", tmp_path / "answers") as job:
        with job.paused():
            taken = len(job.taken())
            place.sync()
            place.shut_down()
        job.go_on(2000)
        job.end()
        place.unmount()
        place.mount()
        found = steps_below(place.top / "spool")
        # As after a power cut: what was synced is there, and what survives has no hole.
        assert len(found) >= taken
        assert found == list(range(len(found)))


# What a job does to its own folder: `root`. That files vanish meanwhile is its own affair.
ARCHIVES = {
    "copytree": """
import shutil
with contextlib.suppress(OSError):
    shutil.copytree(root, root.parent / "copy", dirs_exist_ok=True)
""",
    "tar": """
import tarfile
with contextlib.suppress(OSError), tarfile.open(root.parent / "all.tar", "w") as archive:
    archive.add(root)
""",
    "zip": """
import shutil
with contextlib.suppress(OSError, ValueError):
    shutil.make_archive(str(root.parent / "all"), "zip", root)
""",
    "read": """
for path in root.rglob("*"):
    with contextlib.suppress(OSError):
        path.read_bytes()
""",
    # As wandb computes the checksum of a file, only slowly: from one time to the next.
    "map": """
import mmap
for mapped in globals().get("maps", []):
    mapped[:]
maps = []
for path in root.rglob("*"):
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
""",
    "artifact": """
import wandb
with contextlib.suppress(OSError, ValueError):
    wandb.Artifact("output", type="dataset").add_dir(str(root))
""",
}


@pytest.mark.promise("G1")
@pytest.mark.promise("G2")
@pytest.mark.parametrize("way", ARCHIVES)
def test_a_job_may_copy_its_own_folder_while_it_logs(way: str, tmp_path: Path) -> None:
    root = tmp_path / "output" / "spool"
    wandb = {"WANDB_CACHE_DIR": str(tmp_path / "cache"), "WANDB_DATA_DIR": str(tmp_path / "data")}
    more = {**SMALL_SEGMENTS, **wandb}
    with training(root, tmp_path / "answers", job=ARCHIVES[way], **more) as trainer:
        until = trainer.tried() + 1500
        while trainer.tried() < until:
            found = spools.read_whole(trainer.spool())
            assert found.records
        assert trainer.end() == {}
        assert steps_below(root) == trainer.taken()


@pytest.mark.promise("G16")
def test_a_job_that_has_copied_its_own_folder_still_counts_as_alive(tmp_path: Path) -> None:
    with training(tmp_path / "spool", tmp_path / "answers", job=ARCHIVES["read"]) as trainer:
        trainer.go_on(50)
        spool = trainer.spool()
        assert Reader(spool).is_owned()
        trainer.kill()
        assert not Reader(spool).is_owned()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


# What is done to which files, and how the training process ends.
ATTACKS = (
    (truncate, "-shm", Steady.end),
    (Path.unlink, "-shm", Steady.end),
    (truncate, "-wal", Steady.end),
    (truncate, "-wal", Steady.kill),
    (Path.unlink, "-wal", Steady.end),
    (Path.unlink, "-wal", Steady.kill),
)


@pytest.mark.promise("G2")
@pytest.mark.promise("G17")
@pytest.mark.parametrize(("attack", "suffix", "end"), ATTACKS)
def test_training_outlives_what_is_done_to_the_files_beside_a_segment(
    attack: Callable[[Path], None], suffix: str, end: Callable[[Steady], object], tmp_path: Path
) -> None:
    root = tmp_path / "spool"
    with training(root, tmp_path / "answers") as job:
        for path in job.spool().glob(f"*{suffix}"):
            attack(path)
        job.go_on()
        if attack is Path.unlink:
            # Its background thread looks once a second, and has to have looked.
            spools.wait_until(lambda: is_accounted_for_by_now(job, root))
        end(job)
        assert is_accounted_for(job, root)
        assert suffix == "-wal" or not counted_as_lost(root)


def is_accounted_for(job: Steady, root: Path) -> bool:
    """Nothing is lost in silence: what was taken is read, or counted as damaged or dropped."""
    missing = set(job.taken()) - set(steps_found(root))
    return len(missing) <= counted_as_lost(root)


def is_accounted_for_by_now(job: Steady, root: Path) -> bool:
    """As above beside a living writer: a segment that it is copying its log into waits."""
    with contextlib.suppress(SpoolDamaged):
        return is_accounted_for(job, root)
    return False


def steps_found(root: Path) -> list[int]:
    found = [spools.read(directory, limit=1000) for directory in spools.spools_below(root)]
    return [body["step"] for one in found for body in one.bodies("step")]


def counted_as_lost(root: Path) -> int:
    found = [spools.read(directory, limit=1000) for directory in spools.spools_below(root)]
    damaged = sum(hurt.last - hurt.first + 1 for one in found for hurt in one.damage)
    return damaged + sum(gap["count"] for one in found for gap in one.bodies("gap"))

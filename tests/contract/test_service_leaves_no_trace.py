"""The service of one user reads what jobs of another write, and leaves nothing of its own there.

Real user ids, a root as `lens-ship init-root` makes it, and readers that may do nothing but read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.images import read_only_view
from tests.kit.trainer import Trainer

JOB, SERVICE, GROUP = 61001, 61003, 61009
RUNS, RECORDS = 200, 3

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
    pytest.mark.promise("G1"),
]

BECOME = """
import json, os, sys
from pathlib import Path
from spooler.recorder import recorder
from spooler.spool.reader import Reader
def become(uid, gid):
    os.umask(0o022)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
"""
# Each child is a run of a few records, and over before anything can settle.
RUN = (
    BECOME
    + """
become(int(sys.argv[1]), int(sys.argv[1]))
recorder()
taken = 0
for run in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        kept = [recorder().record("step", {"run": "r", "step": step, "time": 1.0, "closed": True,
                                           "data": {"loss": step + 0.5}})
                for step in range(int(sys.argv[3]))]
        recorder().shutdown()
        os._exit(kept.count(True))
    taken += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(taken))
"""
)
# As the service does, only sooner: each new spool is read as soon as its folder can be seen.
WATCH = (
    BECOME
    + """
import select
become(int(sys.argv[1]), int(sys.argv[2]))
place, looks, mine = Path(sys.argv[3]), {}, set()
def look(spool):
    try:
        reader = Reader(spool)
        reader.is_owned(), reader.read(0, 100), reader.last_seq()
    except Exception:
        pass  # it may be half made or half gone
    for name in os.listdir(spool):
        try:
            if os.stat(spool / name).st_uid == os.getuid():
                mine.add(name)
        except FileNotFoundError:
            pass
print("ready", flush=True)
while len(looks) <= int(sys.argv[4]) or not select.select([0], [], [], 0)[0]:
    for name in os.listdir(place) if place.is_dir() else []:
        if looks.setdefault(name, 0) < 20:
            looks[name] += 1
            look(place / name)
print(json.dumps([len(looks), sorted(mine)]))
"""
)
READ = (
    BECOME
    + """
become(int(sys.argv[1]), int(sys.argv[2]))
found = []
for place in map(Path, sys.argv[3:]):
    reader = Reader(place)
    chunk = reader.read(0, 1000)
    found.append([len(chunk.records), len(chunk.damage), reader.last_seq(), reader.identity().pid])
print(json.dumps(found))
"""
)


@pytest.fixture
def root() -> Iterator[Path]:
    """A root of several users, where each of them can go."""
    top = Path(tempfile.mkdtemp(prefix="lens-ship-root-"))
    top.chmod(0o755)
    ran = lens_ship("init-root", str(top / "spool"), "--owner", f"{SERVICE}:{GROUP}")
    assert ran.code == 0, ran.err
    yield top / "spool"
    shutil.rmtree(top)


def directory_of(root: Path) -> Path:
    return root / f"uid_{JOB}" / "node_0" / "rank_0"


def test_short_runs_lose_nothing_to_a_reader_that_is_always_there(root: Path) -> None:
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH, *map(str, (SERVICE, GROUP, directory_of(root), RUNS // 2))],
        env=spools.environment(PYTHONPATH=str(spools.REPOSITORY)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "ready\n"
        # What each run would sync costs most of its time, and decides nothing here.
        done = spools.python(
            *(RUN, JOB, RUNS, RECORDS),
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
            PRIMUS_LENS_SPOOL_SYNC_SECONDS="0",
        )
        said, _ = watcher.communicate(timeout=spools.PATIENCE_SECONDS)
    finally:
        watcher.kill()
        watcher.wait()
    assert spools.answer(done) == RUNS * RECORDS, done.stderr
    seen, of_the_service = json.loads(said)
    assert seen > RUNS // 2
    assert of_the_service == []
    written = spools.spools_below(root / f"uid_{JOB}")
    assert len(written) == RUNS
    for spool in written:
        steps = [body["step"] for body in spools.read_whole(spool).bodies("step")]
        assert steps == list(range(RECORDS))
    assert {path.stat().st_uid for path in (root / f"uid_{JOB}").rglob("*")} == {JOB}


@pytest.fixture
def two_spools(root: Path) -> Iterator[list[Path]]:
    """One whose writer lives and one whose writer is dead, in the group of the service."""
    live, dead = Trainer(root), Trainer(root)
    try:
        dead.record_more()
        dead.kill()
        with live.paused():
            yield [live.directory, dead.directory]
    finally:
        live.end()


def read_as_the_service(places: list[Path]) -> list[list[int]]:
    found: list[list[int]] = spools.answer(spools.python(READ, SERVICE, GROUP, *places))
    return [one[:3] for one in found]


def test_who_may_only_read_reads_the_live_and_the_dead(two_spools: list[Path], root: Path) -> None:
    for path in (root / "uid_0", *(root / "uid_0").rglob("*")):
        path.chmod(0o750 if path.is_dir() else 0o640)
    before = list_of(root)
    assert read_as_the_service(two_spools) == [[50, 0, 50], [100, 0, 100]]
    assert list_of(root) == before


@pytest.mark.parametrize("index", ["left", "gone"])
def test_a_read_only_mount_is_enough_to_read_the_live_and_the_dead(
    index: str, two_spools: list[Path], root: Path
) -> None:
    if index == "gone":
        for path in two_spools[1].glob("*-shm"):
            path.unlink()
    before = list_of(root)
    with read_only_view(root, root.parent / "view") as view:
        places = [view / spool.relative_to(root) for spool in two_spools]
        assert read_as_the_service(places) == [[50, 0, 50], [100, 0, 100]]
    assert list_of(root) == before


def list_of(root: Path) -> dict[str, tuple[int, ...]]:
    """Everything below a root with all that a reader could change about it."""
    found = {}
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        found[str(path)] = (
            *(status.st_ino, status.st_size, status.st_blocks, status.st_mode, status.st_nlink),
            *(status.st_uid, status.st_mtime_ns, status.st_ctime_ns),
        )
    return found


def test_no_command_that_only_looks_changes_anything(tmp_path: Path) -> None:
    root, state = tmp_path / "spool", tmp_path / "state"
    live, dead, sealed = Trainer(root), Trainer(root), Trainer(root)
    try:
        dead.kill()
        sealed.end()
        with live.paused():  # a living writer touches its owner file now and then
            before = list_of(root)
            for spool in spools.spools_below(root):
                spools.read_whole(spool)
                assert list_of(root) == before, spool
            for command in (
                ("inspect", str(root)),
                ("tail", str(root)),
                ("status", "--spool", str(root), "--state", str(state)),
                ("audit", "--spool", str(root), "--state", str(state)),
            ):
                ran = lens_ship(*command)
                assert "Traceback" not in ran.err
                assert list_of(root) == before, command
    finally:
        live.end()

"""Real file systems that are full or read-only: training goes on, losses are counted and told."""

from __future__ import annotations

import functools
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spooler.recorder import Recorder
from spooler.spool import db
from tests.kit import spools

_MOUNT = 'mount -t tmpfs -o size=600k lens-ship-test "$0" && exec "$@"'


@functools.cache
def _refusal() -> str:
    """Why no file system can be mounted here; empty where it can."""
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k x /mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip() if tried.returncode else ""


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    try:
        refusal = _refusal()
    except FileNotFoundError as error:
        refusal = str(error)
    if refusal:
        pytest.skip(f"a small file system cannot be mounted here: {refusal}")
    place = tmp_path / "disk"
    place.mkdir()
    return place


def run(code: str, place: Path) -> Any:
    """Run `code` with 600 kB of disk at `place`, which is also the spool root."""
    done = spools.python(
        _PRELUDE + code,
        place,
        before=["unshare", "-m", "sh", "-c", _MOUNT, str(place)],
        PRIMUS_LENS_WANDB_OUTPUT_PATH=f"{place}/spool",
    )
    return spools.answer(done), done.stderr


_PRELUDE = """
import json, os, pathlib, subprocess, sys, time
from spooler import recorder
from tests.kit import spools
recorder._RETRY_SECONDS = 0.0
recorder._SHUTDOWN_SECONDS = recorder._FORK_SECONDS = spools.PATIENCE_SECONDS
place = pathlib.Path(sys.argv[1])
mine = recorder.recorder()
def found():
    bodies = {"gap": [], "step": []}
    for path in spools.spools_below(place / "spool"):
        got = spools.read_whole(path)
        for kind in bodies:
            bodies[kind] += got.bodies(kind)
    return bodies
def fill():
    with open(place / "rest", "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError:
            pass
"""


@pytest.mark.promise("G2")
@pytest.mark.promise("G1")
def test_a_full_disk_costs_what_did_not_fit_and_says_how_much(mountpoint: Path) -> None:
    told, said = run(
        """
taken, refused = [], []
for number in range(3000):
    before = time.monotonic()
    if mine.record("step", spools.step(number)):
        taken.append(number)
    else:
        refused.append(time.monotonic() - before)
usual = sorted(refused)[len(refused) // 2]
full = dict(mine.dropped)
on_disk = [body["step"] for body in found()["step"]]
assert taken == on_disk, "what was promised is there, and nothing else"
subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
assert mine.record("step", spools.step(3000)), mine.dropped
gaps = found()["gap"]
print(json.dumps([len(taken), full, gaps, [b["step"] for b in found()["step"]][-1], usual]))
""",
        mountpoint,
    )
    taken, dropped, gaps, last, usual = told
    assert 100 < taken < 2900
    assert set(dropped) == {"disk-full"}
    assert sum(dropped.values()) == 3000 - taken
    assert sum(gap["count"] for gap in gaps) == 3000 - taken
    assert last == 3000
    assert said.count("lens-ship cannot record now") == 1
    assert usual < 0.01, "a refusal waits for nothing"


@pytest.mark.promise("G2")
def test_a_disk_that_is_full_from_the_start_is_used_when_there_is_room(mountpoint: Path) -> None:
    told, said = run(
        """
ballast = place / "ballast"
descriptor = os.open(ballast, os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(descriptor, b"x" * 4096)
except OSError:
    os.close(descriptor)
files = len(os.listdir("/proc/self/fd"))
refused = [mine.record("step", spools.step(number)) for number in range(10)]
assert len(os.listdir("/proc/self/fd")) == files, "each try would leave a file open"
left_behind = [str(path) for path in spools.spools_below(place / "spool")]
ballast.unlink()
taken = mine.record("step", spools.step(10))
print(json.dumps([refused, left_behind, taken, found(), mine.dropped]))
""",
        mountpoint,
    )
    refused, left_behind, taken, found, dropped = told
    assert not any(refused)
    assert left_behind == []
    assert taken
    assert [gap["count"] for gap in found["gap"]] == [10]
    assert [body["step"] for body in found["step"]] == [10]
    assert sum(dropped.values()) == 10
    assert said.count("\n") == 1


@pytest.mark.promise("G11")
def test_recording_resumes_by_itself_and_the_loss_arrives_at_the_receiver(
    mountpoint: Path, tmp_path: Path
) -> None:
    told, _said = run(
        f"""
from shipper.config.load import load
from tests.kit.processor import queries
from shipper.service import ship_once
from tests.kit.faulty_receiver import FaultyReceiver
recorder._RETRY_SECONDS = 0.5
elsewhere = pathlib.Path({str(tmp_path)!r})
assert mine.record("step", spools.step(0))
ballast = place / "ballast"
with ballast.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
number = 0
while mine.dropped.get("disk-full", 0) < 5:
    number += 1
    mine.record("step", spools.step(number))
ballast.unlink()
freed = time.monotonic()
number += 1
while not mine.record("step", spools.step(number)):
    assert time.monotonic() - freed < spools.PATIENCE_SECONDS, "it does not come back"
    number += 1
mine.shutdown()
with FaultyReceiver(path=elsewhere / "receiver.sqlite") as receiver:
    config = load({{"spool": place / "spool", "state": elsewhere / "state",
                    "processor_url": receiver.url}}, {{}})
    pending = ship_once(config, timeout=60)
    bodies = [post.body for post in receiver.seen]
print(json.dumps([pending, number, sum(mine.dropped.values()), json.dumps(bodies)]))
""",
        mountpoint,
    )
    pending, last, dropped, bodies = told
    assert pending == []
    assert f'"name": "lens-ship/dropped/disk-full", "value": {dropped}' in bodies
    assert f'"step": {last}' in bodies


@pytest.mark.promise("G2")
def test_a_read_only_file_system_is_survived(mountpoint: Path) -> None:
    told, said = run(
        """
assert mine.record("step", spools.step(0))
subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
fresh = recorder.Recorder()
refused = [fresh.record("step", spools.step(number)) for number in range(5)]
print(json.dumps([refused, fresh.dropped]))
""",
        mountpoint,
    )
    refused, dropped = told
    assert not any(refused)
    assert dropped == {"read-only": 5}
    assert said.count("lens-ship cannot record now") == 1


@pytest.mark.promise("G1")
def test_a_full_disk_that_cannot_be_sealed_loses_nothing(mountpoint: Path) -> None:
    """On a full disk SQLite can neither checkpoint nor delete; the WAL keeps what it has."""
    told, _said = run(
        """
os.environ["PRIMUS_LENS_SPOOL_SEGMENT_RECORDS"] = "60"
taken = [number for number in range(3000) if mine.record("step", spools.step(number))]
mine.shutdown()
print(json.dumps([taken, [body["step"] for body in found()["step"]]]))
""",
        mountpoint,
    )
    taken, on_disk = told
    assert taken == on_disk
    assert len(taken) > 100


@pytest.mark.promise("G2")
def test_a_file_system_that_refuses_wal_is_survived_without_leaving_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an SQLite does that was built without one."""
    spools.settle(monkeypatch, tmp_path)
    monkeypatch.setattr(db, "_WRITER_PRAGMAS", ())
    mine = Recorder()
    for number in range(10):
        assert not mine.record("step", spools.step(number))
    assert spools.open_files(tmp_path) == []
    assert mine.dropped == {"cannot-open": 10}
    assert spools.spools_below(tmp_path) == []
    assert capsys.readouterr().err.count("\n") == 1
    mine.shutdown()


@pytest.mark.promise("G11")
def test_files_that_are_gone_give_their_disk_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted takes its room for as long as it is open."""
    spools.settle(monkeypatch, tmp_path / "spool")
    mine = Recorder()
    spools.tend_by_hand(monkeypatch)
    for number in range(5):
        assert mine.record("step", spools.step(number))
        shutil.rmtree(tmp_path / "spool")
        mine._maintain()
        assert not [name for name in spools.open_files(tmp_path) if "(deleted)" in name]
    assert mine.record("step", spools.step(5))
    mine.shutdown()


# At work the background thread has files open for a moment.
_FILES = """
os.environ["PRIMUS_LENS_SPOOL_SYNC_SECONDS"] = "0"
def files():
    with mine._tending:
        return len(os.listdir("/proc/self/fd"))
"""


@pytest.mark.promise("G2")
def test_tries_on_a_full_disk_open_nothing(mountpoint: Path) -> None:
    told, _said = run(
        _FILES
        + """
number = 0
while not mine.dropped:
    mine.record("step", spools.step(number)); number += 1
before = files()
assert not any(mine.record("step", spools.step(0, text="x" * 9999)) for _ in range(50))
after = files()
print(json.dumps([after - before, len(spools.spools_below(place / "spool")), mine.generation]))
""",
        mountpoint,
    )
    assert told == [0, 1, 1], "the same spool was tried"


@pytest.mark.promise("G2")
def test_at_the_limit_of_a_file_the_next_segment_is_used(tmp_path: Path) -> None:
    """Also where SQLite, and the system, only say that something went wrong."""
    done = spools.python(
        _PRELUDE
        + _FILES
        + """
import resource
recorder.stderr.report_once("warm", "up")
taken = [number for number in range(20) if mine.record("step", spools.step(number))]
before = files()
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
number = 20
while len(taken) < 400:
    if mine.record("step", spools.step(number)):
        taken.append(number)
    number += 1
    assert number < 10**6, mine.dropped
segment = mine._writer._segment.number
mine._maintain()
most = files()
mine.shutdown()
bodies = found()
print(json.dumps([taken == [body["step"] for body in bodies["step"]], segment, most - before,
    mine.dropped, sum(gap["count"] for gap in bodies["gap"]), mine.generation]))
""",
        tmp_path,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=f"{tmp_path}/spool",
    )
    kept, segment, more, dropped, counted, generation = spools.answer(done)
    assert kept
    assert segment > 2
    assert more <= 2, "a segment's two, if one is prepared"
    assert set(dropped) == {"quota"}
    assert counted == dropped["quota"]
    assert generation == 1
    assert "a file may have 65536 bytes" in done.stderr


_LOOP = """
truncate -s {size} "$0.image" && {make} -q "$0.image" >&2 || exit 77
mount -o loop "$0.image" "$0" || exit 77
{then}
exec "$@"
"""


def on_disk(code: str, place: Path, *, make: str, size: str, then: str = "") -> Any:
    """As `run`, on a disk of its own that `make` has formatted."""
    script = _LOOP.format(make=make, size=size, then=then)
    done = spools.python(
        _PRELUDE + _FILES + code,
        place,
        before=["unshare", "-m", "sh", "-c", script, str(place)],
        PRIMUS_LENS_WANDB_OUTPUT_PATH=f"{place}/spool",
    )
    if done.returncode in (77, 127):
        pytest.skip(f"no {make} on a loop device here: {done.stderr.strip()}")
    return spools.answer(done), done.stderr


@pytest.mark.promise("G2")
def test_a_disk_that_turns_read_only_opens_nothing(mountpoint: Path) -> None:
    """As ext4 does at an error of the disk."""
    (refused, dropped, more, generation), said = on_disk(
        """
assert mine.record("step", spools.step(0))
subprocess.run(["mount", "-o", "remount,abort", str(place)], check=False, stderr=-3)
mine.record("step", spools.step(0))
before = files()
refused = [mine.record("step", spools.step(number)) for number in range(50)]
print(json.dumps([refused, mine.dropped, files() - before, mine.generation]))
os._exit(0)
""",
        mountpoint,
        make="mkfs.ext4",
        size="16M",
    )
    assert not any(refused)
    assert set(dropped) == {"read-only"}
    assert (more, generation) == (0, 1)
    assert said.count("cannot record now") == 1


@pytest.mark.promise("G2")
def test_a_first_spool_that_a_limit_refuses_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools.settle(monkeypatch, tmp_path / "spool")
    mine = Recorder()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert not mine.record("step", spools.step(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert mine.dropped == {"quota": 1}
    assert spools.spools_below(tmp_path / "spool") == []
    assert mine.record("step", spools.step(1))
    mine.shutdown()


@pytest.mark.promise("G2")
def test_a_quota_is_named_and_recording_goes_on_when_it_is_raised(mountpoint: Path) -> None:
    (dropped, more, taken, on_disk_, generation), said = on_disk(
        """
subprocess.run(["btrfs", "qgroup", "limit", "1M", str(place)], check=True)
taken, number = [], 0
while sum(mine.dropped.values()) < 20:
    if mine.record("step", spools.step(number, text="x" * 2000)):
        taken.append(number)
    number += 1
before = files()
for _ in range(20):
    mine.record("step", spools.step(number)); number += 1
more = files() - before
subprocess.run(["btrfs", "qgroup", "limit", "none", str(place)], check=True)
spools.wait_until(lambda: mine.record("step", spools.step(number)))
dropped = dict(mine.dropped)
mine.shutdown()
steps = [body["step"] for body in found()["step"]]
print(json.dumps([dropped, more, [*taken, number], steps, mine.generation]))
""",
        mountpoint,
        make="mkfs.btrfs",
        size="200M",
        then='btrfs quota enable "$0" || exit 77',
    )
    assert set(dropped) == {"quota"}
    assert more == 0
    assert on_disk_[: len(taken)] == taken
    assert generation == 1
    assert "quota" in said.lower()


@pytest.mark.promise("G16")
def test_a_process_that_ends_on_a_full_disk_was_not_cut_off(mountpoint: Path) -> None:
    """Neither its exit record nor a checkpoint fits any more: removing `owner` does."""
    (kinds, unclean, names), _ = run(
        """
if os.fork() == 0:
    for number in range(3000):
        recorder.recorder().record("step", spools.step(number))
    fill()
    recorder.recorder().shutdown()
    os._exit(0)
os.wait()
(path,) = spools.spools_below(place / "spool")
reader = spools.Reader(path)
names = sorted(os.listdir(path))
print(json.dumps([spools.kinds(path)[-1], reader.is_unclean(), names]))
""",
        mountpoint,
    )
    assert kinds == "step"
    assert unclean is False
    assert "00000001.sqlite-wal" in names


@pytest.mark.promise("G2")
def test_a_loss_that_no_gap_tells_is_on_stderr_at_the_end(mountpoint: Path) -> None:
    unwritten, said = run(
        """
for number in range(3000):
    mine.record("step", spools.step(number))
fill()
mine.shutdown()
print(json.dumps(sum(mine.dropped.values()) - sum(gap["count"] for gap in found()["gap"])))
""",
        mountpoint,
    )
    assert unwritten > 1
    assert f"{unwritten:,} records were dropped (disk-full), and" in said

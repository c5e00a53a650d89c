"""Real file systems that are full or read-only: training goes on, losses are counted and told."""

from __future__ import annotations

import functools
import os
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
place = pathlib.Path(sys.argv[1])
mine = recorder.recorder()
def found():
    bodies = {"gap": [], "step": []}
    for path in spools.spools_below(place / "spool"):
        got = spools.read_whole(path)
        for kind in bodies:
            bodies[kind] += got.bodies(kind)
    return bodies
"""


@pytest.mark.promise("G2")
@pytest.mark.promise("G1")
def test_a_full_disk_costs_what_did_not_fit_and_says_how_much(mountpoint: Path) -> None:
    told, said = run(
        """
taken = []
slowest = 0.0
for number in range(3000):
    before = time.monotonic()
    if mine.record("step", spools.step(number)):
        taken.append(number)
    slowest = max(slowest, time.monotonic() - before)
full = dict(mine.dropped)
on_disk = [body["step"] for body in found()["step"]]
assert taken == on_disk, "what was promised is there, and nothing else"
subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
assert mine.record("step", spools.step(3000)), mine.dropped
gaps = found()["gap"]
print(json.dumps([len(taken), full, gaps, [b["step"] for b in found()["step"]][-1], slowest]))
""",
        mountpoint,
    )
    taken, dropped, gaps, last, slowest = told
    assert 100 < taken < 2900
    assert set(dropped) == {"disk-full"}
    assert sum(dropped.values()) == 3000 - taken
    assert sum(gap["count"] for gap in gaps) == 3000 - taken
    assert last == 3000
    assert said.count("lens-ship cannot record now") == 1
    assert slowest < 5.0


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
from shipper.settings.config import load
from shipper.receiver import queries
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
    assert time.monotonic() - freed < 5, "it does not come back"
    number += 1
mine.goodbye()
with FaultyReceiver(path=elsewhere / "receiver.sqlite") as receiver:
    config = load({{"spool": place / "spool", "state": elsewhere / "state",
                    "processor_url": receiver.url}}, {{}})
    pending = ship_once(config, timeout=20)
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
mine.goodbye()
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
    """As network file systems do, where processes share no memory."""
    spools.settle(monkeypatch, tmp_path)
    monkeypatch.setattr(db, "_WRITER_PRAGMAS", ("PRAGMA journal_mode=DELETE",))
    mine = Recorder()
    files = len(os.listdir("/proc/self/fd"))
    for number in range(10):
        assert not mine.record("step", spools.step(number))
    assert len(os.listdir("/proc/self/fd")) == files
    assert mine.dropped == {"cannot-open": 10}
    assert spools.spools_below(tmp_path) == []
    assert capsys.readouterr().err.count("\n") == 1
    mine.goodbye()


@pytest.mark.promise("G11")
def test_files_that_are_gone_give_their_disk_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted takes its room for as long as it is open."""
    spools.settle(monkeypatch, tmp_path / "spool")
    mine = Recorder()
    monkeypatch.setattr(mine, "_start_keeper", lambda: None)
    for number in range(5):
        assert mine.record("step", spools.step(number))
        shutil.rmtree(tmp_path / "spool")
        mine._tend()
        held = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        ]
        assert not [name for name in held if str(tmp_path) in name]
    assert mine.record("step", spools.step(5))
    mine.goodbye()


@pytest.mark.promise("G16")
def test_a_process_that_ends_on_a_full_disk_was_not_cut_off(mountpoint: Path) -> None:
    """Neither its exit record nor a checkpoint fits any more: removing `owner` does."""
    (kinds, unclean, names), _ = run(
        """
if os.fork() == 0:
    for number in range(3000):
        recorder.recorder().record("step", spools.step(number))
    with open(place / "rest", "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError:
            pass
    recorder.recorder().goodbye()
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

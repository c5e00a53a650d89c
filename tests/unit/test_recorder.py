"""The recorder: opens on first use, survives every failure, counts it, says it once, comes back."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from spooler import recorder
from spooler.errors import SpoolUnavailable
from spooler.recorder import Recorder
from spooler.spool import format as fmt
from spooler.spool.writer import Writer
from tests.kit import spools


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int = 1) -> None:
    """Have the next `times` appends raise."""
    real, left = Writer.append, [times]

    def append(self: Writer, kind: str, body: bytes) -> int:
        if left[0] > 0:
            left[0] -= 1
            raise error
        return real(self, kind, body)

    monkeypatch.setattr(Writer, "append", append)


@pytest.mark.promise("G1")
def test_a_record_is_on_disk_when_record_returns_true(root: Path, mine: Recorder) -> None:
    assert mine.directory is None
    for number in range(3):
        assert mine.record("step", spools.step(number))
        assert mine.directory is not None
        found = spools.read_whole(Path(mine.directory)).bodies("step")
        assert [body["step"] for body in found] == list(range(number + 1))
    assert mine.recorded == {"step": 3}
    assert mine.dropped == {}
    assert spools.spools_below(root) == [Path(mine.directory)]


def test_nothing_is_opened_before_the_first_record(root: Path, mine: Recorder) -> None:
    assert not root.exists()
    assert mine.generation == 0
    mine.record("step", spools.step(1))
    assert mine.generation == 1


def test_values_that_cannot_be_used_are_reported_once(
    root: Path,
    mine: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_SPOOL_MAX_BYTES", "abc")
    monkeypatch.setenv("PRIMUS_LENS_WANDB_API_REPORTING", "flase")
    monkeypatch.setenv("PRIMUS_LENS_TRACKERS", "logg")
    other = Recorder()
    assert mine.record("step", spools.step(1))
    assert other.record("step", spools.step(1))
    other.shutdown()
    found = [line.split()[3] for line in capsys.readouterr().err.splitlines()]
    assert sorted(found) == [
        "PRIMUS_LENS_SPOOL_MAX_BYTES",
        "PRIMUS_LENS_TRACKERS",
        "PRIMUS_LENS_WANDB_API_REPORTING",
    ]


def test_the_spool_says_who_wrote_it(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKLOAD_UID", "w-7")
    monkeypatch.setenv("NODE_RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "5")
    mine.record("step", spools.step(1))
    (directory,) = spools.spools_below(root)
    assert directory.parent == root / "node_2" / "rank_5"
    who = spools.Reader(directory).identity()
    assert (who.workload_uid, who.pid, who.node_rank, who.local_rank) == ("w-7", os.getpid(), 2, 5)


def test_without_a_root_nothing_is_recorded_and_that_is_said_once(
    root: Path,
    mine: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_OUTPUT_PATH")
    assert not mine.record("step", spools.step(1))
    assert not mine.record("step", spools.step(2))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "PRIMUS_LENS_WANDB_OUTPUT_PATH" in said


@pytest.mark.promise("G2")
def test_an_unusable_path_is_counted_and_said_once_and_healed(
    root: Path, mine: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    root.write_text("a file where the folder should be")
    for number in range(5):
        assert not mine.record("step", spools.step(number))
    assert sum(mine.dropped.values()) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(root) in said
    root.unlink()
    assert mine.record("step", spools.step(5))
    assert mine.directory is not None
    found = spools.read_whole(Path(mine.directory))
    assert spools.kinds(Path(mine.directory)) == ["gap", "step"]
    (gap,) = found.bodies("gap")
    assert gap["count"] == 5
    assert gap["first"] <= gap["last"] <= gap["time"]


def test_a_spool_without_records_is_not_left_behind(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first segment cannot be made: an empty folder would be noise for the service."""

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise SpoolUnavailable("disk-full", "no space")

    monkeypatch.setattr("spooler.spool.db.create", refuse)
    assert not mine.record("step", spools.step(1))
    assert spools.spools_below(root) == []


@pytest.mark.promise("G2")
@pytest.mark.parametrize("reason", ["disk-full", "quota", "io-error", "read-only"])
def test_what_passes_is_waited_for_in_the_same_spool(
    reason: str, root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.record("step", spools.step(1))
    fail_with(monkeypatch, SpoolUnavailable(reason, "now"), times=3)
    for number in (2, 3, 4):
        assert not mine.record("step", spools.step(number))
    assert mine.record("step", spools.step(5))
    (directory,) = spools.spools_below(root)
    assert spools.kinds(directory) == ["step", "gap", "step"]
    (gap,) = spools.read_whole(directory).bodies("gap")
    assert (gap["reason"], gap["count"]) == (reason, 3)
    assert mine.dropped == {reason: 3}
    assert mine.generation == 1


@pytest.mark.promise("G2")
@pytest.mark.parametrize("reason", ["gone", "descriptor", "cannot-open", "error"])
def test_when_the_files_are_suspect_recording_goes_on_in_a_new_spool(
    reason: str, root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools.tend_by_hand(monkeypatch)
    mine.record("step", spools.step(1))
    first = mine.directory
    fail_with(monkeypatch, SpoolUnavailable(reason, "the file"))
    assert not mine.record("step", spools.step(2))
    assert mine.record("step", spools.step(3))
    assert mine.generation == 2
    assert mine.directory != first
    assert len(spools.spools_below(root)) == 2
    assert mine.directory is not None
    assert set(spools.kinds(Path(mine.directory))[:-1]) == {"gap"}
    assert spools.kinds(Path(str(first))) == ["step"]
    mine._maintain()
    assert not (Path(str(first)) / "owner").exists(), "its run goes on: it was not cut off"


@pytest.mark.promise("G2")
def test_losses_of_several_reasons_are_told_apart(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.record("step", spools.step(1))
    fail_with(monkeypatch, SpoolUnavailable("disk-full", "now"), times=2)
    mine.record("step", spools.step(2))
    mine.record("step", spools.step(3))
    mine.bug(ZeroDivisionError("ours"))
    mine.record("step", spools.step(4))
    (directory,) = spools.spools_below(root)
    gaps = spools.read_whole(directory).bodies("gap")
    assert {(gap["reason"], gap["count"]) for gap in gaps} == {("disk-full", 2), ("bug", 1)}
    mine.record("step", spools.step(5))
    assert len(spools.read_whole(directory).bodies("gap")) == 2, "each loss is told once"


@pytest.mark.promise("G2")
def test_between_tries_a_record_costs_no_system_call(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_RETRY_SECONDS", 3600.0)
    tries = []

    def refuse(*_args: Any, **_kwargs: Any) -> None:
        tries.append(1)
        raise SpoolUnavailable("io-error", "the disk")

    monkeypatch.setattr(recorder, "Writer", refuse)
    for number in range(100):
        assert not mine.record("step", spools.step(number))
    assert len(tries) == 1
    assert mine.dropped == {"io-error": 100}


@pytest.mark.promise("G2")
def test_a_bug_of_ours_costs_the_record_alone(
    root: Path,
    mine: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine.record("step", spools.step(1))
    fail_with(monkeypatch, ZeroDivisionError("ours"), times=3)
    for number in (2, 3, 4):
        assert not mine.record("step", spools.step(number))
    assert mine.record("step", spools.step(5))
    assert mine.dropped == {"bug": 3}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "ZeroDivisionError" in said


class Empty(dict[str, Any]):
    """Says of itself that it is empty, and is not."""

    def __len__(self) -> int:
        return 0


@pytest.mark.promise("G1")
def test_a_map_that_lies_about_its_length_is_recorded_with_what_it_holds(
    root: Path, mine: Recorder
) -> None:
    assert mine.record("step", {"data": Empty(a=1, b=Empty(c=2)), "last": True})
    assert mine.directory is not None
    (body,) = spools.read(Path(mine.directory)).bodies("step")
    assert body == {"data": {"a": 1, "b": {"c": 2}}, "last": True}


@pytest.mark.promise("G2")
def test_a_body_beyond_the_limit_is_counted_not_written(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fmt, "BODY_LIMIT", 1000)
    assert not mine.record("step", spools.step(1, **{f"key-{n}": n for n in range(300)}))
    assert mine.dropped == {"unencodable": 1}
    assert mine.record("step", spools.step(2))


@pytest.mark.promise("G2")
def test_files_removed_under_the_writer_are_noticed(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes to a deleted file succeed and are lost: a new spool says how many."""
    spools.tend_by_hand(monkeypatch)
    for number in range(3):
        mine.record("step", spools.step(number))
    shutil.rmtree(root)
    mine._maintain()
    (directory,) = spools.spools_below(root)
    (gap,) = spools.read_whole(directory).bodies("gap")
    assert (gap["reason"], gap["count"]) == ("gone", 3), "told without waiting for a record"
    assert mine.record("step", spools.step(3))
    assert spools.kinds(directory) == ["gap", "step"]
    assert mine.generation == 2


def test_a_rotation_needs_no_help_from_the_training_thread(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_SPOOL_SEGMENT_RECORDS", "10")
    rotated = threading.Event()
    real = Writer._seal

    def seal(self: Writer, segment: Any) -> None:
        real(self, segment)
        rotated.set()

    monkeypatch.setattr(Writer, "_seal", seal)
    number = 0
    while not rotated.is_set():
        assert mine.record("step", spools.step(number))
        number += 1
    (directory,) = spools.spools_below(root)
    assert len(spools.Reader(directory).segments()) > 1
    assert len(spools.kinds(directory)) == number


def test_deferred_work_runs_on_the_background_thread(root: Path, mine: Recorder) -> None:
    names: list[str] = []
    done = threading.Event()

    def work() -> bool:
        names.append(threading.current_thread().name)
        done.set()
        return False

    mine.defer(work)
    assert done.wait(spools.PATIENCE_SECONDS)
    assert names == ["lens-ship-recorder"]
    assert mine.directory is None


def test_an_unknown_group_is_said_and_not_used(
    root: Path,
    mine: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_SPOOL_GROUP", "no-such-group-here")
    assert mine.record("step", spools.step(1))
    assert "no-such-group-here" in capsys.readouterr().err


@pytest.mark.promise("G2")
def test_without_a_thread_the_caller_keeps_the_limits_until_there_is_one() -> None:
    """A real limit of processes, for a user that nothing else here belongs to."""
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    code = """
import json, os, resource, sys, threading
from spooler import recorder
from tests.kit import spools
os.setgroups([])
os.setuid(54321)
recorder.TICK_SECONDS = 0.0
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
mine = recorder.recorder()
waited = []
os.fsync = os.fdatasync = lambda _: waited.append(threading.current_thread().name)
for n in range(40): assert mine.record("step", spools.step(n))
alone = [[threading.active_count(), mine._writer._segment.number], list(waited)]
resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
mine.record("step", spools.step(40))
print(json.dumps([alone, threading.active_count(), mine.directory]))
"""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        done = spools.python(
            code,
            PRIMUS_LENS_WANDB_OUTPUT_PATH=f"{place}/spool",
            PRIMUS_LENS_SPOOL_SEGMENT_RECORDS="10",
        )
        (alone, waited), threads, directory = spools.answer(done)
        found = spools.read_whole(Path(directory)).bodies("step")
    assert alone == [1, 5], "segments end in time"
    assert waited == [], "and no disk is waited for"
    assert threads == 2
    assert done.stderr.count("cannot start its thread") == 1
    assert [body["step"] for body in found] == list(range(41))


def test_a_path_that_sqlite_does_not_take_is_named(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = root.joinpath(*["d" * 100] * 5)
    monkeypatch.setenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", str(long))
    assert not mine.record("step", spools.step(1))
    said = capsys.readouterr().err
    assert "bytes, and SQLite takes 504)" in said
    assert "free space" not in said

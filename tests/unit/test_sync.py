"""What is committed is brought to the disk: in time, in order, and never on the training thread."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from spooler.errors import SpoolUnavailable
from spooler.recorder import Recorder
from spooler.spool import sync
from tests.kit import spools

Calls = list[str]  # names of the files


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every sync of the test's files that Python code asks for, in order."""
    seen: Calls = []

    def watch(name: str) -> None:
        original = getattr(os, name)

        def call(descriptor: int) -> None:
            file = os.readlink(f"/proc/self/fd/{descriptor}")
            if file.startswith(str(tmp_path)):
                seen.append(os.path.basename(file))
            original(descriptor)

        monkeypatch.setattr(sync.os, name, call)

    watch("fsync")
    watch("fdatasync")
    return seen


@pytest.mark.promise("G1")
def test_the_first_sync_brings_file_folders_and_log_to_the_disk(
    tmp_path: Path, calls: Calls
) -> None:
    one = spools.writer(tmp_path / "root", sync_seconds=60)
    one.append("step", spools.body(1))
    assert calls == [], "the training thread waits for no disk"
    one.maintain()
    down = [one.directory.name, "rank_0", "node_0", "root", tmp_path.name]
    assert calls == ["00000001.sqlite", *down, "00000001.sqlite-wal"]
    one.close()


@pytest.mark.promise("G1")
def test_a_sync_comes_once_in_its_time_unless_hurried_and_only_after_news(
    tmp_path: Path, calls: Calls
) -> None:
    one = spools.writer(tmp_path, sync_seconds=3600)
    one.append("step", spools.body(1))
    one.maintain()
    calls.clear()
    one.append("step", spools.body(2))
    one.maintain()
    assert calls == [], "not due"
    one.request_sync()
    one.maintain()
    assert calls == ["00000001.sqlite-wal"]
    one.request_sync()
    one.maintain()
    assert len(calls) == 1, "nothing new"
    one.close()


@pytest.mark.promise("G1")
def test_a_later_segment_is_on_the_disk_before_it_is_used(tmp_path: Path, calls: Calls) -> None:
    one = spools.writer(tmp_path, sync_seconds=3600, segment_records=2)
    one.append("step", spools.body(1))
    one.maintain()
    after_first = list(calls)
    assert after_first.index(".00000002.new") < after_first.index("00000001.sqlite-wal")
    for number in range(2, 9):
        one.append("step", spools.body(number))
        one.maintain()
    one.close()
    assert ".00000004.new" in calls
    assert spools.read_whole(one.directory).numbers == list(range(1, 9))


def test_switched_off_nothing_is_synced(tmp_path: Path, calls: Calls) -> None:
    one = spools.writer(tmp_path, sync_seconds=0, segment_records=2)
    for number in range(1, 9):
        one.append("step", spools.body(number))
        one.request_sync()
        one.maintain()
    one.close()
    assert calls == []


@pytest.mark.promise("G1")
def test_a_start_a_detection_and_an_end_are_synced_at_once(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_SPOOL_SYNC_SECONDS", "3600")
    hurried = []
    assert mine.record("step", spools.step(1))
    writer = mine._writer
    assert writer is not None
    monkeypatch.setattr(writer, "request_sync", lambda: hurried.append(len(mine.recorded)))
    for kind in ("run", "step", "detection", "step", "report", "finish"):
        assert mine.record(kind, spools.step(2))
    assert len(hurried) == 4


@pytest.mark.promise("G2")
def test_a_disk_that_cannot_sync_is_told_of_and_appending_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spools.writer(tmp_path, sync_seconds=3600)

    def refuse(_descriptor: int) -> None:
        raise OSError(5, os.strerror(5))

    one.append("step", spools.body(1))
    with monkeypatch.context() as patch:
        patch.setattr(sync.os, "fdatasync", refuse)
        with pytest.raises(SpoolUnavailable, match="error"):
            one.maintain()
    one.append("step", spools.body(2))
    one.maintain()
    one.close()
    assert spools.read_whole(one.directory).numbers == [1, 2]


@pytest.mark.promise("G2")
def test_neither_an_append_nor_a_fork_waits_for_a_sync_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hang(_descriptor: int) -> None:
        inside.set()
        leave.wait(spools.PATIENCE_SECONDS)

    monkeypatch.setattr(sync.os, "fdatasync", hang)
    one = spools.writer(tmp_path, sync_seconds=3600)
    one.append("step", spools.body(1))
    thread = threading.Thread(target=one.maintain)
    thread.start()
    assert inside.wait(spools.PATIENCE_SECONDS)
    one.append("step", spools.body(2))
    assert one._tending.acquire(blocking=False), "a fork may go on"
    one._tending.release()
    assert not leave.is_set()
    leave.set()
    thread.join(spools.PATIENCE_SECONDS)
    one.close()


def test_another_sqlite_finds_the_segment_locked_also_after_a_sync(tmp_path: Path) -> None:
    """Were it not, an operator who looks into a live segment would take its log away."""
    one = spools.writer(tmp_path, sync_seconds=3600, segment_records=2)
    for number in range(1, 4):
        one.append("step", spools.body(number))
        one.maintain()
    path = one.directory / "00000002.sqlite"
    look = (
        "import sqlite3, sys\n"
        "try: sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM record').fetchall()\n"
        "except sqlite3.OperationalError as error: print(f'\"{error}\"')"
    )
    assert spools.answer(spools.python(look, path)) == "database is locked"
    assert path.with_name(f"{path.name}-wal").exists()
    one.close()

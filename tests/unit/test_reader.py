"""The reader: in order, from any position, beside a living writer; what may be deleted and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spooler.errors import NotASpool
from spooler.spool import db, safe_open, source
from spooler.spool.owner import Lock
from spooler.spool.reader import Reader
from spooler.spool.segment import Segment
from tests.kit import spools
from tests.kit.shipping import OwnedReader

LAST = 9

# What an operator does with the `sqlite3` command.
_LOOK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
try:
    connection.execute("SELECT count(*) FROM record").fetchall()
except sqlite3.OperationalError:
    pass
connection.close()
assert open(sys.argv[1] + "-wal"), "it is gone"
"""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Nine records in segments of four."""
    return spools.fill(tmp_path, LAST, segment_records=4)[0]


@pytest.mark.promise("G3")
@pytest.mark.parametrize("after", range(LAST + 1))
@pytest.mark.parametrize("limit", [1, 3, 4, 100])
def test_any_stretch_is_given_in_order(after: int, limit: int, spool: Path) -> None:
    chunk = Reader(spool).read(after, limit)
    expected = list(range(after + 1, min(after + limit, LAST) + 1))
    assert [stored.seq for stored in chunk.records] == expected
    assert [spools.number_of(stored) for stored in chunk.records] == expected
    assert chunk.damage == ()
    assert chunk.through == after + len(expected)
    assert not (chunk.at_end and chunk.through < LAST)


def test_the_end_is_told_when_there_was_room_for_more(spool: Path) -> None:
    assert Reader(spool).read(0, LAST + 1).at_end
    assert Reader(spool).read(LAST, 1).at_end
    assert not Reader(spool).read(0, LAST).at_end


def test_one_reader_may_go_back(spool: Path) -> None:
    """A replay starts again where the same reader has been before."""
    reader = Reader(spool)
    for after in (8, 0, 5, 4, LAST, 0):
        assert [s.seq for s in reader.read(after, 2).records] == [
            seq for seq in (after + 1, after + 2) if seq <= LAST
        ]


def test_last_seq_is_that_of_the_last_record_there_is(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 0, close=False, segment_records=4)
    reader = Reader(directory)
    for number in range(1, 7):
        assert reader.last_seq() == number - 1
        one.append("step", spools.body(number))
        one.maintain()
    assert reader.last_seq() == 6


def test_identity_is_that_of_the_writer(tmp_path: Path) -> None:
    who = spools.identity(workload_uid="w-1", rank=3, node_id=7, api_reporting=False)
    one = spools.writer(tmp_path, who=who)
    assert Reader(one.directory).identity() == who
    assert Reader(one.directory).spool == who.spool
    one.close()
    assert Reader(one.directory).identity() == who


def test_news_are_a_new_record_or_a_new_segment_and_nothing_else(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 0, close=False, segment_records=2)
    reader = Reader(directory)
    assert reader.has_news(), "nothing has been seen yet"
    assert not reader.has_news()
    for number in range(1, 8):
        one.append("step", spools.body(number))
        assert reader.has_news(), number
        reader.read(0, 100)
        assert not reader.has_news(), "reading is no news"
        one.maintain()
        reader.has_news()


def test_a_directory_that_is_not_there_is_an_empty_spool(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "nowhere")
    assert reader.segments() == []
    assert reader.read(0, 5).at_end
    assert reader.last_seq() == 0
    assert reader.is_owned(), "nothing proves that it is not"
    reader.has_news()
    assert not reader.has_news()
    with pytest.raises(NotASpool):
        reader.identity()


def test_only_segments_are_taken_for_segments(spool: Path) -> None:
    for name in ("1.sqlite", ".00000009.new", "00000009.sqlite-wal", "00000009.sqlite.bak", "x"):
        (spool / name).write_bytes(b"not ours")
    assert Reader(spool).segments() == [1, 2, 3]
    assert spools.read_whole(spool).numbers == list(range(1, LAST + 1))


def test_reading_changes_no_file_of_a_sealed_spool(spool: Path) -> None:
    before = {path.name: path.read_bytes() for path in spool.iterdir()}
    reader = Reader(spool)
    reader.read(0, 100)
    reader.segments_below(LAST)
    reader.is_drained(LAST)
    assert {path.name: path.read_bytes() for path in spool.iterdir()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_sealed_spool_is_read_where_nothing_can_be_written(spool: Path) -> None:
    """By another user, in a folder that is not his: without -shm SQLite would want to make one."""
    for path in (spool, *spool.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    for path in spool.iterdir():
        path.chmod(0o644)
    code = (
        "import os, sys, json, pathlib; from tests.kit import spools\n"
        "directory = pathlib.Path(sys.argv[1])\n"
        "sys.dont_write_bytecode = True\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "assert not os.access(directory, os.W_OK)\n"
        "print(json.dumps(spools.read_whole(directory).numbers))"
    )
    assert spools.answer(spools.python(code, spool)) == list(range(1, LAST + 1))


# --- what may be deleted --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "complete"),
    [(0, []), (3, []), (4, [1]), (7, [1]), (8, [1, 2]), (LAST, [1, 2])],
)
def test_a_segment_is_complete_when_the_next_one_has_begun_and_all_of_it_is_behind(
    position: int, complete: list[int], spool: Path
) -> None:
    assert Reader(spool).segments_below(position) == complete


def test_a_full_segment_is_not_complete_while_the_next_is_empty(tmp_path: Path) -> None:
    """Being prepared is not being begun: the one before may still get records."""
    directory, one = spools.fill(tmp_path, 4, close=False, segment_records=4)
    reader = Reader(directory)
    assert reader.segments() == [1, 2]
    assert reader.segments_below(4) == []
    one.append("step", spools.body(5))
    assert reader.segments_below(4) == [1]


def test_exhausted_means_that_nothing_lies_beyond(spool: Path) -> None:
    reader = Reader(spool)
    assert not reader.is_drained(0)
    assert not reader.is_drained(8)
    assert reader.is_drained(LAST)


def test_a_spool_without_records_is_exhausted(tmp_path: Path) -> None:
    directory, _ = spools.fill(tmp_path, 0)
    assert Reader(directory).is_drained(0)


def test_what_is_deleted_is_gone_and_the_rest_is_read(spool: Path) -> None:
    reader = Reader(spool)
    reader.delete_segment(1)
    reader.delete_segment(1)
    assert reader.segments() == [2, 3]
    assert [stored.seq for stored in reader.read(4, 100).records] == [5, 6, 7, 8, 9]
    assert reader.segment_bytes(1) == 0
    assert reader.segment_bytes(2) == (spool / "00000002.sqlite").stat().st_size
    reader.delete_spool()
    assert not spool.exists()


def test_what_a_death_left_beside_a_segment_goes_with_it(spool: Path) -> None:
    (spool / "00000001.sqlite-journal").write_bytes(b"left while it was sealed")
    reader = Reader(spool)
    reader.delete_segment(1)
    assert not list(spool.glob("00000001*"))
    for name in ("00000001.sqlite-journal", "00000002.sqlite-shm", ".00000004.new-journal"):
        (spool / name).write_bytes(b"left by an earlier version")
    reader.delete_spool()
    assert not spool.exists()


def test_deleting_a_spool_keeps_what_is_not_ours(spool: Path) -> None:
    (spool / "notes.txt").write_text("mine")
    with pytest.raises(OSError):
        Reader(spool).delete_spool()
    assert (spool / "notes.txt").read_text() == "mine"


def test_a_segment_says_when_it_was_last_written(spool: Path) -> None:
    reader = Reader(spool)
    assert reader.written_at(2) == (spool / "00000002.sqlite").stat().st_mtime
    assert reader.written_at(99) == 0.0


# --- beside a living writer -----------------------------------------------------------------------

_FULL_SPEED = """
import sys, pathlib, threading
from tests.kit import spools
from tests.kit.shipping import OwnedReader
one = spools.writer(pathlib.Path(sys.argv[1]), segment_records=25)
print(one.directory, flush=True)
stop = threading.Event()
wake = threading.Event()
one.wake = wake.set
def maintain():
    while not stop.is_set():
        wake.wait(0.01)
        wake.clear()
        one.maintain()
thread = threading.Thread(target=maintain)
thread.start()
for number in range(1, int(sys.argv[2]) + 1):
    if number % 500 == 0:
        one.maintain()
        sys.stdin.readline()  # never so far ahead that the reader has nothing to do beside it
    one.append("step", spools.body(number))
stop.set()
thread.join()
one.close()
"""


@pytest.mark.promise("G3")
@pytest.mark.parametrize("limit", [3, 40])
def test_a_reader_beside_a_writer_at_full_speed_sees_each_record_once(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SECONDS", spools.PATIENCE_SECONDS)
    count = 6000
    with subprocess.Popen(
        [sys.executable, "-c", _FULL_SPEED, str(tmp_path), str(count)],
        cwd=spools.REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        directory = Path(child.stdout.readline().strip())
        reader, seen, let_go = Reader(directory), list[int](), 0
        deleted: list[int] = []
        while len(seen) < count:
            alive = child.poll() is None
            chunk = reader.read(len(seen), limit)
            assert chunk.damage == (), json.dumps([repr(d) for d in chunk.damage])
            numbers = [spools.number_of(stored) for stored in chunk.records]
            assert numbers == list(range(len(seen) + 1, len(seen) + len(numbers) + 1))
            assert chunk.through == len(seen) + len(numbers)
            seen += numbers
            assert alive or numbers, "the writer has ended and the rest does not come"
            if let_go < count // 500 and len(seen) >= let_go * 500 + 250:
                let_go += 1
                child.stdin.write("\n")
                child.stdin.flush()
            for number in reader.segments_below(len(seen)):
                reader.delete_segment(number)
                deleted.append(number)
        assert child.wait(spools.PATIENCE_SECONDS) == 0
    assert let_go == count // 500
    assert len(deleted) >= 5
    assert reader.is_drained(count)


@pytest.mark.promise("G1")
def test_a_reader_that_pauses_while_its_segment_is_filled_and_sealed_still_sees_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was opened when it was prepared, when it was half full, when it was full."""
    monkeypatch.setattr(source, "SECONDS", spools.PATIENCE_SECONDS)
    directory, one = spools.fill(tmp_path, 3, close=False, segment_records=400)
    paused = [Segment(directory / "00000001.sqlite")]
    for number in range(4, 300):
        one.append("step", spools.body(number))
        if number % 100 == 0:
            paused.append(Segment(directory / "00000001.sqlite"))
    one.close()
    for segment in paused:
        with segment:
            assert [row[0] for row in segment.each()] == list(range(1, 300))
    assert spools.read_whole(directory).numbers == list(range(1, 300))


@pytest.mark.promise("G1")
def test_no_other_sqlite_takes_the_log_away_once_a_segment_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator looks into it before its writer has opened it, and afterwards."""
    real = db.open_for_writing

    def opened(path: Path) -> db.Writing:
        subprocess.run([sys.executable, "-c", _LOOK, str(path)], check=True)
        return real(path)

    monkeypatch.setattr(db, "open_for_writing", opened)
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    (path,) = one.directory.glob("*.sqlite")
    subprocess.run([sys.executable, "-c", _LOOK, str(path)], check=True)
    assert Reader(one.directory).read(0, 10).records
    one.close()


def test_a_sealed_segment_is_open_to_an_operator_while_a_child_of_its_writer_lives(
    tmp_path: Path,
) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    waiting, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(waiting, 1)
        os._exit(0)
    one.close()
    (path,) = one.directory.glob("*.sqlite")
    count = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1], timeout=0).execute(sys.argv[2]))"
    )
    command = [sys.executable, "-c", count, str(path), "SELECT count(*) FROM record"]
    looked = subprocess.run(command, capture_output=True, text=True, check=False)
    os.close(end)
    os.waitpid(child, 0)
    assert looked.stdout == "(1,)\n", looked.stderr


@pytest.mark.promise("G1")
def test_a_segment_is_safe_to_read_from_the_moment_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader comes between the naming of a segment and its opening by the writer."""
    monkeypatch.setattr(source, "SECONDS", spools.PATIENCE_SECONDS)
    paused: list[Segment] = []
    real = db.open_for_writing

    def opened(path: Path) -> db.Writing:
        paused.append(Segment(path))
        return real(path)

    monkeypatch.setattr(db, "open_for_writing", opened)
    one = spools.writer(tmp_path)
    reader = Reader(one.directory)
    assert reader.read(0, 10).records == ()
    for number in range(1, 300):
        one.append("step", spools.body(number))
    one.close()
    with paused[0] as segment:
        assert len(list(segment.each())) in (0, 299)
    assert len(reader.read(0, 1000).records) == 299


def test_what_was_read_through_is_opened_again_only_once_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment that lies ready for the next records is met at every read."""
    writer = spools.writer(tmp_path, segment_records=8)
    opened: list[str] = []
    real = safe_open.open_regular
    monkeypatch.setattr(
        safe_open, "open_regular", lambda path: (opened.append(Path(path).name), real(path))[1]
    )
    reader = OwnedReader(writer.directory)
    seen: list[int] = []
    for number in range(1, 20):
        writer.append("step", spools.body(number))
        writer.maintain()
        seen += [one.seq for one in reader.read(number - 1, 10).records]
    assert seen == list(range(1, 20))
    logs = [name for name in opened if name.endswith("-wal")]
    # Beside the one a record lies in: each once when it was ready, and once when it was full.
    assert len(logs) - len(seen) <= 2 * len(set(logs))


def test_a_read_does_not_ask_for_every_segment_that_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = spools.writer(tmp_path, segment_records=2)
    reader = OwnedReader(writer.directory)
    asked: list[str] = []
    real = os.stat

    def counted(name: Any, **more: Any) -> os.stat_result:
        asked.append(str(name))
        return real(name, **more)

    monkeypatch.setattr(os, "stat", counted)
    costs = []
    for number in range(1, 40):
        writer.append("step", spools.body(number))
        writer.maintain()
        asked.clear()
        assert [one.seq for one in reader.read(number - 1, 10).records] == [number]
        costs.append(len(asked))
    assert len(reader.segments()) > 15
    assert max(costs[20:]) <= max(costs[:10])


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_writer_is_looked_for_in_the_spool_even_after_what_is_there_was_replaced(
    tmp_path: Path, place: str
) -> None:
    """The file that the writer has locked is checked once, and again after any change there."""
    here, other = tmp_path / "here", tmp_path / "other"
    ours, theirs = spools.writer(here), spools.writer(other)
    reader = Reader(ours.directory)
    child = os.fork()
    if child == 0:
        states = [reader.liveness_evidence().lock for _ in range(2)]
        replaced = ours.directory / "owner" if place == "file" else ours.directory
        replaced.rename(tmp_path / "away")
        replaced.symlink_to(theirs.directory / "owner" if place == "file" else theirs.directory)
        states += [reader.liveness_evidence().lock for _ in range(2)]
        os._exit(0 if states == [Lock.HELD, Lock.HELD, Lock.ABSENT, Lock.ABSENT] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pipe_in_the_place_of_the_writers_file_holds_nobody_up(tmp_path: Path) -> None:
    directory, _ = spools.fill(tmp_path, 1)
    os.mkfifo(directory / "owner")
    assert Reader(directory).liveness_evidence().lock is Lock.ABSENT
    assert not Reader(directory).is_owned()


def test_what_a_death_leaves_does_not_keep_the_folder(tmp_path: Path) -> None:
    """A death at any moment leaves drafts, a scratch file, or an empty log before its segment."""
    directory, _ = spools.fill(tmp_path, 3)
    for name in (".00000002.new", ".scratch", ".owner.new", "00000002.sqlite-wal"):
        (directory / name).write_bytes(b"")
    Reader(directory).delete_spool()
    assert not directory.exists()


def test_a_log_whose_segment_is_gone_is_not_deleted_with_what_it_holds(tmp_path: Path) -> None:
    directory, _ = spools.fill(tmp_path, 3)
    (directory / "00000002.sqlite-wal").write_bytes(b"frames")
    with pytest.raises(OSError, match="not empty"):
        Reader(directory).delete_spool()
    assert [path.name for path in directory.iterdir()] == ["00000002.sqlite-wal"]


@pytest.mark.promise("G15")
def test_a_log_that_is_a_link_to_another_spools_is_not_read(tmp_path: Path) -> None:
    """Its records have checksums that hold: they would be delivered as those of the wrong job."""
    theirs = spools.writer(tmp_path / "theirs")
    theirs.append("step", spools.body(1))
    mine = spools.fill(tmp_path / "mine", 0)[0]
    log = theirs.directory / "00000001.sqlite-wal"
    (mine / "00000001.sqlite-wal").symlink_to(log)
    assert Reader(theirs.directory).read(0, 10).records
    assert Reader(mine).read(0, 10).records == ()
    assert Reader(mine).last_seq() == 0

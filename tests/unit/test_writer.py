"""The writer: numbers without a gap, segments that end at their limits, sealed private files."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from spooler.errors import SpoolUnavailable
from spooler.spool import filesystem, segment, writer
from spooler.spool import format as fmt
from spooler.spool.descriptor import Descriptor
from spooler.spool.layout import check_present
from spooler.spool.reader import Reader
from tests.kit import spools


def wal_bytes(directory: Path, number: int) -> int:
    return filesystem.wal_size(directory / f"{number:08d}.sqlite")


@pytest.mark.promise("G3")
def test_numbers_run_from_one_without_a_gap_across_segments(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 50, segment_records=7)
    found = spools.read_whole(directory)
    assert found.numbers == list(range(1, 51))
    assert one.last_seq == 50
    assert len(Reader(directory).segments()) == 8


def test_append_returns_the_number_of_the_record(tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    assert one.last_seq == 0
    assert [one.append("step", spools.body(n)) for n in range(3)] == [1, 2, 3]
    assert one.last_seq == 3


def test_an_adapter_of_the_program_changes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (bytes, sqlite3.PrepareProtocol)
    monkeypatch.setitem(sqlite3.adapters, key, lambda body: body[::-1])
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    monkeypatch.undo()
    assert spools.read_whole(one.directory).numbers == [1]


@pytest.mark.promise("G1")
def test_a_returned_append_is_visible_to_another_connection(tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    for number in range(1, 4):
        one.append("step", spools.body(number))
        assert spools.read_whole(one.directory).numbers == list(range(1, number + 1))


def test_a_segment_ends_after_its_records(tmp_path: Path) -> None:
    directory, _ = spools.fill(tmp_path, 12, segment_records=5)
    assert per_segment(directory) == [5, 5, 2]


def test_a_segment_ends_after_its_bytes(tmp_path: Path) -> None:
    size = len(spools.body(1))
    directory, _ = spools.fill(tmp_path, 10, segment_bytes=4 * size)
    assert per_segment(directory) == [4, 4, 2]


def test_one_record_may_be_larger_than_a_segment(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 1, close=False, segment_bytes=100)
    one.append("step", spools.codec.pack({"n": 2, "text": "x" * 10_000}))
    one.maintain()
    one.append("step", spools.body(3))
    one.close()
    assert spools.read_whole(directory).numbers == [1, 2, 3]
    assert per_segment(directory) == [2, 1]


def test_a_segment_ends_at_its_age_and_only_when_it_holds_something(tmp_path: Path) -> None:
    one = spools.writer(tmp_path, segment_seconds=0.0)
    one.maintain()
    one.maintain()
    assert per_segment(one.directory) == [0]
    one.append("step", spools.body(1))
    one.maintain()
    one.append("step", spools.body(2))
    one.close()
    assert per_segment(one.directory) == [1, 1]


def test_the_next_segment_is_prepared_at_half_and_used_at_the_limit(tmp_path: Path) -> None:
    woken = []
    one = spools.writer(tmp_path, segment_records=6)
    one.wake = lambda: woken.append(one.last_seq)
    for number in (1, 2):
        one.append("step", spools.body(number))
        one.maintain()
    assert Reader(one.directory).segments() == [1]
    assert woken == []
    one.append("step", spools.body(3))
    assert woken == [3]
    one.maintain()
    assert Reader(one.directory).segments() == [1, 2]
    for number in (4, 5, 6, 7):
        one.append("step", spools.body(number))
    assert woken == [3, 6], "once to prepare, once to seal"
    assert per_segment(one.directory) == [6, 1]


def test_without_a_prepared_segment_append_goes_on_where_it_is(tmp_path: Path) -> None:
    """Preparing takes milliseconds: the training thread never does it."""
    one = spools.writer(tmp_path, segment_records=3)
    for number in range(1, 11):
        one.append("step", spools.body(number))
    assert per_segment(one.directory) == [10]
    one.maintain()
    one.append("step", spools.body(11))
    one.close()
    assert per_segment(one.directory) == [10, 1]


@pytest.mark.promise("G1")
def test_a_rotation_amid_tending_does_not_touch_the_segment_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the segment prepared then took the place of the one that had just come into use."""
    one = spools.writer(tmp_path, segment_records=4)
    appended = 0

    def interrupted(segment: Path, file: Descriptor) -> None:
        nonlocal appended
        check_present(segment, file)
        while appended < 9:
            appended += 1
            one.append("step", spools.body(appended))
            if appended in (3, 7):
                return

    monkeypatch.setattr(writer, "check_present", interrupted)
    for _ in range(5):
        one.maintain()
    one.close()
    assert spools.read_whole(one.directory).numbers == list(range(1, 10))


def test_tending_seals_the_full_segment(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 3, close=False, segment_records=4)
    assert wal_bytes(directory, 1) > 0
    one.append("step", spools.body(4))
    assert wal_bytes(directory, 1) > 0, "not in the training thread"
    one.maintain()
    assert not (directory / "00000001.sqlite-wal").exists()
    assert not (directory / "00000001.sqlite-shm").exists()
    assert (directory / "00000002.sqlite-wal").exists(), "or a reader would take it for sealed"


def test_a_closed_spool_has_no_wal_and_no_owner(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 6, close=False, segment_records=4)
    assert Reader(directory).is_owned()
    one.close()
    assert not Reader(directory).is_owned()
    assert not list(directory.glob("*-wal"))
    assert not list(directory.glob("*-shm"))
    assert not list(directory.glob(".*"))


def test_nothing_can_be_appended_after_closing(tmp_path: Path) -> None:
    _, one = spools.fill(tmp_path, 1)
    with pytest.raises(SpoolUnavailable):
        one.append("step", spools.body(2))


def test_the_owner_file_names_the_process(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 1, close=False)
    assert (directory / "owner").read_text() == f"{os.getpid()} {os.uname().nodename} ofd \n"
    one.close()
    assert not (directory / "owner").exists()


def test_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        directory, _ = spools.fill(tmp_path / "root", 5, close=False, segment_records=4)
    finally:
        os.umask(before)
    for path in (tmp_path / "root", *(tmp_path / "root").rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert {path.suffix for path in directory.iterdir()} >= {".sqlite", ".sqlite-wal"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to any group")
def test_a_group_gets_to_read_and_delete(tmp_path: Path) -> None:
    group = 12345
    directory, _ = spools.fill(tmp_path / "root", 5, close=False, segment_records=4, group=group)
    for path in (tmp_path / "root", *(tmp_path / "root").rglob("*")):
        expected = 0o2770 if path.is_dir() else 0o660
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
        assert path.stat().st_gid == group, path
    assert len(list(directory.iterdir())) == 4


def test_folders_of_others_keep_their_mode(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    (root / "node_0").mkdir(mode=0o711)
    spools.fill(root, 1)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "node_0").stat().st_mode) == 0o711
    assert stat.S_IMODE((root / "node_0" / "rank_0").stat().st_mode) == 0o700


def test_a_root_may_have_any_name(tmp_path: Path) -> None:
    """SQLite is given an address, in which some characters mean something."""
    root = tmp_path / os.fsdecode(b"a?mode=ro#b %41 \xc3\xa9 \xff")
    directory, _ = spools.fill(root, 5, segment_records=4)
    assert spools.read_whole(directory).numbers == [1, 2, 3, 4, 5]
    assert sorted(path.suffix for path in directory.glob("*.sqlite*")) == [".sqlite", ".sqlite"]


def test_an_existing_spool_is_never_taken_over(tmp_path: Path) -> None:
    directory, _ = spools.fill(tmp_path, 3)
    with pytest.raises(SpoolUnavailable):
        spools.writer(tmp_path)
    assert spools.read_whole(directory).numbers == [1, 2, 3]


def test_a_file_planted_in_place_of_the_next_segment_is_replaced(tmp_path: Path) -> None:
    """A draft left behind, or a link put there to have another file overwritten."""
    directory, one = spools.fill(tmp_path, 1, close=False, segment_records=2)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (directory / ".00000003.new").symlink_to(victim)
    for number in range(2, 6):
        one.append("step", spools.body(number))
        one.maintain()
    one.close()
    assert victim.read_text() == "untouched"
    assert spools.read_whole(directory).numbers == [1, 2, 3, 4, 5]


def test_the_identity_stands_in_every_segment(tmp_path: Path) -> None:
    directory, _ = spools.fill(tmp_path, 9, segment_records=2)
    bodies = set()
    for number in Reader(directory).segments():
        connection = sqlite3.connect(directory / f"{number:08d}.sqlite")
        rows = connection.execute("SELECT body, checksum FROM identity").fetchall()
        connection.close()
        assert len(rows) == 1
        assert rows[0][1] == spools.codec.checksum("identity", rows[0][0], number)
        bodies.add(rows[0][0])
    assert len(bodies) == 1


def per_segment(directory: Path) -> list[int]:
    """Records in each segment, without a last empty one that was only prepared."""
    counts = []
    for number in Reader(directory).segments():
        with segment.Segment(directory / fmt.segment_name(number)) as one:
            counts.append(sum(1 for _ in one.each()))
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts

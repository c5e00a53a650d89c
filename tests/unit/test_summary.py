"""A summary of a spool equals reading it through, and opens only what has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from spooler.spool import codec, safe_open
from spooler.spool import format as fmt
from spooler.spool.reader import Reader
from spooler.spool.summary import SpoolSummary, SummaryReader
from tests.kit import shipping, spools
from tests.kit.shipping import T0, step

COUNT = 40


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Steps 1 … COUNT, each with its number as time, in segments of seven."""
    records = [step(number) for number in range(1, COUNT + 1)]
    return shipping.spool(tmp_path, records, segment_records=7)[0]


def read_once(directory: Path) -> SummaryReader:
    summaries = SummaryReader(directory)
    assert summaries.read().problem == ""
    return summaries


def test_it_sees_where_a_spool_begins_and_ends_and_how_much_it_takes(spool: Path) -> None:
    summary = SummaryReader(spool).read()
    reader = Reader(spool)
    assert len(reader.segments()) > 4
    assert (summary.first, summary.last) == (reader.first_seq(), reader.last_seq()) == (1, COUNT)
    assert summary.newest == T0 + COUNT
    assert summary.bytes == reader.bytes()


def test_it_finds_the_time_of_any_record_wherever_it_lies(spool: Path) -> None:
    summaries = read_once(spool)
    assert [summaries.time_beyond(seq) for seq in range(COUNT)] == [
        T0 + seq for seq in range(1, COUNT + 1)
    ]
    assert [summaries.time_of(seq) for seq in range(1, COUNT + 1)] == [
        T0 + seq for seq in range(1, COUNT + 1)
    ]
    assert summaries.time_beyond(COUNT) is None
    assert summaries.time_of(COUNT + 1) is None


def test_what_is_left_takes_less_with_every_record_and_nothing_at_the_end(spool: Path) -> None:
    summaries = read_once(spool)
    sizes = [summaries.bytes_beyond(seq) for seq in range(COUNT + 1)]
    segments = sum(path.stat().st_size for path in spool.glob("*.sqlite*"))
    assert sizes[0] == pytest.approx(segments, rel=0.2)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0


def test_it_follows_a_spool_that_grows(tmp_path: Path) -> None:
    directory, writer = shipping.spool(tmp_path, [step(1)], close=False)
    summaries = read_once(directory)
    shipping.append(writer, [step(2), step(3)])
    summary = summaries.read()
    writer.close()
    assert (summary.last, summary.newest) == (3, T0 + 3)


def test_a_second_look_opens_nothing_while_nothing_has_changed(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = read_once(spool)
    opened: list[Path] = []
    real = safe_open.open_regular
    monkeypatch.setattr(safe_open, "open_regular", lambda path: opened.append(path) or real(path))
    before = summaries.read()
    assert before == summaries.read()
    assert opened == []


def test_the_bounds_of_a_segment_are_found_without_going_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed or not, what is read of it does not grow with it."""
    directory, writer = shipping.spool(tmp_path, [step(n) for n in range(5000)], close=False)
    taken: list[int] = []
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda *args: (data := real(*args), taken.append(len(data)))[0]
    )
    for seal in (lambda: None, writer.close):
        seal()
        taken.clear()
        assert SummaryReader(directory).read().last == 5000
        assert sum(taken) < 200_000 < bytes_of(directory)


def bytes_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.sqlite*"))


@pytest.mark.promise("G7")
@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_damaged_segment_is_said_and_the_others_are_counted(spool: Path, number: int) -> None:
    path = spool / fmt.segment_name(number)
    path.write_bytes(b"\0" * path.stat().st_size)
    summaries = SummaryReader(spool)
    summary = summaries.read()
    # In the middle it is reported when a reader gets there.
    assert (path.name in summary.problem) == (number != 3)
    assert 0 < summary.first <= summary.last <= COUNT
    assert summaries.time_beyond(0) is not None


def test_a_record_without_a_usable_time_counts_as_old_as_its_segment(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [{"time": "noon"}, {"time": -1}, {"big": "x" * 300_000}]
    directory, _ = shipping.spool(tmp_path, [("mystery", body) for body in bodies])
    changed = (directory / fmt.segment_name(1)).stat().st_mtime
    summaries = read_once(directory)
    assert [summaries.time_beyond(seq) for seq in range(3)] == [changed] * 3
    assert summaries.time_of(1) is None
    assert summaries.read().newest == changed


def test_a_record_with_a_wrong_checksum_tells_no_time(tmp_path: Path) -> None:
    directory, writer = shipping.spool(tmp_path, [], close=False)
    writer.append("step", codec.pack({"time": T0}))
    writer.close()
    spools_file = directory / fmt.segment_name(1)
    raw = spools_file.read_bytes().replace(codec.pack({"time": T0}), codec.pack({"time": T0 + 1}))
    spools_file.write_bytes(raw)
    assert read_once(directory).time_of(1) is None


def test_what_is_not_there_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    summaries = SummaryReader(tmp_path / "gone")
    assert "No such file" in summaries.read().problem
    assert (summaries.time_beyond(0), summaries.bytes_beyond(0)) == (None, 0)


def test_an_empty_folder_is_a_spool_without_records(tmp_path: Path) -> None:
    assert SummaryReader(tmp_path).read() == SpoolSummary()
    assert spools.spools_below(tmp_path) == []

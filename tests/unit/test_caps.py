"""The limit of a spool: what the writer refuses, what it deletes, and what it says of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from spooler import config
from spooler.errors import SpoolUnavailable
from spooler.recorder import Recorder
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.filesystem import bytes_in
from spooler.spool.reader import Reader
from spooler.spool.writer import Writer
from tests.kit import spools

CAP = 400_000
TEXT = "x" * 2000


def fill(one: Writer, count: int, first: int = 1) -> list[int]:
    """Append with a look after each; the numbers that were taken."""
    taken = []
    for number in range(first, first + count):
        try:
            one.append("step", codec.pack({"n": number, "text": TEXT}))
            taken.append(number)
        except SpoolUnavailable as error:
            if error.reason != "cap":
                raise
        one.maintain()
    return taken


def bounded(root: Path, **more: Any) -> Writer:
    return spools.writer(root, **{"segment_records": 16, "max_bytes": CAP, **more})


def numbers(directory: Path) -> list[int]:
    found = spools.read(directory)
    return [spools.number_of(stored) for stored in found.records if stored.kind == "step"]


@pytest.mark.promise("G11")
def test_at_its_limit_a_spool_takes_nothing_new_and_keeps_all_it_has(tmp_path: Path) -> None:
    one = bounded(tmp_path)
    taken = fill(one, 400)
    assert 0 < len(taken) < 400
    assert taken == list(range(1, len(taken) + 1))
    assert bytes_in(one.directory) <= CAP + 4 * len(TEXT) + 50_000
    assert numbers(one.directory) == taken


@pytest.mark.promise("G11")
def test_it_takes_records_again_as_soon_as_the_service_has_made_room(tmp_path: Path) -> None:
    one = bounded(tmp_path)
    fill(one, 400)
    with pytest.raises(SpoolUnavailable, match="cap"):
        one.append("step", spools.body(1))
    reader = Reader(one.directory)
    for number in reader.segments()[:3]:
        reader.delete_segment(number)
    with pytest.raises(SpoolUnavailable):
        one.append("step", spools.body(1))
    one.maintain()
    assert one.append("step", spools.body(1)) == one.last_seq


@pytest.mark.promise("G11")
def test_at_its_limit_everything_can_be_delivered_and_deleted(tmp_path: Path) -> None:
    """A limit below one segment must not keep that segment open for ever."""
    one = bounded(tmp_path, segment_records=10_000, max_bytes=200_000)
    fill(one, 200)
    reader = Reader(one.directory)
    for number in reader.segments_below(one.last_seq):
        reader.delete_segment(number)
    one.maintain()
    assert fill(one, 1, first=1000) == [1000]


@pytest.mark.promise("G11")
def test_rather_than_the_newest_the_oldest_segments_go(tmp_path: Path) -> None:
    one = bounded(tmp_path, drop_oldest=True)
    assert fill(one, 600) == list(range(1, 601))
    assert bytes_in(one.directory) <= CAP
    kept = numbers(one.directory)
    assert kept == list(range(kept[0], 601))
    assert kept[0] > 1


@pytest.mark.promise("G11")
def test_what_was_deleted_is_told_with_its_seqs_and_nothing_else_is(tmp_path: Path) -> None:
    one = bounded(tmp_path, drop_oldest=True)
    before = time.time()
    fill(one, 600)
    found = spools.read(one.directory)
    (missing,) = found.damage
    # Earlier gaps may have gone with what they told of; the last one tells of everything.
    last = found.bodies("gap")[-1]
    assert (last["first_seq"], last["last_seq"]) == (1, missing.last)
    assert (last["count"], last["reason"]) == (missing.last, "cap")
    assert all(before - 1 <= body["first"] <= body["last"] for body in found.bodies("gap"))


@pytest.mark.promise("G11")
def test_a_segment_whose_gap_cannot_be_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bounded(tmp_path, drop_oldest=True)
    fill(one, 60)
    segments = Reader(one.directory).segments()

    def refuse(*_: object) -> int:
        raise SpoolUnavailable("disk-full", "no")

    monkeypatch.setattr(one, "_used", lambda: 10 * CAP)
    with monkeypatch.context() as patched:
        patched.setattr(one, "append", refuse)
        with pytest.raises(SpoolUnavailable):
            one.maintain()
    assert Reader(one.directory).segments()[: len(segments)] == segments
    with pytest.raises(SpoolUnavailable, match="cap"):
        one.append("step", spools.body(1))


@pytest.mark.promise("G11")
@pytest.mark.parametrize("drop_oldest", [False, True])
def test_a_full_root_stops_every_spool_until_the_file_is_gone(
    tmp_path: Path, drop_oldest: bool
) -> None:
    one = bounded(tmp_path, drop_oldest=drop_oldest)
    assert fill(one, 20) == list(range(1, 21))
    (tmp_path / fmt.ROOT_FULL_NAME).touch()
    one.maintain()
    with pytest.raises(SpoolUnavailable, match="root-cap"):
        one.append("step", spools.body(1))
    assert numbers(one.directory) == list(range(1, 21))
    (tmp_path / fmt.ROOT_FULL_NAME).unlink()
    one.maintain()
    assert fill(one, 1, first=21) == [21]


@pytest.mark.promise("G11")
def test_a_service_that_died_stops_nobody_for_long(tmp_path: Path) -> None:
    one = bounded(tmp_path)
    marker = tmp_path / fmt.ROOT_FULL_NAME
    marker.touch()
    stale = time.time() - fmt.ROOT_FULL_SECONDS - 1
    os.utime(marker, (stale, stale))
    one.maintain()
    assert fill(one, 1) == [1]


@pytest.mark.promise("G11")
def test_the_recorder_stays_in_its_spool_counts_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools.settle(monkeypatch, tmp_path)
    mine = Recorder()
    assert mine.record("step", spools.step(0))
    marker = tmp_path / fmt.ROOT_FULL_NAME
    marker.touch()
    mine._maintain()
    assert not any(mine.record("step", spools.step(number)) for number in range(1, 6))
    marker.unlink()
    mine._maintain()
    assert mine.record("step", spools.step(6))
    mine.shutdown()
    (directory,) = spools.spools_below(tmp_path)
    (gap,) = spools.read_whole(directory).bodies("gap")
    assert (gap["reason"], gap["count"]) == ("root-cap", 5)
    assert "first_seq" not in gap
    assert mine.dropped == {"root-cap": 5}


@pytest.mark.promise("G11")
def test_a_process_that_ends_at_its_limit_still_says_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools.settle(monkeypatch, tmp_path)
    monkeypatch.setattr("spooler.recorder._RETRY_SECONDS", 1000.0)
    mine = Recorder()
    mine.record("step", spools.step(0))
    (tmp_path / fmt.ROOT_FULL_NAME).touch()
    mine._maintain()
    assert not any(mine.record("step", spools.step(number)) for number in range(1, 4))
    mine.shutdown()
    (directory,) = spools.spools_below(tmp_path)
    assert [stored.kind for stored in spools.read_whole(directory).records] == [
        "step",
        "gap",
        "exit",
    ]


def test_a_limit_in_which_nothing_fits_is_raised_and_an_unknown_policy_is_the_default() -> None:
    settings = config.from_environ(
        {"PRIMUS_LENS_SPOOL_MAX_BYTES": "1", "PRIMUS_LENS_SPOOL_WHEN_FULL": "explode"}
    )
    assert settings.max_bytes == 1024 * 1024
    assert not settings.drop_oldest

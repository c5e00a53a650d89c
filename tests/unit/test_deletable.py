"""Ages that no jump of a clock changes, and no look at a spool in which nothing has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipper.retention.deletable import DeletableCache, DeliveryProgress, FileAges
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import ALIVE, KILLED, Clock

DAY = 86400.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return spools.fill(tmp_path, 9, segment_records=4)[0]


def written(directory: Path, wall: float) -> None:
    for path in directory.glob("*.sqlite"):
        os.utime(path, (wall, wall))


@pytest.mark.promise("G14")
@pytest.mark.parametrize("jump", [-10 * DAY, 10 * DAY])
def test_a_segment_ages_with_time_and_not_with_the_clock(directory: Path, jump: float) -> None:
    clock, wall = Clock(), [1.7e9]
    written(directory, 1.7e9 - 60)
    ages, reader = FileAges(clock, lambda: wall[0]), Reader(directory)
    assert ages.of(reader, 1) == 60
    wall[0] += jump
    clock.pass_by(30)
    assert ages.of(reader, 1) == 90


@pytest.mark.promise("G14")
def test_one_that_seems_to_come_from_the_future_ages_from_now_on(directory: Path) -> None:
    """Written before a jump back, first seen after it: without this nothing would ever be old."""
    clock = Clock()
    written(directory, 1.7e9 + 10 * DAY)
    ages, reader = FileAges(clock, lambda: 1.7e9), Reader(directory)
    assert ages.of(reader, 1) == 0
    clock.pass_by(3600)
    assert ages.of(reader, 1) == 3600


def test_writing_makes_young_again(directory: Path) -> None:
    clock = Clock()
    written(directory, 1.7e9)
    ages, reader = FileAges(clock, lambda: 1.7e9 + 100), Reader(directory)
    assert ages.of(reader, 1) == 100
    written(directory, 1.7e9 + 90)
    assert ages.of(reader, 1) == 10


def test_a_spool_is_looked_at_when_its_standing_or_its_folder_changes(directory: Path) -> None:
    delivered, reader = DeletableCache(Clock()), Reader(directory)
    standing = DeliveryProgress(through=3, ended=False)
    assert delivered.has_changed(reader, standing)
    assert not delivered.has_changed(reader, standing)
    further = DeliveryProgress(through=5, ended=False)
    assert delivered.has_changed(reader, further)
    reader.delete_segment(1)
    assert delivered.has_changed(reader, further)
    assert not delivered.has_changed(reader, further)
    delivered.invalidate(reader.spool)
    assert delivered.has_changed(reader, further)


def test_of_a_spool_that_is_written_only_its_last_segment_may_grow_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all before it is delivered, another step has left nothing to be tidied."""
    alive = [True]
    monkeypatch.setattr(Reader, "liveness", lambda _: ALIVE if alive[0] else KILLED)
    directory, writer = spools.fill(tmp_path, 6, close=False, segment_records=4)
    delivered, reader = DeletableCache(Clock()), Reader(directory)

    def looks(through: int) -> bool:
        standing = DeliveryProgress(through=through, ended=False)
        changed = delivered.has_changed(reader, standing)
        if changed:
            delivered.refresh(reader, standing, retained=(), save=True)
        return changed

    def found() -> list[int | None]:
        return [kept.number for kept in delivered.segments(reader.spool)]

    assert (looks(2), looks(3), found()) == (True, True, [])
    assert (looks(4), found()) == (True, [1])
    assert not looks(6)
    writer.append("step", spools.body(7))
    assert not looks(7)
    for number in (8, 9):
        writer.append("step", spools.body(number))
        writer.maintain()
    assert (looks(9), found()) == (True, [1, 2])
    writer.append("step", spools.body(10))
    assert not looks(10)
    alive[0] = False
    assert looks(10)


def test_what_was_found_grows_older_without_another_look(directory: Path) -> None:
    clock = Clock()
    written(directory, 1.7e9)
    delivered, reader = DeletableCache(clock, lambda: 1.7e9 + 10), Reader(directory)
    delivered.refresh(reader, DeliveryProgress(through=5, ended=False), retained=(), save=True)
    (kept,) = delivered.segments(reader.spool)
    assert (kept.number, kept.age) == (1, 10)
    clock.pass_by(7)
    assert delivered.segments(reader.spool)[0].age == 17
    delivered.refresh(reader, DeliveryProgress(through=5, ended=False), retained={1}, save=True)
    assert delivered.segments(reader.spool) == []


def test_a_spool_that_has_ended_goes_whole_unless_something_is_left(directory: Path) -> None:
    delivered, reader = DeletableCache(Clock()), Reader(directory)
    for standing, staying, numbers in (
        (DeliveryProgress(through=9, ended=True), (), [None]),
        (DeliveryProgress(through=9, ended=False), (), [1, 2]),
        (DeliveryProgress(through=9, ended=True), (2,), [1]),
        (DeliveryProgress(through=8, ended=True), (), [1, 2]),
    ):
        delivered.refresh(reader, standing, retained=staying, save=True)
        assert [kept.number for kept in delivered.segments(reader.spool)] == numbers

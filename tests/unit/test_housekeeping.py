"""Housekeeping runs beside its owner, ends in time, and hands over what goes wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shipper import service as service_module
from shipper.retention import cleaner
from shipper.service import Housekeeping, Service, ship_once
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import Clock, config, goodbye, spool, step

HOUR = 3600.0


def test_it_works_at_once_when_it_is_woken_and_ends_with_the_last() -> None:
    rounds, done = threading.Semaphore(0), threading.Event()

    def work() -> float:
        rounds.release()
        return HOUR

    house = Housekeeping(work, lambda: None)
    house.start()
    for _ in range(3):
        assert rounds.acquire(timeout=spools.PATIENCE_SECONDS)
        house.wake()
    assert house.stop(done.set, within=spools.PATIENCE_SECONDS)
    assert done.is_set()
    house.check()


def test_an_end_that_comes_as_it_wakes_is_not_slept_over(monkeypatch: pytest.MonkeyPatch) -> None:
    house, ended = Housekeeping(lambda: HOUR, lambda: None), threading.Event()
    clear = house._woken.clear

    def stopped() -> None:
        house._last = ended.set  # as `stop` does on its thread
        house._woken.set()
        clear()

    monkeypatch.setattr(house._woken, "clear", stopped)
    house.wake()
    house.start()
    assert ended.wait(spools.PATIENCE_SECONDS)


def test_one_that_hangs_is_waited_for_no_longer_than_asked() -> None:
    begun, release = threading.Event(), threading.Event()

    def work() -> float:
        begun.set()
        release.wait(spools.PATIENCE_SECONDS)
        return HOUR

    house = Housekeeping(work, lambda: None)
    house.start()
    assert begun.wait(spools.PATIENCE_SECONDS)
    assert not house.stop(lambda: None, within=0.01)
    release.set()
    assert house.stop(lambda: None, within=spools.PATIENCE_SECONDS)


def test_what_it_raises_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spool").mkdir()
    service = Service(config(tmp_path, processor_url="http://127.0.0.1:9/v1"))

    def broken() -> None:
        raise RuntimeError("an internal error")

    monkeypatch.setattr(service.app.scanner, "scan_if_due", broken)
    with pytest.raises(RuntimeError, match="an internal error"):
        service.run()


@pytest.mark.promise("G15")
def test_once_says_that_a_walk_has_not_come_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool(tmp_path / "spool", [step(1), goodbye()])
    release = threading.Event()
    identity = Reader.identity

    def stuck(reader: Reader) -> Identity:
        release.wait(spools.PATIENCE_SECONDS)
        return identity(reader)

    monkeypatch.setattr(Reader, "identity", stuck)
    monkeypatch.setattr(service_module, "STOP_SECONDS", 0.1)
    before = set(threading.enumerate())
    pending = ship_once(config(tmp_path, processor_url="http://127.0.0.1:9/v1"), timeout=0.2)
    assert pending == [f"{tmp_path / 'spool'}: not scanned to its end, perhaps more spools"]
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(spools.PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.mark.promise("G15")
def test_a_spool_that_takes_long_to_tidy_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, _ = spool(
        tmp_path / "spool", [step(1), goodbye()], who=spools.identity(spools.spool_id(1))
    )
    quick, _ = spool(
        tmp_path / "spool", [step(1), goodbye()], who=spools.identity(spools.spool_id(2))
    )
    service = Service(config(tmp_path, processor_url="http://127.0.0.1:9/v1"))
    service.app.scanner.scan_if_due()
    clock, looked = Clock(), list[Path]()
    monkeypatch.setattr(cleaner.time, "monotonic", clock)
    damaged = Reader.damaged

    def look(reader: Reader) -> dict[int, str]:
        looked.append(reader.directory)
        clock.pass_by(2 * cleaner.REFRESH_SECONDS if reader.directory == slow else 0.1)
        return damaged(reader)

    monkeypatch.setattr(Reader, "damaged", look)
    service.app.clean()
    assert sorted(looked) == [slow, quick]
    for directory in (slow, quick):
        service.app.cleaner._deletable.invalidate(directory.name)
        service.app.cleaner.mark_dirty(service.app.spools[directory.name].queues[0])
    service.app.clean()
    assert looked[2:] == [quick]
    clock.pass_by(4 * 2 * cleaner.REFRESH_SECONDS)
    service.app.clean()
    assert looked[3:] == [slow]
    service.app.ledger.close()

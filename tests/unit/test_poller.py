"""Only a spool that has changed wakes anybody, and a writer that is gone wakes once."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from shipper.discovery.poller import ENDED_SECONDS, SpoolPoller
from tests.kit import spools
from tests.kit.shipping import Clock, OwnedReader
from tests.kit.system_calls import between, traced

FLUSH = 5.0


class Setup:
    """Two spools, felt by a poller without a thread."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.woken: list[str] = []
        self.poller = SpoolPoller(self.woken.extend, self.clock)
        self.writers = [
            spools.writer(root, spool=spools.spool_id(salt), segment_records=4) for salt in (1, 2)
        ]
        self.readers = [OwnedReader(writer.directory) for writer in self.writers]
        for reader in self.readers:
            self.poller.add(reader, FLUSH)
        for _ in range(10):  # until they are no news themselves
            self.poller.poll()
            self.clock.pass_by(FLUSH)
        self.poller.poll()
        self.woken.clear()

    def poll(self) -> list[str]:
        self.clock.pass_by(FLUSH)
        self.poller.poll()
        woken, self.woken[:] = list(self.woken), []
        return woken


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_a_spool_wakes_when_it_has_something_new_and_not_otherwise(setup: Setup) -> None:
    first = setup.readers[0].spool
    for number in range(1, 12):
        assert setup.poll() == []
        setup.writers[0].append("step", spools.body(number))
        assert setup.poll() == [first], number
        setup.writers[0].maintain()  # rotates and seals now and then
        assert set(setup.poll()) <= {first}


def test_a_writer_that_is_gone_wakes_once(setup: Setup) -> None:
    setup.readers[1].owned = False
    assert setup.poll() == [setup.readers[1].spool]
    assert [setup.poll() for _ in range(20)] == [[]] * 20


def test_new_data_in_a_spool_that_was_called_ended_wakes(setup: Setup) -> None:
    setup.readers[1].owned = False
    for _ in range(50):  # until it is felt most rarely
        setup.poll()
    setup.writers[1].append("step", spools.body(1))
    woken = [setup.poll() for _ in range(int(ENDED_SECONDS / FLUSH) + 1)]
    assert woken.count([setup.readers[1].spool]) == 1
    setup.readers[1].owned = True
    setup.writers[1].append("step", spools.body(2))
    woken = [setup.poll() for _ in range(3)]
    assert woken.count([setup.readers[1].spool]) == 1, "it is felt as often as before"


def test_a_spool_that_has_ended_is_felt_ever_more_rarely(setup: Setup) -> None:
    setup.poller = SpoolPoller(setup.woken.extend, setup.clock)
    setup.readers[0].owned = False
    setup.poller.add(setup.readers[0], FLUSH)
    waits = []
    for _ in range(12):
        waits.append(setup.poller.poll())
        setup.clock.pass_by(waits[-1])
    assert waits == sorted(waits)
    assert waits[-1] == ENDED_SECONDS


def test_a_spool_that_is_deleted_is_felt_no_more(setup: Setup) -> None:
    setup.readers[0].owned = setup.readers[1].owned = False
    setup.poll()
    for reader in setup.readers:
        shutil.rmtree(reader.directory)
    setup.poller.keep(())
    setup.clock.pass_by(ENDED_SECONDS)
    setup.poller.poll()
    assert setup.poller.poll() == float("inf")


def test_each_spool_is_felt_once_in_its_interval(setup: Setup) -> None:
    setup.clock.pass_by(1.0)
    assert setup.poller.poll() == pytest.approx(FLUSH - 1.0)
    setup.writers[0].append("step", spools.body(1))
    setup.poller.poll()
    assert setup.woken == []


def test_a_folder_that_vanished_wakes_nobody(setup: Setup, tmp_path: Path) -> None:
    setup.readers[0].directory = tmp_path / "nothing"
    setup.poller.poll()
    setup.poll()
    assert setup.poll() == []


def test_a_new_spool_is_felt_more_often_at_first(tmp_path: Path) -> None:
    clock, woken = Clock(), list[str]()
    poller = SpoolPoller(woken.extend, clock)
    writer = spools.writer(tmp_path)
    poller.add(OwnedReader(writer.directory), FLUSH)
    waits = []
    for number in range(6):
        waits.append(poller.poll())
        writer.append("step", spools.body(number + 1))
        clock.pass_by(waits[-1])
    assert waits[:3] == [0.25, 0.5, 1.0]
    assert max(waits) == waits[-1] == FLUSH
    assert len(woken) == len(waits)


def test_an_end_that_comes_as_it_wakes_is_not_slept_over(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = SpoolPoller(lambda _: None, Clock())
    clear = poller._changed.clear

    def stopped() -> None:
        poller.stop()
        clear()

    monkeypatch.setattr(poller._changed, "clear", stopped)
    poller._changed.set()
    poller.start()
    poller._thread.join(spools.PATIENCE_SECONDS)
    assert not poller._thread.is_alive()


@pytest.mark.parametrize("count", [1, 7])
def test_a_sleeping_spool_costs_five_system_calls(tmp_path: Path, count: int) -> None:
    """Its folder and its log are looked at once each, and its owner is asked for the lock."""
    log, _ = traced(
        "import os, pathlib; from tests.kit import shipping, spools\n"
        "from shipper.discovery.poller import SpoolPoller\n"
        "from spooler.spool.reader import Reader\n"
        f"root = pathlib.Path({str(tmp_path)!r})\n"
        f"alive = [spools.writer(root, spool=spools.spool_id(n)) for n in range({count})]\n"
        "for one in alive: one.append('step', spools.body(1))\n"
        "clock, woken = shipping.Clock(), []\n"
        "poller = SpoolPoller(woken.extend, clock)\n"
        f"for one in alive: poller.add(Reader(one.directory), {FLUSH})\n"
        f"for _ in range(10): poller.poll(); clock.pass_by({FLUSH})\n"
        "woken.clear(); os.write(2, b'begin')\n"
        "poller.poll()\n"
        "os.write(2, b'end'); assert not woken\n",
        tmp_path,
        calls="write,%file,%desc",
    )
    calls = Counter(re.sub(r".*stat.*", "stat", call) for call in between(log, "begin", "end"))
    assert calls == {"stat": 2 * count, "openat": count, "fcntl": count, "close": count}

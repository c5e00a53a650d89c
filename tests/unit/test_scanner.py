"""Spools are taken in as found, hundreds at once too; bad ones get a part of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shipper.discovery.scanner import MOST_AT_ONCE, TENANT_SECONDS, SpoolScanner
from shipper.ledger.ledger import Ledger
from shipper.retention.cleaner import TrackedSpool
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import config

MANY = 2 * MOST_AT_ONCE + 50
RESCAN = 60.0


class Walker:
    """Walks of a root, on a clock that goes on while a bad spool is looked at."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.seconds = 0.01  # what a look at a bad one takes
        self.judged: list[Path] = []
        self.at_each: Callable[[], None] = lambda: None
        self.spools: dict[str, TrackedSpool] = {}
        self.config = config(folder, rescan_interval=RESCAN)
        self.config.spool.mkdir()
        self.ledger = Ledger(self.config.state)
        self.scanner = SpoolScanner(
            config=self.config,
            ledger=self.ledger,
            shipping=self,
            quarantine=self._judge,
            now=lambda: self.now,
        )

    def add_spool(self, reader: Reader, identity: Identity) -> None:
        self.spools[identity.spool] = TrackedSpool(reader=reader, identity=identity, queues=())

    def remove_spool(self, spool: str) -> bool:
        return bool(self.spools.pop(spool))

    def _judge(self, reader: Reader, error: SpoolError) -> bool:
        self.now += self.seconds
        self.judged.append(reader.directory)
        self.at_each()
        return False


def bad_spool(root: Path, salt: int) -> Path:
    folder = root / "node_0" / spools.spool_id(salt)
    folder.mkdir(parents=True)
    (folder / "00000001.sqlite").write_bytes(b"no database" * 100)
    return folder


@pytest.fixture
def walker(tmp_path: Path) -> Iterator[Walker]:
    one = Walker(tmp_path)
    yield one
    one.ledger.close()


def test_hundreds_of_spools_are_taken_in_without_a_rest(walker: Walker) -> None:
    for salt in range(MANY):
        spools.writer(walker.config.spool, spool=spools.spool_id(salt)).close()
    walks = 0
    while len(walker.spools) < MANY:
        assert walker.scanner.seconds <= 0
        walker.scanner.scan_if_due()
        walks += 1
    assert walks == 3
    assert walker.scanner.is_done
    assert walker.scanner.seconds > RESCAN / 2


def test_between_walks_of_hundreds_that_cannot_be_read_there_is_a_rest(walker: Walker) -> None:
    for salt in range(MANY):
        bad_spool(walker.config.spool, salt)
    began = walker.now
    walker.scanner.scan_if_due()
    took = walker.now - began
    assert not walker.scanner.is_done
    assert walker.scanner.seconds == pytest.approx(3 * took)
    while not walker.scanner.is_done:
        walker.now += max(0.0, walker.scanner.seconds)
        walker.scanner.scan_if_due()
    assert len(walker.scanner.unreadable) == MANY
    assert not walker.spools


@pytest.mark.promise("G15")
def test_a_tenant_whose_spools_take_long_is_left_for_the_next_walk(walker: Walker) -> None:
    """Wall time counts: it may be waiting. Each walk goes on where the last one has ended."""
    walker.seconds = TENANT_SECONDS * 0.6
    slow = [bad_spool(walker.config.spool / "a", salt) for salt in range(6)]
    for number, folder in enumerate("bcd"):
        spools.writer(walker.config.spool / folder, spool=spools.spool_id(10 + number)).close()
    walker.scanner.scan_if_due()
    assert len(walker.spools) == 3
    assert list(walker.scanner.unreadable) == [str(one) for one in slow[:2]]
    for walks in (2, 3):
        walker.now += max(0.0, walker.scanner.seconds)
        walker.scanner.scan_if_due()
        assert len(walker.scanner.unreadable) == 2 * walks
    assert walker.judged == slow


def test_it_is_not_done_amid_a_walk(walker: Walker) -> None:
    amid = []
    walker.at_each = lambda: amid.append(walker.scanner.is_done)
    bad_spool(walker.config.spool, 1)
    walker.scanner.scan_if_due()
    assert amid == [False]
    assert walker.scanner.is_done

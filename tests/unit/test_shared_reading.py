"""What one sink's reader found at the end of a spool is given to the others, and never too long."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shipper.delivery.contents import Contents
from shipper.delivery.shared import KEPT_SECONDS, Recent, SharedReader
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import Clock


class Watched:
    """A living spool, two readers of it, and after which positions they have really read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive = True
        self.read: list[int] = []
        monkeypatch.setattr(Reader, "is_owned", lambda _: self.alive)
        really = Reader.read
        monkeypatch.setattr(
            Reader, "read", lambda one, after, limit: self._note(really(one, after, limit), after)
        )
        self.directory, self.writer = spools.fill(root, 4, close=False)
        self.clock = Clock()
        self.recent = Recent(self.clock)
        self.contents = Contents()
        lock = threading.Lock()
        self.one, self.other = (
            SharedReader(
                self.directory,
                self.directory,
                recent=self.recent,
                contents=self.contents,
                lock=lock,
            )
            for _ in range(2)
        )

    def _note(self, chunk: object, after: int) -> object:
        self.read.append(after)
        return chunk

    def append(self, number: int) -> None:
        self.writer.append("step", spools.body(number))


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def test_who_comes_a_moment_later_is_given_what_he_lacks(spool: Watched) -> None:
    first = spool.one.read(0, 100)
    assert [stored.seq for stored in first.records] == [1, 2, 3, 4]
    later = spool.other.read(2, 100)
    assert [stored.seq for stored in later.records] == [3, 4]
    assert (later.through, later.at_end, spool.read) == (4, True, [0])


def test_after_news_or_a_while_it_is_read_again(spool: Watched) -> None:
    spool.one.read(0, 100)
    spool.append(5)
    spool.recent.renew(spool.directory.name)
    assert spool.other.read(0, 100).through == 5
    spool.append(6)
    spool.clock.pass_by(KEPT_SECONDS)
    assert spool.one.read(0, 100).through == 6
    assert spool.read == [0, 0, 0]


def test_news_while_it_is_being_read_count(spool: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Felt after the reader had passed the place: what it found is its own only."""
    really = Reader.read

    def overtaken(one: Reader, after: int, limit: int) -> object:
        chunk = really(one, after, limit)
        spool.append(5)
        spool.recent.renew(spool.directory.name)
        return chunk

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "read", overtaken)
        assert spool.one.read(0, 100).through == 4
    assert spool.other.read(0, 100).through == 5


def test_the_last_word_is_everybodys_own(spool: Watched) -> None:
    spool.one.read(0, 100)
    spool.append(5)
    spool.alive = False
    assert spool.other.read(0, 100).through == 5


def test_what_was_asked_otherwise_is_read(spool: Watched) -> None:
    spool.one.read(2, 100)
    assert [stored.seq for stored in spool.other.read(1, 100).records] == [2, 3, 4]
    assert [stored.seq for stored in spool.other.read(2, 2).records] == [3, 4]
    assert not spool.other.read(1, 2).at_end
    assert spool.read == [2, 1, 2, 1]


def test_what_is_kept_is_bounded(spool: Watched) -> None:
    """Spools that are read within a moment do not add up, and old readings go."""
    chunk = spool.one.read(0, 100)
    large = chunk.records[0]._replace(body=bytes(1024 * 1024))
    for number in range(40):
        name = f"spool {number}"
        assert spool.recent.find(name, 0, 100) is None
        spool.recent.keep(name, 0, type(chunk)(records=(large,), damage=(), through=1, at_end=True))
    kept = [n for n in range(40) if spool.recent.find(f"spool {n}", 0, 100) is not None]
    assert kept == list(range(32, 40))

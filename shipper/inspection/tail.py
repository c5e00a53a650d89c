"""Records of many spools as they are written: the last ones there are, then the ones that come."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shipper.discovery.layout import find_spools
from shipper.discovery.root_watcher import Watch
from shipper.inspection.record_line import Seen
from spooler.errors import BodyUnreadable, SpoolError
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader, Stored

_READ_RECORDS = 1000
_BACK_RECORDS = 256  # looked at first when the last ones are wanted; more when they do not do
# The kernel tells of every write; the files are looked at this often all the same, in seconds.
_LOOK_SECONDS = 1.0
# Writes that come together are read together.
_REST_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which records: every condition that is given must hold; `run` may be a beginning."""

    kinds: tuple[str, ...] = ()
    run: str = ""
    ranks: tuple[int, ...] = ()
    workload: str = ""

    def takes_from(self, identity: Identity) -> bool:
        """Whether a spool can hold any."""
        if self.ranks and identity.rank not in self.ranks:
            return False
        return self.workload in ("", identity.workload_uid)

    def take(self, identity: Identity, stored: Stored) -> Seen | None:
        """The record, if it is one of them."""
        if self.kinds and stored.kind not in self.kinds:
            return None
        try:
            body = codec.unpack(stored.body)
        except BodyUnreadable:
            body = {}
        if self.run and not str(body.get("run", "")).startswith(self.run):
            return None
        return Seen(identity=identity, stored=stored, body=body)


@dataclass(kw_only=True)
class _Spool:
    reader: Reader
    identity: Identity
    position: int
    alive: bool
    goodbye: bool = False
    unread: bool = True  # whatever the files' sizes say


@dataclass(kw_only=True)
class Follower:
    """Follows every spool at or below `places`.

    `trouble` collects what could not be read, for each spool once, and which process has gone
    without a goodbye; the caller empties it.
    """

    places: Sequence[Path]
    wanted: Wanted
    trouble: list[str] = field(default_factory=list)
    _spools: dict[Path, _Spool] = field(default_factory=dict)
    _passed: set[Path] = field(default_factory=set)  # not wanted
    _refused: dict[Path, str] = field(default_factory=dict)

    @property
    def spools(self) -> int:
        """How many spools there are, wanted or not."""
        return len(self._spools) + len(self._passed) + len(self._refused)

    def last(self, count: int) -> list[Seen]:
        """The last `count` wanted records of all spools there are, oldest first."""
        self._find(beginning=False)
        found = [self._last_of(spool, count) for spool in self._spools.values()]
        return list(heapq.merge(*found, key=_by_time))[-count:] if count else []

    def new(self) -> Iterator[Seen]:
        """What has come since: of each spool in its order, of all by their time."""
        while True:
            chunks = [self._more(spool) for spool in list(self._spools.values())]
            yield from heapq.merge(*(seen for seen, _ in chunks), key=_by_time)
            if not any(more for _, more in chunks):
                return

    def look_around(self) -> None:
        """Find new spools, forget deleted ones, notice processes that have gone."""
        self._find(beginning=True)
        for directory, spool in list(self._spools.items()):
            if not directory.is_dir():
                del self._spools[directory]
            elif spool.alive and not spool.reader.is_owned():
                spool.alive = False
                self._last_words(spool)

    def _last_words(self, spool: _Spool) -> None:
        # What it wrote at the very end may not have been read yet.
        self._between(spool, spool.position, spool.reader.last_seq())
        if not spool.goodbye and spool.reader.is_unclean() is not False:
            self.trouble.append(f"{spool.reader.directory}: its process has gone without a goodbye")

    def _find(self, *, beginning: bool) -> None:
        for place in self.places:
            single = fmt.is_spool_id(place.resolve().name)
            for directory in [place] if single else find_spools(place):
                if directory not in self._spools and directory not in self._passed:
                    self._take_in(directory, beginning=beginning)

    def _take_in(self, directory: Path, *, beginning: bool) -> None:
        reader = Reader(directory)
        if not reader.segments():
            return  # just being made, or delivered as a whole
        try:
            identity = reader.identity()
            position = 0 if beginning else reader.last_seq()
        except (SpoolError, OSError) as error:
            self._refuse(directory, error)
            return
        self._refused.pop(directory, None)
        if not self.wanted.takes_from(identity):
            self._passed.add(directory)
            return
        alive = reader.is_owned()
        self._spools[directory] = _Spool(
            reader=reader, identity=identity, position=position, alive=alive
        )

    def _refuse(self, directory: Path, error: Exception) -> None:
        if self._refused.get(directory) != str(error):
            self._refused[directory] = str(error)
            self.trouble.append(f"{directory}: {error}")

    def _last_of(self, spool: _Spool, count: int) -> list[Seen]:
        """The last `count` up to the position, found by looking back ever further."""
        first = spool.reader.first_seq()
        back, end, found = max(_BACK_RECORDS, 2 * count), spool.position, list[Seen]()
        while count and first and end >= first and len(found) < count:
            begin = max(end - back, 0)
            found = self._between(spool, begin, end) + found
            end, back = begin, back * 2
        return found[-count:] if count else []

    def _between(self, spool: _Spool, after: int, last: int) -> list[Seen]:
        """What is wanted of the records beyond `after`, to `last`."""
        found: list[Seen] = []
        while after < last:
            try:
                chunk = spool.reader.read(after, min(_READ_RECORDS, last - after))
            except (SpoolError, OSError) as error:
                self._refuse(spool.reader.directory, error)
                break
            for stored in chunk.records:
                if stored.seq <= last:
                    spool.goodbye |= stored.kind == "exit"
                    seen = self.wanted.take(spool.identity, stored)
                    found += [seen] if seen else []
            if chunk.at_end or chunk.through <= after:
                break
            after = chunk.through
        return found

    def _more(self, spool: _Spool) -> tuple[list[Seen], bool]:
        """The next records of a spool, and whether there may be more at once."""
        reader = spool.reader
        if not reader.has_news() and not spool.unread:
            return [], False
        try:
            chunk = reader.read(spool.position, _READ_RECORDS)
        except (SpoolError, OSError) as error:
            spool.unread = True
            self._refuse(reader.directory, error)
            return [], False
        for damage in chunk.damage:
            which = f"records {damage.first} to {damage.last}"
            self.trouble.append(f"{damage.path}: {which} cannot be read ({damage.reason})")
        more = not chunk.at_end and chunk.through > spool.position
        spool.unread = not chunk.at_end
        spool.position = chunk.through
        spool.goodbye |= any(stored.kind == "exit" for stored in chunk.records)
        seen = [self.wanted.take(spool.identity, stored) for stored in chunk.records]
        return [one for one in seen if one], more


def follow(follower: Follower) -> Iterator[Seen | None]:
    """What comes, for ever; None between two looks, for what the caller has to do then."""
    with _bell(follower.places) as bell:
        looked = 0.0
        while True:
            bell.clear()
            if time.monotonic() - looked >= _LOOK_SECONDS:
                follower.look_around()
                looked = time.monotonic()
            yield from follower.new()
            yield None
            bell.wait(_LOOK_SECONDS)
            time.sleep(_REST_SECONDS)


@contextmanager
def _bell(places: Sequence[Path]) -> Iterator[threading.Event]:
    """Rung when anything below the places changes, as far as the kernel tells."""
    bell = threading.Event()
    with ExitStack() as stack:
        for place in places:
            if place.is_dir():
                stack.callback(Watch(place, bell.set, writes=True).stop)
        yield bell


def _by_time(seen: Seen) -> float:
    return seen.time or 0.0

"""Cuts a log into lines and gives the rows in them, piece by piece. Pure.

- A line ends with a line feed, or a carriage return as a progress bar has it. What has no end yet
  waits for the next piece. A longer line than `LINE_LIMIT` is passed over.
- Several processes may print the same step to one file. A step belongs to the one that printed it
  first. Without a sign of who printed it, the same numbers of the same step count once.
- A row without a step that stands in the place of a progress bar, after a carriage return, has the
  step of the next bar: the bar is drawn again below it. Other rows without a step are counted, if
  the log was read from its beginning or an earlier row had one. Otherwise they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from spooler.loglines import LINE_LIMIT, Parser, Row
from spooler.loglines.text import moment, origin, plain

_BAR = re.compile(r"\s{0,8}\d{1,3}%\|[^|]{0,400}\|\s{0,16}(\d{1,18})/(\d{1,18}) \[")
_BAR_MARK = "%|"
_END = re.compile(r"([\r\n])")
_OWNERS = 256  # steps whose origin is known


class Found(NamedTuple):
    """A row with its place in the piece, and what is known about it."""

    end: int  # of its line: how many characters of the piece are read then
    parser: str
    sole_writer: bool
    step: int
    step_given: bool  # else it was counted
    values: dict[str, float]
    time: float | None  # Unix seconds, None if the line has none


@dataclass(kw_only=True)
class LineReader:
    """Reads a log from some place on."""

    parsers: Mapping[str, Parser]
    counts: bool = True  # the log is read from its beginning
    _rest: str = ""  # of a line that has not ended
    _held: tuple[str, Row, float | None] | None = None  # waits for its step
    _drawn: bool = False  # that line takes the place of another one
    _total: int = 0  # of the bar of the training
    _last: dict[str, int] = field(default_factory=dict)  # parser -> its last step
    # Parser and step -> who printed it first, and the names of its values.
    _owners: dict[tuple[str, int], tuple[str, frozenset[str]]] = field(default_factory=dict)

    def copy(self) -> LineReader:
        """A reader that goes on from here on its own."""
        return replace(self, _last=dict(self._last), _owners=dict(self._owners))

    def cut(self) -> None:
        """What follows is not the continuation of what was read."""
        self._rest, self._drawn = "", False

    def feed(self, text: str) -> Iterator[Found]:
        """The rows in the next piece of the log."""
        *parts, rest = _END.split(self._rest + text)
        known = (_BAR_MARK, *(mark for one in self.parsers.values() for mark in one.MARKS))
        marks = re.compile("|".join(map(re.escape, known))).search
        end = -len(self._rest)
        for line, ending in zip(parts[::2], parts[1::2], strict=True):
            end += len(line) + 1
            if marks(line) and len(line) <= LINE_LIMIT:
                yield from self._line(end, line)
            self._drawn = ending == "\r"
        self._rest = rest[: LINE_LIMIT + 1]
        if _BAR_MARK in self._rest:  # as far as it is needed, a bar is there before it ends
            yield from self._bar(len(text), self._rest)

    def _line(self, end: int, line: str) -> Iterator[Found]:
        earlier = max(end - 1, 1)  # for a row above: one of this line has a place of its own
        if self._held is not None and _BAR_MARK in line:
            yield from self._bar(earlier, line)
        for name, parser in self.parsers.items():
            if not any(mark in line for mark in parser.MARKS):
                continue
            clean = plain(line)
            row = parser.parse(clean)
            if row is None or not row.values:
                continue
            time = moment(clean)
            if row.step is not None:
                yield from self._found(end, name, row, time, origin(clean))
                return
            yield from self._release(earlier)
            self._held = name, row, time
            if not self._drawn:
                yield from self._release(end)
            return

    def _found(
        self, end: int, name: str, row: Row, time: float | None, source: str, given: bool = True
    ) -> Iterator[Found]:
        assert row.step is not None
        place, names = (name, row.step), frozenset(row.values)
        owner, known = self._owners.pop(place, (source, frozenset[str]()))
        is_again = owner != source or (not source and known >= names and self._is_last(place))
        self._owners[place] = owner, known | names
        if len(self._owners) > _OWNERS:
            del self._owners[next(iter(self._owners))]
        self._last[name] = row.step
        if not is_again:
            alone = self.parsers[name].SOLE_WRITER
            yield Found(end, name, alone, row.step, given, row.values, time)

    def _is_last(self, place: tuple[str, int]) -> bool:
        return self._last.get(place[0]) == place[1]

    def _bar(self, end: int, line: str) -> Iterator[Found]:
        """Give the row that waits the step of a bar, if that is the bar of the training."""
        bar = _BAR.match(plain(line)) if self._held is not None else None
        if bar is None or self._held is None:
            return
        name, row, time = self._held
        done, total = int(bar[1]), int(bar[2])
        if "loss" in row.values:
            self._total = total
        if total == self._total or not self._total:
            self._held = None
            yield from self._found(end, name, row._replace(step=done), time, "")

    def _release(self, end: int) -> Iterator[Found]:
        """Count the row that waits."""
        if self._held is not None:
            (name, row, time), self._held = self._held, None
            if self.counts or name in self._last:
                step = self._last.get(name, -1) + 1
                yield from self._found(end, name, row._replace(step=step), time, "", False)

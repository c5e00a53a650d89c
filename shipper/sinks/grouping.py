"""From the items of a chunk to batches of one run each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from shipper.sinks import Batch, Plan
from shipper.steps import DueSteps, Rejected, Skipped

_SEQS = attrgetter("seqs")


class Cuttable(Protocol):
    """What one record becomes, or several: `length` parts of `size` units each.

    `text` counts characters of each, `left_out` values without a form in the whole.
    """

    @property
    def seqs(self) -> tuple[int, ...]: ...
    @property
    def run(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def text(self) -> int: ...
    @property
    def left_out(self) -> int: ...
    def items(self) -> Iterable[Any]:
        """Its parts one by one."""

    def part(self, begin: int, end: int) -> Any:
        """Parts `begin` to `end` alone."""


T = TypeVar("T", bound=Cuttable)


class Collected(NamedTuple):
    """What becomes of the records of a chunk."""

    items: list[Any]  # in the order of their first records
    pending: tuple[int, ...]
    rejected: tuple[Rejected, ...]
    skipped: tuple[Skipped, ...]

    def plan(self, batches: Iterable[Batch]) -> Plan:
        """The plan with the batches that the items became."""
        pending, rejected, skipped = self[1:]
        return Plan(batches=tuple(batches), pending=pending, rejected=rejected, skipped=skipped)


def collected(
    items: Sequence[Cuttable],
    due: DueSteps,
    rejected: Sequence[Rejected],
    is_sent: Callable[[Any], object] = attrgetter("size"),
) -> Collected:
    """Sort the items; those that have nothing to send are skipped."""
    full = sorted(filter(is_sent, items), key=_SEQS)
    skipped: dict[int, Skipped] = {}
    if due.skipped:
        taken = {*chain.from_iterable(map(_SEQS, full)), *(one.stored.seq for one in rejected)}
        skipped = {one.seq: one for one in due.skipped if one.seq not in taken}
    for item in items:
        if not is_sent(item):
            skipped |= {one.seq: one for one in nothing_in(item)}
    return Collected(full, due.pending, tuple(rejected), tuple(skipped.values()))


def nothing_in(item: Any) -> Iterator[Skipped]:
    """The records of an item with nothing to send; the first one counts what was left out."""
    for place, seq in enumerate(item.seqs):
        yield Skipped(seq=seq, run=item.run, left_out=0 if place else item.left_out)


def each(items: Iterable[Cuttable]) -> Iterator[Any]:
    """The items, those of blocks one by one."""
    return chain.from_iterable(item.items() for item in items)


def group(items: Iterable[T], *, most: int, most_text: float = float("inf")) -> list[tuple[T, ...]]:
    """Cut items into requests of at most so many units and characters, where one part allows it.

    Each run keeps its own order, and requests come in the order of their first record.
    """
    requests: list[list[T]] = []
    latest: dict[str, list[T]] = {}
    filled: dict[str, tuple[int, int]] = {}
    for item in items:
        at, run, length, size, text = 0, item.run, item.length, item.size, item.text
        while at < length:
            units, characters = filled.get(run, (0, 0))
            room = (most - units) // size if size else units <= most
            if run not in latest or room < 1 or characters + text > most_text:
                latest[run] = []
                requests.append(latest[run])
                units, characters, room = 0, 0, max(1, most // size if size else 1)
            end = min(length, at + room)
            latest[run].append(item.part(at, end))
            filled[run] = units + (end - at) * size, characters + text
            at = end
    return [tuple(one) for one in requests]


def batch_of(items: tuple[T, ...], make: Callable[[tuple[T, ...]], Batch], **counts: int) -> Batch:
    """The batch with these items; `make` makes each of its halves."""
    return Batch(
        run=items[0].run,
        seqs=tuple(sorted(chain.from_iterable(map(_SEQS, items)))),
        payload=items,
        counts=counts,
        split=partial(_halves, items, make) if sum(item.length for item in items) > 1 else None,
    )


def _halves(items: tuple[T, ...], make: Callable[[tuple[T, ...]], Batch]) -> tuple[Batch, Batch]:
    single = tuple(each(items))
    middle = len(single) // 2
    return make(single[:middle]), make(single[middle:])

"""Compares what was logged with what arrived; pure.

Three witnesses, none of which believes another:

- *written*: what the training process reported, one line per `wandb.log` that returned. The line
  leaves the process after the call, so a kill between the two leaves it out: a step may be recorded
  without being written here, never the other way round.
- *recorded*: the records in the spool.
- *delivered*: the rows of the receiver, compared by name and value.

A row belongs to a workload and a step, not to a run. A step that was trained again after the
checkpoint has been merged over the one before, which then stands whole, with its own run id, in
the row's history. So every process is compared with the last state that its own run left, wherever
that stands. Names that only an earlier run logged are still in it after the merge: they are that
run's and are passed over.

Delivery is at least once: records of one request that came again are *duplicated*, which is no
fault. They are counted by the record numbers in the `Lens-Ship-Records` header, as a repetition may
be cut into other requests than the first time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from shipper.receiver.rows import HIDDEN

SINK = "processor"
SUCCESS = 2000

_RECORDS = re.compile(r"(?P<spool>[^/]+)/(?P<sink>[^/]+)/(?P<first>\d+)-(?P<last>\d+)")
_Row = Mapping[str, Any]
# Metrics of the shipper's own, beside what the job logged.
OWN_PREFIX = "lens-ship/"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One `wandb.log`: the data as it was given; `seq` is its record's number, 0 if not known."""

    step: int
    data: Mapping[str, Any]
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """One training process: what it reported, and what its spool holds."""

    name: str
    spool: str
    run: str
    written: tuple[Call, ...]
    recorded: tuple[Call, ...]


@dataclass(frozen=True, kw_only=True)
class Received:
    """What the receiver has: its rows and its requests, as its queries give them."""

    rows: Sequence[_Row]
    requests: Sequence[_Row]


@dataclass(frozen=True, kw_only=True)
class Account:
    """Numbers of steps."""

    written: int = 0
    recorded: int = 0
    delivered: int = 0  # every name and value equal
    duplicated: int = 0  # received more than once
    lost: int = 0  # not at the receiver
    changed: int = 0  # there, but with another name or value
    disordered: int = 0  # stored for the first time after a later step

    @property
    def is_clean(self) -> bool:
        """Whether everything arrived as it was, in its order."""
        return not (self.lost or self.changed or self.disordered)


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What a run left of a step: its values, and the names that another run had left before."""

    values: Mapping[str, Any]
    inherited: frozenset[str]


def account(source: Source, received: Received) -> Account:
    """Count one training process."""
    written, recorded = merged(source.written), merged(source.recorded)
    left = _left_by(source.run, received.rows)
    # Where both know a value, the one that returned to the caller is what has to arrive.
    wanted = {
        step: {**recorded.get(step, {}), **written.get(step, {})}
        for step in written.keys() | recorded.keys()
    }
    lost = sum(step not in left for step in wanted)
    delivered = sum(_is_whole(values, left.get(step)) for step, values in wanted.items())
    return Account(
        written=len(written),
        recorded=len(recorded),
        delivered=delivered,
        duplicated=_duplicated(source, received.requests),
        lost=lost,
        changed=len(wanted) - lost - delivered,
        disordered=_disordered(source, received),
    )


def total(accounts: Iterable[Account]) -> Account:
    """Add up."""
    every = list(accounts)
    return Account(
        **{field.name: sum(getattr(one, field.name) for one in every) for field in fields(Account)}
    )


def merged(calls: Iterable[Call]) -> dict[int, dict[str, Any]]:
    """The values of every step: parts of one step together, nested names joined by a point."""
    steps: dict[int, dict[str, Any]] = {}
    for call in calls:
        steps.setdefault(call.step, {}).update(_flat(call.data))
    return steps


def shared(first: Source, second: Source) -> int:
    """How many steps both processes trained."""
    return len(merged(first.written).keys() & merged(second.written).keys())


def curve(rows: Sequence[_Row], name: str) -> list[tuple[int, float]]:
    """The points (step, value) of one metric, in the order of the steps."""
    points = [
        (row["iteration"], row["performance"][name])
        for row in rows
        if isinstance(row["performance"].get(name), (int, float))
    ]
    return sorted(points)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _states(row: _Row) -> list[_Row]:
    """Every state of a row, the first one first."""
    now = row["performance"]
    return [*now.get("history", ()), now]


def _left_by(run: str, rows: Iterable[_Row]) -> dict[int, _Left]:
    left: dict[int, _Left] = {}
    for row in rows:
        others: set[str] = set()
        for state in _states(row):
            values = {name: value for name, value in state.items() if not _is_hidden(name)}
            if state["run_id"] == run:
                left[row["iteration"]] = _Left(values=values, inherited=frozenset(others))
            else:
                others |= values.keys()
    return left


def _is_hidden(name: str) -> bool:
    """What the receiver or the shipper itself has added, as the mark of a run that was cut off."""
    return name in HIDDEN or name.startswith(OWN_PREFIX)


def _is_whole(wanted: Mapping[str, Any], left: _Left | None) -> bool:
    if left is None:
        return False
    own = {k: v for k, v in left.values.items() if k in wanted or k not in left.inherited}
    return own == wanted


def _arrivals(source: Source, requests: Iterable[_Row]) -> list[Call]:
    """Records of this source in the order in which accepted requests brought them."""
    by_seq = {call.seq: call for call in source.recorded}
    arrived: list[Call] = []
    for request in requests:
        found = _RECORDS.fullmatch(request["lens_ship_records"] or "")
        if found is None or request["code"] != SUCCESS:
            continue
        if (found["spool"], found["sink"]) == (source.spool, SINK):
            numbers = range(int(found["first"]), int(found["last"]) + 1)
            arrived.extend(by_seq[seq] for seq in numbers if seq in by_seq)
    return arrived


def _duplicated(source: Source, requests: Iterable[_Row]) -> int:
    times = Counter(call.seq for call in _arrivals(source, requests))
    return len({call.step for call in source.recorded if times[call.seq] > 1})


def _disordered(source: Source, received: Received) -> int:
    """Between requests their record numbers tell; within one, the ids that new rows were given."""
    arrived = dict.fromkeys(call.seq for call in _arrivals(source, received.requests))
    stored = [
        row["iteration"]
        for row in sorted(received.rows, key=lambda row: row["id"])
        if _states(row)[0]["run_id"] == source.run
    ]
    return max(late(arrived), late(stored))


def late(numbers: Iterable[int]) -> int:
    """How many numbers come after a greater one."""
    behind, highest = 0, -1
    for number in numbers:
        behind += number < highest
        highest = max(highest, number)
    return behind

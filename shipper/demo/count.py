"""Compares what was logged with what arrived; pure.

Three witnesses, none of which believes another:

- *written*: what the training process reported, one line per `wandb.log` that returned. The line
  leaves the process after the call, so a kill between the two leaves it out: a step may be recorded
  without being written here, never the other way round.
- *recorded*: the records in the spool.
- *delivered*: what the dev server has stored, compared by name and value.

The receiver keeps what every run sent. A step that was trained again after the checkpoint is
there once for each run, and every process is compared with what its own run sent.

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

SINK = "processor"
OK = 200

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
    """What the dev server has of a workload: its writes and all requests, as its store has them."""

    writes: Sequence[_Row]
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


def account(source: Source, received: Received) -> Account:
    """Count one training process."""
    written, recorded = merged(source.written), merged(source.recorded)
    sent = _sent_by(source.run, received.writes)
    # Where both know a value, the one that returned to the caller is what has to arrive.
    wanted = {
        step: {**recorded.get(step, {}), **written.get(step, {})}
        for step in written.keys() | recorded.keys()
    }
    lost = sum(step not in sent for step in wanted)
    delivered = sum(sent.get(step) == values for step, values in wanted.items())
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


def curve(writes: Sequence[_Row], name: str) -> list[tuple[int, float]]:
    """The points (step, value) of one metric by step; the last arrival counts."""
    points = {write["step"]: write["data"][name] for write in writes if name in write["data"]}
    return sorted(points.items())


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _sent_by(run: str, writes: Iterable[_Row]) -> dict[int, dict[str, Any]]:
    """The values of every step that a run sent, without the metrics of lens-ship itself."""
    steps: dict[int, dict[str, Any]] = {}
    for write in writes:
        if write["run_id"] == run:
            values = steps.setdefault(write["step"], {})
            values.update({k: v for k, v in write["data"].items() if not k.startswith(OWN_PREFIX)})
    return steps


def _arrivals(source: Source, requests: Iterable[_Row]) -> list[Call]:
    """Records of this source in the order in which accepted requests brought them."""
    by_seq = {call.seq: call for call in source.recorded}
    arrived: list[Call] = []
    for request in requests:
        found = _RECORDS.fullmatch(request["lens_ship_records"] or "")
        if found is None or request["status"] != OK:
            continue
        if (found["spool"], found["sink"]) == (source.spool, SINK):
            numbers = range(int(found["first"]), int(found["last"]) + 1)
            arrived.extend(by_seq[seq] for seq in numbers if seq in by_seq)
    return arrived


def _duplicated(source: Source, requests: Iterable[_Row]) -> int:
    times = Counter(call.seq for call in _arrivals(source, requests))
    return len({call.step for call in source.recorded if times[call.seq] > 1})


def _disordered(source: Source, received: Received) -> int:
    """Between requests their record numbers tell; within one, the order of its first writes."""
    arrived = dict.fromkeys(call.seq for call in _arrivals(source, received.requests))
    stored = dict.fromkeys(w["step"] for w in received.writes if w["run_id"] == source.run)
    return max(late(arrived), late(stored))


def late(numbers: Iterable[int]) -> int:
    """How many numbers come after a greater one."""
    behind, highest = 0, -1
    for number in numbers:
        behind += number < highest
        highest = max(highest, number)
    return behind

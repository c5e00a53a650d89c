"""Compares what was logged with what arrived. Pure.

Three independent witnesses:

- *written*: what the training process printed, one line for each `wandb.log` that returned. The
  line is printed after the call, so a kill between the two leaves it out. A step may be recorded
  without being written, never the other way round.
- *recorded*: the records in the spool.
- *delivered*: what the dev server has stored, compared by name and value.

The dev server keeps what every run sent. A step that was trained again after the checkpoint is
there once for each run, and every process is compared with what its own run sent.

Delivery is at least once: records that arrived again are *duplicated*, which is not a fault. They
are counted by the record numbers in the header `Lens-Ship-Records`, because a repetition may be cut
into other requests than the first time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

SINK = "processor"
OWN_PREFIX = "lens-ship/"  # of metrics that lens-ship itself adds
_OK = 200
_RECORDS = re.compile(r"(?P<spool>[^/]+)/(?P<sink>[^/]+)/(?P<first>\d+)-(?P<last>\d+)")
_Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LogCall:
    """One `wandb.log`: the data as given; `seq` is the number of its record, 0 if unknown."""

    step: int
    data: Mapping[str, Any]
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingProcess:
    """What one training process printed, and what its spool holds."""

    name: str
    spool: str
    run: str
    written: tuple[LogCall, ...]
    recorded: tuple[LogCall, ...]


@dataclass(frozen=True, kw_only=True)
class ReceivedData:
    """The writes of the workload and all requests, in the order of arrival."""

    writes: Sequence[_Row]
    requests: Sequence[_Row]


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """Numbers of steps."""

    written: int = 0
    recorded: int = 0
    delivered: int = 0  # every name and value equal
    duplicated: int = 0  # received more than once
    lost: int = 0  # not at the receiver
    changed: int = 0  # at the receiver with another name or value
    disordered: int = 0  # stored for the first time after a later step

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.changed or self.disordered)


def count_steps(process: TrainingProcess, received: ReceivedData) -> StepCounts:
    written, recorded = merge_calls(process.written), merge_calls(process.recorded)
    sent = _sent_by(process.run, received.writes)
    # Where both know a value, the one that returned to the caller has to arrive.
    wanted = {
        step: {**recorded.get(step, {}), **written.get(step, {})}
        for step in written.keys() | recorded.keys()
    }
    lost = sum(step not in sent for step in wanted)
    delivered = sum(sent.get(step) == values for step, values in wanted.items())
    arrived = _arrivals(process, received.requests)
    times = Counter(call.seq for call in arrived)
    stored = dict.fromkeys(w["step"] for w in received.writes if w["run_id"] == process.run)
    return StepCounts(
        written=len(written),
        recorded=len(recorded),
        delivered=delivered,
        duplicated=len({call.step for call in process.recorded if times[call.seq] > 1}),
        lost=lost,
        changed=len(wanted) - lost - delivered,
        # Record numbers tell the order of requests, writes that within a request.
        disordered=max(_late(dict.fromkeys(call.seq for call in arrived)), _late(stored)),
    )


def total(counts: Iterable[StepCounts]) -> StepCounts:
    every = list(counts)
    names = [field.name for field in fields(StepCounts)]
    return StepCounts(**{name: sum(getattr(one, name) for one in every) for name in names})


def merge_calls(calls: Iterable[LogCall]) -> dict[int, dict[str, Any]]:
    """The values of every step: parts of one step together, nested names joined by a point."""
    steps: dict[int, dict[str, Any]] = {}
    for call in calls:
        steps.setdefault(call.step, {}).update(_flat(call.data))
    return steps


def steps_in_both(first: TrainingProcess, second: TrainingProcess) -> int:
    return len(merge_calls(first.written).keys() & merge_calls(second.written).keys())


def metric_of(writes: Iterable[_Row], name: str) -> dict[int, float]:
    """One metric by step. The last arrival counts."""
    return {write["step"]: write["data"][name] for write in writes if name in write["data"]}


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


def _arrivals(process: TrainingProcess, requests: Iterable[_Row]) -> list[LogCall]:
    """Records of this process in the order in which accepted requests brought them."""
    by_seq = {call.seq: call for call in process.recorded}
    arrived: list[LogCall] = []
    for request in requests:
        found = _RECORDS.fullmatch(request["lens_ship_records"] or "")
        if found is None or request["status"] != _OK:
            continue
        if (found["spool"], found["sink"]) == (process.spool, SINK):
            numbers = range(int(found["first"]), int(found["last"]) + 1)
            arrived.extend(by_seq[seq] for seq in numbers if seq in by_seq)
    return arrived


def _late(numbers: Iterable[int]) -> int:
    """How many numbers come after a greater one."""
    late, highest = 0, -1
    for number in numbers:
        late += number < highest
        highest = max(highest, number)
    return late

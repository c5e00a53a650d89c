"""From records to what an MLflow server is told of one run. Pure.

- A number of a step is a metric with the step and the time at which it was logged. NaN and
  infinities are sent too: MLflow keeps NaN, and the largest double for an infinity.
- A run record begins the run or resumes it, and gives params (the run's config) and tags.
- A finish record gives the status FINISHED or FAILED, an unclean exit KILLED.
- A detection record gives the tag `lens.frameworks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from shipper.sinks import PlanInput
from shipper.sinks.grouping import Collected, collected
from shipper.sinks.mlflow.encode import tags_of_process
from shipper.sinks.values import milliseconds
from shipper.steps import Block, Rejected, Step, collect_steps, unsendable
from spooler.errors import BodyUnreadable
from spooler.records import detection, finish, run
from spooler.spool import codec
from spooler.spool.identity import Identity

KINDS = frozenset({"step", "run", "finish", "gap", "exit", "detection"})
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
_INTEGERS = range(-(2**63), 2**63)


class Metric(NamedTuple):
    """One value of a metric; `name` is the user's, `time` Unix milliseconds."""

    name: str
    value: float
    time: int
    step: int


class RunItem(NamedTuple):
    """What one record, or the records of one step, tell of a run."""

    seqs: tuple[int, ...]
    run: str
    time: int  # Unix milliseconds
    metrics: tuple[Metric, ...] = ()
    begun: run.RunRecord | None = None
    tags: Mapping[str, str] = {}
    status: str = ""
    left_out: int = 0  # values that are not numbers

    @property
    def size(self) -> int:
        """How many metrics there are."""
        return len(self.metrics)

    @property
    def length(self) -> int:
        return 1

    @property
    def text(self) -> int:
        return 0

    def items(self) -> tuple[RunItem]:
        return (self,)

    def part(self, begin: int, end: int) -> RunItem:
        return self


class RunBlock(NamedTuple):
    """The metrics of steps that differ in their numbers alone; `names` have their prefix."""

    block: Block
    names: tuple[str, ...]
    left_out: int = 0
    text: int = 0
    tags: Mapping[str, str] = {}
    begun: run.RunRecord | None = None
    status: str = ""

    @property
    def seqs(self) -> tuple[int, ...]:
        return self.block.seqs

    @property
    def run(self) -> str:
        return self.block.run

    @property
    def time(self) -> int:
        first: float = self.block.rows[0][1]
        return round(first * 1000)

    @property
    def length(self) -> int:
        return len(self.block.rows)

    @property
    def size(self) -> int:
        return len(self.names)

    def part(self, begin: int, end: int) -> RunBlock:
        return self._replace(block=self.block.part(begin, end))

    def items(self) -> Iterator[RunItem]:
        """The same, step by step."""
        for seq, (step, time, *values) in zip(self.seqs, self.block.rows, strict=True):
            at = round(time * 1000)
            named = zip(self.names, values, strict=True)
            metrics = tuple(Metric(name, float(value), at, step) for name, value in named)
            yield RunItem((seq,), self.run, at, metrics)


def collect(chunk: PlanInput) -> Collected:
    """The records of a chunk as items."""
    steps = collect_steps(chunk.records, chunk.deleted, chunk.step_keys, in_blocks=True)
    due = steps.due(ended=chunk.ended, waited=chunk.waited)
    rejected, items = list(steps.rejected), list[RunItem | RunBlock]()
    for one in due.steps:
        if isinstance(one, Block):
            items.append(_of_block(one, chunk.identity))
        elif all(number in _INTEGERS for number, _ in one.rows()):
            items.append(_of_step(one, chunk.identity))
        else:
            problem = f"step {one.step} is no integer of 64 bits"
            rejected += unsendable(one, chunk.records, problem)
    for stored in chunk.records:
        if stored.kind not in _EVENTS:
            continue
        try:
            body = codec.unpack(stored.body)
            items.append(_EVENTS[stored.kind](stored.seq, body, chunk.identity))
        except BodyUnreadable as error:
            if stored.kind != finish.NAME:  # which `collect_steps` has rejected
                rejected.append(Rejected(stored=stored, reason=error.reason, detail=str(error)))
    return collected(items, due, rejected, _is_sent)


def killed(step: Step, identity: Identity) -> RunItem:
    """The end of a run whose process exited uncleanly, at the time of its last step."""
    time = milliseconds(step.time, identity)
    return RunItem((step.last,), step.run, time, status=KILLED)


# --- one record -----------------------------------------------------------------------------------


def _of_step(step: Step, identity: Identity) -> RunItem:
    time = milliseconds(step.time, identity)
    prefix = f"process{identity.pid}/" if step.own_count else ""
    metrics, left_out = [], 0
    for number, data in step.rows():
        for name, value in data.items():
            shown = _number(value)
            if shown is None:
                left_out += 1
            else:
                metrics.append(Metric(prefix + name, shown, time, number))
    return RunItem(step.seqs, step.run, time, tuple(metrics), left_out=left_out)


def _of_block(block: Block, identity: Identity) -> RunBlock:
    """As `_of_step` of each step."""
    prefix = f"process{identity.pid}/" if block.like.own_count else ""
    return RunBlock(block, tuple(prefix + name for name in block.names))


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, dict) and value.get("_type") == "integer":
        # Beyond the range of a float.
        return -math.inf if value.get("negative") else math.inf
    return None


def _of_run(seq: int, body: Mapping[str, Any], identity: Identity) -> RunItem:
    record = run.decode(body)
    time = milliseconds(record.time, identity)
    tags = tags_of_process(identity, record)
    return RunItem(
        (seq,), record.run, time, begun=record, tags=tags, status="" if record.update else RUNNING
    )


def _of_finish(seq: int, body: Mapping[str, Any], identity: Identity) -> RunItem:
    record = finish.decode(body)
    status = FAILED if record.exit_code else FINISHED
    return RunItem((seq,), record.run, milliseconds(record.time, identity), status=status)


def _of_detection(seq: int, body: Mapping[str, Any], identity: Identity) -> RunItem:
    record = detection.decode(body)
    found = record.hints.get("possible_frameworks")
    names = ", ".join(map(str, found)) if isinstance(found, list) else ""
    tags = {"lens.frameworks": names} if names else {}
    return RunItem((seq,), record.run, milliseconds(record.time, identity), tags=tags)


_EVENTS = {run.NAME: _of_run, finish.NAME: _of_finish, detection.NAME: _of_detection}


def _is_sent(item: RunItem | RunBlock) -> bool:
    return bool(item.size or item.tags or item.begun or item.status)

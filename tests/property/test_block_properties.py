"""Steps that are read as a block become the same requests as steps that are decoded one by one."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipper import steps as steps_module
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.mlflow.runs import Run
from shipper.sinks.mlflow.sink import MlflowOptions, MlflowSink
from shipper.sinks.otlp.sink import OtlpOptions, OtlpSink
from shipper.sinks.processor import encode
from shipper.sinks.processor.metrics import MetricsOptions, MetricsSink
from shipper.sinks.prometheus.sink import PrometheusOptions, PrometheusSink
from shipper.steps import collect_steps
from spooler.records import finish, gap, step
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored
from tests.kit.spools import identity

URL = "http://h"
SINKS = {
    "processor": lambda: MetricsSink("one", MetricsOptions(batch_max_steps=17), {}),
    "processor, few bytes": lambda: MetricsSink("one", MetricsOptions(batch_max_bytes=1500), {}),
    "otlp": lambda: OtlpSink("one", OtlpOptions(url=URL, gzip=False, batch_max_points=40), {}),
    "otlp, attribute": lambda: OtlpSink("one", OtlpOptions(url=URL, step="both"), {}),
    "otlp, logs": lambda: OtlpSink("one", OtlpOptions(url=URL, logs=True), {}),
    "prometheus": lambda: PrometheusSink(
        "one", PrometheusOptions(url=URL, batch_max_points=50), {}
    ),
    "mlflow": lambda: MlflowSink("one", MlflowOptions(url=URL, batch_max_metrics=30), {}),
}
NAMES = ["loss", "lr", "train/acc", "train.acc", "a b", "a_b", "step", "step_", "\0", "global_step"]
KINDS = ["float", "int", "constant", "single"]
MORE = [{}, {"step_given": True}, {"inherited": True}, {"sole_writer": True}, {"tracker": "mlflow"}]
ODD = st.sampled_from([None, True, "text", [1], {"a": 1.5}, float("nan"), float("inf"), 10**30])


class Phase(NamedTuple):
    """Steps of one run with the same names, and where one of them is odd."""

    run: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]  # of the value of each name
    count: int
    more: dict[str, Any]  # of `step.encode`
    closed: bool
    first: int
    time: float
    odd: tuple[int, Any] | None
    seed: int


PHASES = st.lists(
    st.builds(
        Phase,
        run=st.sampled_from(["r", "q"]),
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple),
        kinds=st.tuples(*(4 * [st.sampled_from(KINDS)])),
        count=st.integers(1, 40),
        more=st.sampled_from(MORE),
        closed=st.booleans(),
        first=st.sampled_from([0, 100, 65_520, 2**31 - 9, 2**32]),
        time=st.sampled_from([1.7e9, 1.7e9 + 0.0005, 0.0, 1e8, 9e9]),
        odd=st.none() | st.tuples(st.integers(0, 39), ODD),
        seed=st.integers(0, 2**32),
    ),
    max_size=4,
)


def bodies_of(phase: Phase) -> list[bytes]:
    draw = random.Random(phase.seed)
    found = []
    for index in range(phase.count):
        numbers = {
            "float": draw.choice((draw.random(), draw.uniform(-1e300, 1e300), 1e16, 0.0)),
            "int": draw.choice((index, draw.randrange(-40, 70_000))),
            "constant": 3,
            "single": draw.randrange(128),
        }
        kinds = zip(phase.names, phase.kinds, strict=False)
        values: dict[str, Any] = {name: numbers[kind] for name, kind in kinds}
        if phase.odd is not None and phase.odd[0] == index:
            values[phase.names[0]] = phase.odd[1]
        number, time = phase.first + index, phase.time + index * draw.choice((0.0, 1.0))
        body = step.encode(phase.run, number, time, phase.closed, values, **phase.more)
        found.append(codec.pack(body, default=str))
    return found


def records_of(phases: Sequence[Phase], ends: Sequence[int]) -> tuple[Stored, ...]:
    """Records of the phases; after those of `ends` a run finishes, or a gap follows."""
    found: list[tuple[str, bytes]] = []
    for place, phase in enumerate(phases):
        found += ((step.NAME, body) for body in bodies_of(phase))
        if place in ends:
            ending = finish.encode(run=phase.run, time=1.7e9, step=1, exit_code=0)
            found.append((finish.NAME, codec.pack(ending)))
        elif place + 10 in ends:
            lost = gap.encode(time=1.7e9, reason="full", count=3)
            found.append((gap.NAME, codec.pack(lost)))
    return tuple(Stored(seq, kind, body) for seq, (kind, body) in enumerate(found, 1))


def requests(sink: Any, batch: Batch, who: Identity) -> list[bytes]:
    """The bodies of a batch and of its halves, down to single steps."""
    if isinstance(sink, MetricsSink):
        found = [encode.body(batch.payload, who), b"%d" % batch.payload.items]
    elif isinstance(sink, MlflowSink):
        found = list(sink.requests(Run(id="0" * 32), batch.payload))
    else:
        sent = list(sink.requests(batch.payload, who))
        found = [one.body for one in sent]
        found += [b"%d" % one.items for one in sent]
    halves = batch.split() if batch.split is not None else ()
    return found + [body for half in halves for body in requests(sink, half, who)]


def shown(sink: Any, plan: Plan, who: Identity) -> list[Any]:
    batches = [
        (batch.seqs, batch.run, dict(batch.counts), requests(sink, batch, who))
        for batch in plan.batches
    ]
    return [batches, sorted(plan.pending), plan.rejected, sorted(plan.skipped)]


@pytest.mark.promise("G3")
@pytest.mark.parametrize("kind", SINKS)
@settings(deadline=None, max_examples=25)
@given(PHASES, st.sets(st.integers(0, 13)), st.booleans(), st.sampled_from([None, 0, 3]))
def test_a_block_becomes_the_same_requests(
    kind: str, phases: list[Phase], ends: set[int], ended: bool, rank: int | None
) -> None:
    sink, who = SINKS[kind](), identity(rank=rank, pid=77)
    chunk = PlanInput(identity=who, records=records_of(phases, sorted(ends)), ended=ended)
    found = shown(sink, sink.plan(chunk), who)
    with patch.object(steps_module, "LEAST", 10**9):
        assert found == shown(sink, sink.plan(chunk), who)


def usual(count: int, **more: Any) -> tuple[Stored, ...]:
    return tuple(
        Stored(seq, step.NAME, codec.pack(step.encode("r", 1000 + seq, 1.7e9 + seq, **more)))
        for seq in range(1, count + 1)
    )


def blocks_of(records: Sequence[Stored]) -> list[int]:
    """How many steps each block has."""
    return [len(one.seqs) for one in collect_steps(records, in_blocks=True).blocks]


def test_usual_steps_are_a_block() -> None:
    data = {"loss": 0.5, "epoch": 3, "tokens": 70_000}
    assert blocks_of(usual(100, closed=True, data=data)) == [100]
    assert blocks_of(usual(100, closed=False, step_given=True, data=data)) == [99]
    assert blocks_of(usual(100, closed=True, data={**data, "train/global_step": 7})) == [100]


@pytest.mark.parametrize("value", [None, "text", {"a": 1.0}, [1], True])
def test_steps_with_other_values_are_none(value: Any) -> None:
    assert blocks_of(usual(100, closed=True, data={"loss": 0.5, "other": value})) == []


def test_an_odd_number_ends_a_block() -> None:
    records = list(usual(100, closed=True, data={"loss": 0.5}))
    body = records[40].body
    records[40] = records[40]._replace(body=body[:-8] + struct.pack(">d", float("nan")))
    assert blocks_of(records) == [40, 58]


@settings(deadline=None)
@given(st.data())
def test_any_byte_may_be_another(data: st.DataObject) -> None:
    """What was not written by a writer of ours is read as `collect_steps` reads it."""
    records = list(usual(12, closed=True, data={"loss": 0.5, "n": 7}))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(records) - 1))
        body = bytearray(records[place].body)
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        for target in data.draw(st.sampled_from([[place], range(len(records))])):
            records[target] = records[target]._replace(body=bytes(body))
    found, plain = collect_steps(records, in_blocks=True), collect_steps(records)
    steps = list(found.complete)
    for block in found.blocks:
        steps += block.steps()
    steps.sort(key=lambda one: one.seqs)
    assert repr(steps) == repr(list(plain.complete))  # of two NaN, none is the other
    assert repr(found.open) == repr(plain.open)
    assert (found.rejected, found.skipped) == (plain.rejected, plain.skipped)

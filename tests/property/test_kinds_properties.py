"""A sink reads only the records of its kinds and skips the others, and both are counted.

However kinds lie between each other and wherever a chunk ends: each sink gets every record of its
kinds once and in order, and counts all the others as skipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from shipper.delivery import pipeline
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.ledger.ledger import Ledger
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.outcome import Outcome
from spooler.spool import reader as reader_module
from spooler.spool import segment as segment_module
from spooler.spool.identity import Identity
from tests.kit import spools
from tests.kit.shipping import DELIVERED, Clock, OwnedReader, Record, append, config, retry

WHO = spools.identity(workload_uid="w")
KINDS = ["step", "step", "step", "detection", "report", "gap"]


class KindSink:
    """Takes the records of some kinds, one by one; refuses now and then, as drawn."""

    def __init__(self, name: str, kinds: frozenset[str] | None, answers: list[bool]) -> None:
        self.name = name
        self.kinds = kinds
        self.answers = answers
        self.got: list[int] = []

    def plan(self, chunk: PlanInput) -> Plan:
        assert all(self.kinds is None or one.kind in self.kinds for one in chunk.records)
        return Plan(batches=tuple(Batch(seqs=(one.seq,), payload=None) for one in chunk.records))

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        if self.answers and not self.answers.pop():
            return retry()
        self.got.append(batch.first)
        return DELIVERED


def record(kind: str) -> Record:
    told = {"reason": "disk-full", "count": 3, "first": 0.0, "last": 1.0}
    return kind, {"time": 1.0, **(told if kind == "gap" else {})}


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=24),
    later=st.lists(st.sampled_from(KINDS), max_size=8),
    turns=st.lists(st.integers(-1, 2), max_size=30),
    stretch=st.integers(1, 6),
    scanned=st.integers(1, 4),
    answers=st.lists(st.booleans(), max_size=6),
)
def test_each_sink_gets_its_kinds_once_and_skips_the_rest(
    kinds: list[str],
    later: list[str],
    turns: list[int],
    stretch: int,
    scanned: int,
    answers: list[bool],
) -> None:
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(pipeline, "READ_RECORDS", stretch),
        mock.patch.object(reader_module, "SCANNED", scanned),
        mock.patch.object(segment_module, "SCANNED", scanned),
    ):
        settings = config(Path(place))
        settings.spool.mkdir()
        writer = spools.writer(settings.spool, who=WHO, segment_records=5)
        append(writer, [record(kind) for kind in kinds])
        ledger = Ledger(settings.state)
        sinks = [
            KindSink("all", None, list(answers)),
            KindSink("detections", frozenset({"detection"}), list(answers)),
            KindSink("reports", frozenset({"report"}), []),
        ]

        def start() -> list[Pipeline]:
            """As a service that has just started: it knows positions only."""
            pipelines, context = [], DeliveryContext(ledger=ledger, config=settings)
            for sink in sinks:
                reader = OwnedReader(writer.directory)
                pipelines.append(
                    Pipeline(reader=reader, identity=WHO, sink=sink, context=context)  # type: ignore[arg-type]
                )
            return pipelines

        def turn(one: Pipeline, seconds: float) -> bool:
            until = clock.now + seconds
            return one.turn(now=clock, until=until, owned=True, flush_all=False).at_end

        pipelines = start()
        for which in turns:
            if which < 0:
                pipelines = start()
            else:
                turn(pipelines[which], 0.0)
        append(writer, [record(kind) for kind in later])
        clock.pass_by(1.0)
        for one in pipelines:
            while not turn(one, 1e9):
                pass
        writer.close()
        every = [*kinds, *later]
        for sink, one in zip(sinks, pipelines, strict=True):
            taken = sink.kinds or set(KINDS)
            expected = [seq for seq, kind in enumerate(every, 1) if kind in taken]
            assert sink.got == expected
            assert one.position.seq == len(every)
            row = next(r for r in ledger.positions() if r["sink"] == sink.name)
            assert (row["delivered"], row["passed"]) == (len(expected), len(every) - len(expected))
        ledger.close()

"""What a spool has grown by is read once for all sinks, and only those that take it get a turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.delivery.queue import DeliveryQueue
from shipper.delivery.sink_state import SinkState
from shipper.ledger.ledger import Ledger
from shipper.sinks.outcome import Outcome
from shipper.sinks.processor.metrics import Batch
from spooler.spool import reader as reader_module
from spooler.spool.reader import Chunk, Reader
from tests.kit import spools
from tests.kit.shipping import (
    DELIVERED,
    Clock,
    OwnedReader,
    ScriptedSink,
    append,
    config,
    retry,
    step,
)
from tests.kit.spools import identity, spool_id

WHO = identity(spool_id(1), workload_uid="w")
NOTE = ("note", {"time": 1.0})
DETECTION = ("detection", {"time": 1.0})


class Setup:
    """A live spool, its poller's reader, and a queue of a sink that takes steps."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        settings = config(folder, flush_interval=5.0)
        settings.spool.mkdir()
        self.writer = spools.writer(settings.spool, who=WHO, segment_records=32)
        self.reader = Reader(self.writer.directory)
        self.sink = ScriptedSink(settings)
        self.ledger = Ledger(settings.state)
        state = SinkState("processor", self.clock)
        self.queue = DeliveryQueue(key="w", sink_state=state, flush_all=False, now=self.clock)
        self.own = OwnedReader(self.writer.directory)
        self.pipeline = Pipeline(
            reader=self.own,
            identity=WHO,
            sink=self.sink,
            context=DeliveryContext(ledger=self.ledger, config=settings),
        )
        self.queue.add(self.pipeline)

    def grow(self, *records: Any) -> Chunk | None:
        """What the poller finds after these records, at the end of what is acknowledged."""
        self.reader.has_news()
        append(self.writer, list(records))
        assert self.reader.has_news()
        end = self.queue.end_of(WHO.spool)
        return self.reader.growth(0 if end is None else end)

    def turns(self) -> None:
        while self.queue.due() <= self.clock.now:
            self.queue.turn()

    def row(self) -> dict[str, Any]:
        (row,) = self.ledger.positions()
        return row


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    append(made.writer, [step(1)])
    made.turns()
    yield made
    made.ledger.close()
    made.writer.close()


def test_growth_is_what_a_reading_finds_wherever_a_segment_ends(setup: Setup) -> None:
    found = 0
    for number in range(2, 50):
        news = setup.grow(step(number), *[DETECTION] * (number % 3))
        chunk = setup.own.read(setup.pipeline.position.seq, 100)
        if news is not None:
            found += 1
            assert (news.records, news.through) == (chunk.records, chunk.through)
            assert news.at_end
            assert chunk.at_end
        setup.queue.wake(WHO.spool, news)
        setup.turns()
        setup.writer.maintain()
    assert setup.sink.steps == [[number] for number in range(1, 50)]
    assert found > 10


def test_growth_that_costs_much_to_read_is_left_to_the_queues(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_GROWTH_BYTES", 1024)
    assert setup.grow(step(2), step(3), step(4)) is None


def test_a_queue_delivers_what_was_read_for_it(setup: Setup) -> None:
    news = setup.grow(step(2), DETECTION, step(3))
    assert news is not None
    setup.own.read = None  # type: ignore[assignment, method-assign]
    setup.queue.wake(WHO.spool, news)
    setup.turns()
    assert setup.sink.steps == [[1], [2, 3]]
    assert (setup.row()["seq"], setup.row()["delivered"], setup.row()["passed"]) == (4, 3, 1)


def test_records_that_a_sink_does_not_take_are_skipped_without_a_turn(setup: Setup) -> None:
    news = setup.grow(DETECTION, DETECTION)
    assert news is not None
    assert setup.queue.pass_over(WHO.spool, news)
    assert setup.queue.pass_over(WHO.spool, news), "it changes nothing then"
    assert setup.queue.due() > setup.clock.now
    assert (setup.row()["seq"], setup.row()["delivered"], setup.row()["passed"]) == (3, 1, 2)
    setup.queue.wake(WHO.spool, setup.grow(step(2)))
    setup.turns()
    assert setup.sink.steps == [[1], [2]]
    assert (setup.row()["seq"], setup.row()["delivered"], setup.row()["passed"]) == (4, 2, 2)


@pytest.mark.parametrize("record", [step(2), NOTE, ("gap", {"time": 1.0})])
def test_what_a_sink_takes_or_nobody_knows_is_not_passed_over(setup: Setup, record: Any) -> None:
    news = setup.grow(DETECTION, record)
    assert news is not None
    assert not setup.queue.pass_over(WHO.spool, news)
    assert setup.row()["seq"] == 1


def test_a_sink_that_is_behind_passes_over_nothing(setup: Setup) -> None:
    setup.sink.judge = lambda batch, tries: retry()
    setup.queue.wake(WHO.spool, setup.grow(step(2)))
    setup.turns()
    append(setup.writer, [DETECTION])
    news = setup.reader.growth(2)
    assert news is not None
    assert not setup.queue.pass_over(WHO.spool, news)


def test_news_that_have_grown_old_are_not_taken_for_the_end(setup: Setup) -> None:
    """The sink was paused when they came; more came meanwhile."""
    setup.queue.wake(WHO.spool, setup.grow(step(2)))
    setup.queue.wake(WHO.spool, setup.grow(step(3)))
    setup.turns()
    assert setup.sink.steps == [[1], [2, 3]]


def test_news_during_a_turn_are_not_slept_over(setup: Setup) -> None:
    def judge(batch: Batch, tries: int) -> Outcome:
        if batch.last == 2:
            setup.queue.wake(WHO.spool, setup.grow(step(3)))
        return DELIVERED

    setup.sink.judge = judge
    setup.queue.wake(WHO.spool, setup.grow(step(2)))
    setup.turns()
    assert setup.sink.steps == [[1], [2], [3]]


def test_what_was_read_before_the_writer_ended_is_read_again(setup: Setup) -> None:
    news = setup.grow(step(2))
    append(setup.writer, [step(3)])
    setup.own.owned = False
    setup.queue.wake(WHO.spool, news)
    setup.turns()
    assert setup.sink.steps == [[1], [2, 3]]
    assert setup.queue.progress(WHO.spool) == (3, True)

"""A lane gives its spools fair turns in time, and the trouble of one does not stop the others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from shipper.delivery.backoff import FIRST_SECONDS
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.delivery.policy import SLOW_SECONDS, Pace
from shipper.delivery.queue import RETRY_SECONDS, SLEEP_SECONDS, TURN_SECONDS, DeliveryQueue
from shipper.delivery.sink_state import SinkState
from shipper.ledger.ledger import Ledger
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.metrics import Batch
from spooler.errors import SpoolDamaged
from spooler.spool.reader import Chunk
from tests.kit.shipping import (
    DELIVERED,
    Clock,
    Judge,
    OwnedReader,
    Record,
    ScriptedSink,
    append,
    config,
    retry,
    spool,
    step,
)
from tests.kit.spools import identity, spool_id

NEVER = float("inf")
FLUSH = 5.0


class Setup:
    """One lane of one workload, with a clock and a scripted sink."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.config = config(folder, flush_interval=FLUSH)
        self.sink = ScriptedSink(self.config)
        self.sink_state = SinkState("processor", self.clock)
        self.ledger = Ledger(self.config.state)
        self.lane = self.another_lane("w")
        self.writers: dict[int, Any] = {}

    def another_lane(self, key: str) -> DeliveryQueue:
        return DeliveryQueue(key=key, sink_state=self.sink_state, flush_all=False, now=self.clock)

    def add(self, salt: int, records: list[Record], *, owned: bool = True) -> Pipeline:
        """A spool with these records joins the lane."""
        who = identity(spool_id(salt), workload_uid="w")
        directory, self.writers[salt] = spool(self.folder / "spool", records, who=who, close=False)
        route = Pipeline(
            reader=OwnedReader(directory, owned=owned),
            identity=who,
            sink=self.sink,
            context=DeliveryContext(ledger=self.ledger, config=self.config),
        )
        self.lane.add(route)
        return route

    def judge(self, judge: Judge) -> None:
        self.sink.judge = judge

    def turns(self, limit: int = 50) -> int:
        """Take turns for as long as one is due now; return how many that were."""
        for number in range(limit):
            if self.lane.due() > self.clock.now:
                return number
            self.lane.turn()
        raise AssertionError("the lane does not come to rest")


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    made = Setup(tmp_path)
    yield made
    made.ledger.close()
    for writer in made.writers.values():
        writer.close()


def test_an_empty_lane_is_never_due_and_has_nothing_left(setup: Setup) -> None:
    assert setup.lane.due() == NEVER
    assert setup.lane.caught_up()
    setup.lane.turn()


def test_a_new_spool_is_due_at_once_and_sleeps_after_its_end(setup: Setup) -> None:
    setup.add(1, [step(1)])
    assert setup.lane.due() == setup.clock.now
    assert not setup.lane.caught_up()
    setup.turns()
    assert setup.lane.caught_up()
    assert setup.lane.due() == setup.clock.now + SLEEP_SECONDS


def test_a_spool_that_is_woken_has_its_turn_at_once(setup: Setup) -> None:
    route = setup.add(1, [step(1)])
    setup.turns()
    append(setup.writers[1], [step(2)])
    setup.lane.wake(route.identity.spool)
    setup.turns()
    assert setup.sink.steps == [[1], [2]]


def test_news_that_come_during_a_turn_are_not_slept_over(setup: Setup) -> None:
    """It was woken after it had read to the end, and before it knew that it may sleep."""
    route = setup.add(1, [step(1)])
    news = [step(2)]

    def judge(batch: Batch, tries: int) -> Outcome:
        if news:
            append(setup.writers[1], [news.pop()])
            setup.lane.wake(route.identity.spool)
        return DELIVERED

    setup.sink.judge = judge
    setup.turns()
    setup.turns()
    assert setup.sink.steps == [[1], [2]]


def test_new_data_refutes_that_a_spool_is_finished(setup: Setup) -> None:
    """It is read on, and its files are not deleted as those of a spool that has ended."""
    route = setup.add(1, [step(1)])
    assert isinstance(route.reader, OwnedReader)
    route.reader.owned = False
    setup.turns()
    spool = route.identity.spool
    assert setup.lane.progress(spool) == (1, True)
    append(setup.writers[1], [step(2)])
    setup.lane.wake(spool)
    assert setup.lane.progress(spool) == (1, False)
    route.reader.owned = True
    setup.turns()
    assert setup.sink.steps == [[1], [2]]
    assert setup.lane.progress(spool) == (2, False)
    route.reader.owned = False
    setup.lane.wake(spool)
    setup.turns()
    assert setup.lane.progress(spool) == (2, True)
    assert setup.lane.due() == NEVER


def test_a_spool_that_nobody_woke_is_read_after_its_sleep(setup: Setup) -> None:
    setup.add(1, [step(1)])
    setup.turns()
    append(setup.writers[1], [step(2)])
    setup.clock.pass_by(SLEEP_SECONDS)
    setup.turns()
    assert setup.sink.steps == [[1], [2]]


def test_a_spool_whose_writer_is_gone_is_finished_when_its_last_record_is_sent(
    setup: Setup,
) -> None:
    route = setup.add(1, [step(1), step(2, closed=False)])
    setup.turns()
    assert setup.sink.steps == [[1]]
    assert isinstance(route.reader, OwnedReader)
    route.reader.owned = False
    setup.clock.pass_by(FLUSH)
    setup.turns()
    assert setup.sink.steps == [[1], [2]]
    assert setup.lane.spools() == [route.identity.spool]
    assert setup.lane.progress(route.identity.spool) == (2, True)
    assert setup.lane.progress("another") is None
    assert setup.lane.due() == NEVER
    assert setup.lane.caught_up()


def test_an_open_step_is_due_when_it_has_been_held_long_enough(setup: Setup) -> None:
    setup.add(1, [step(1, closed=False)])
    setup.turns()
    assert setup.sink.steps == []
    assert setup.lane.due() == setup.clock.now + FLUSH
    assert not setup.lane.caught_up()
    setup.clock.pass_by(FLUSH)
    setup.turns()
    assert setup.sink.steps == [[1]]


@pytest.mark.promise("G15")
def test_spools_take_turns_when_time_is_up(setup: Setup) -> None:
    setup.config = config(setup.folder, flush_interval=FLUSH, batch_max_steps=1)
    setup.sink = ScriptedSink(setup.config)
    setup.add(1, [step(number, run="a") for number in range(3)], owned=False)
    setup.add(2, [step(number, run="b") for number in range(3)], owned=False)

    def slow(batch: Any, tries: int) -> Any:
        setup.clock.pass_by(TURN_SECONDS)
        return DELIVERED

    setup.judge(slow)
    setup.turns()
    assert [batch.run for batch in setup.sink.sent] == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.promise("G3")
def test_a_failure_leaves_everything_where_it_is_and_waits(setup: Setup) -> None:
    route = setup.add(1, [step(1)])
    setup.judge(lambda batch, tries: retry())
    setup.lane.turn()
    assert route.position.seq == 0
    assert setup.lane.due() == setup.lane.state.ready_at
    assert not setup.lane.caught_up()
    setup.judge(lambda batch, tries: DELIVERED)
    setup.clock.pass_by(60)
    setup.turns()
    assert route.position.seq == 1
    assert setup.lane.state.failure is None


@pytest.mark.promise("G15")
def test_trouble_of_the_workload_holds_up_no_other_workload(setup: Setup) -> None:
    setup.add(1, [step(1)])
    setup.judge(lambda batch, tries: retry("unknown-workload"))
    setup.lane.turn()
    assert setup.lane.state.failure is not None
    assert setup.sink_state.failure is None
    other = setup.another_lane("other")
    other.add(setup.lane.pipelines()[0])
    assert other.due() == setup.clock.now


def three_lanes(setup: Setup) -> list[DeliveryQueue]:
    """Three workloads of one sink, each with a record to send."""
    lanes = [setup.lane]
    setup.add(1, [step(1)])
    for salt in (2, 3):
        lanes.append(setup.another_lane(f"w{salt}"))
        setup.lane = lanes[-1]
        setup.add(salt, [step(1)])
    setup.lane = lanes[0]
    return lanes


def test_trouble_of_the_sink_holds_up_all_its_workloads_until_it_is_over(setup: Setup) -> None:
    one, other, third = three_lanes(setup)
    setup.judge(lambda batch, tries: retry("refused", scope="sink", alarm=True))
    one.turn()
    assert setup.sink_state.failure is not None
    assert one.due() > setup.clock.now
    assert other.due() == setup.clock.now  # it says whether the sink has failed, or this one
    other.turn()
    assert other.due() > third.due() == setup.sink_state.ready_at > setup.clock.now
    setup.judge(lambda batch, tries: DELIVERED)
    setup.clock.pass_by(60)
    third.turn()
    assert setup.sink_state.failure is None
    assert max(one.due(), other.due()) <= setup.clock.now
    one.turn()
    other.turn()
    assert not setup.sink_state.is_alone(one.key)
    assert not setup.sink_state.is_alone(other.key)


@pytest.mark.promise("G15")
def test_an_answer_to_one_workload_pauses_no_other(setup: Setup) -> None:
    """It succeeds meanwhile for others, so it is not about the sink."""
    one, other, third = three_lanes(setup)
    wish = Outcome(disposition=Disposition.RETRY, reason="busy", scope="sink", retry_after=30.0)
    setup.judge(lambda batch, tries: wish)
    one.turn()
    setup.judge(lambda batch, tries: DELIVERED)
    other.turn()
    assert setup.sink_state.failure is None
    assert third.due() == setup.clock.now
    assert one.due() >= setup.clock.now + 30.0
    setup.clock.pass_by(31)
    setup.judge(lambda batch, tries: wish)
    one.turn()
    assert one.state.failure == wish
    assert setup.sink_state.failure is None
    assert third.due() <= setup.clock.now
    setup.judge(lambda batch, tries: DELIVERED)
    setup.clock.pass_by(31)
    one.turn()
    assert one.state.failure is None


@pytest.mark.promise("G15")
def test_what_two_workloads_are_asked_for_pauses_no_other_for_long(setup: Setup) -> None:
    """Each waits as long as it was asked to; the next one decides whether that is for all."""
    one, other, third = three_lanes(setup)
    wish = Outcome(disposition=Disposition.RETRY, reason="busy", scope="sink", retry_after=600.0)
    setup.judge(lambda batch, tries: wish)
    one.turn()
    other.turn()
    assert setup.clock.now < third.due() <= setup.clock.now + 2 * FIRST_SECONDS
    setup.judge(lambda batch, tries: DELIVERED)
    setup.clock.pass_by(2 * FIRST_SECONDS)
    third.turn()
    assert setup.sink_state.failure is None
    assert min(one.due(), other.due()) > setup.clock.now + 590.0


def test_what_caused_a_pause_may_be_gone_for_a_workload_too(setup: Setup) -> None:
    setup.add(1, [step(1)])
    setup.judge(lambda batch, tries: retry("not-allowed", scope="sink", alarm=True))
    setup.lane.turn()
    setup.lane.retry_now()
    assert setup.lane.due() == setup.clock.now


@pytest.mark.promise("G15")
def test_a_lane_whose_requests_take_long_is_slow_until_they_have_been_quick_for_a_while(
    setup: Setup,
) -> None:
    """Whatever is answered: an answer that drips in may be a good one."""
    setup.add(1, [step(number) for number in range(100)])
    setup.config = config(setup.folder, batch_max_steps=1)
    took = [SLOW_SECONDS]

    def judge(batch: Any, tries: int) -> Outcome:
        setup.clock.pass_by(took[-1])
        return DELIVERED

    setup.judge(judge)
    assert not setup.lane.is_slow()
    setup.lane.turn()
    assert setup.lane.is_slow()


def test_one_quick_turn_does_not_make_up_for_a_slow_one() -> None:
    pace = Pace()
    pace.took(30.0)
    pace.took(0.1)
    assert pace.is_slow
    for _ in range(20):
        pace.took(0.1)
    assert not pace.is_slow


def test_progress_before_a_failure_begins_a_new_row_of_failures(setup: Setup) -> None:
    setup.config = config(setup.folder, batch_max_steps=1)
    setup.sink = ScriptedSink(setup.config)
    setup.add(1, [step(number) for number in range(40)])
    setup.judge(lambda batch, tries: DELIVERED if tries > 1 else retry())
    for _ in range(30):
        setup.lane.turn()
        assert setup.lane.state.ready_at - setup.clock.now <= 1.0
        setup.clock.pass_by(60)


@pytest.mark.promise("G15")
@pytest.mark.parametrize(
    "error", [SpoolDamaged("00000001.sqlite", 3, "malformed"), OSError(5, "Input/output error")]
)
def test_a_spool_that_cannot_be_read_is_left_alone_and_the_others_go_on(
    setup: Setup,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = setup.add(1, [step(1, run="bad")])
    setup.add(2, [step(1, run="good")])
    read = bad.reader.read

    def broken(*_: object) -> Chunk:
        raise error

    monkeypatch.setattr(bad.reader, "read", broken)
    with caplog.at_level(logging.ERROR, logger="shipper.delivery.queue"):
        setup.turns()
        assert [batch.run for batch in setup.sink.sent] == ["good"]
        assert not setup.lane.caught_up()
        setup.clock.pass_by(RETRY_SECONDS)
        setup.turns()
        assert len(caplog.records) == 1  # said once
    assert caplog.records[0].fields["path"] == bad.reader.directory
    monkeypatch.setattr(bad.reader, "read", read)
    setup.clock.pass_by(RETRY_SECONDS)
    setup.turns()
    assert [batch.run for batch in setup.sink.sent] == ["good", "bad"]


def test_a_spool_at_rest_comes_back(setup: Setup) -> None:
    setup.add(1, [step(1)])
    setup.lane.postpone()
    assert setup.lane.due() == setup.clock.now + RETRY_SECONDS


def test_a_removed_spool_is_forgotten(setup: Setup) -> None:
    route = setup.add(1, [step(1)])
    setup.lane.remove(route.identity.spool)
    setup.lane.remove("never there")
    assert setup.lane.pipelines() == []
    assert setup.lane.due() == NEVER


def test_a_refused_parcel_does_not_count_as_trouble_of_anyone(setup: Setup) -> None:
    setup.add(1, [step(1), step(2)])
    dead = retry("no-identity")
    setup.judge(
        lambda batch, tries: type(dead)(disposition=Disposition.PERMANENT, reason="no-identity")
    )
    setup.turns()
    assert setup.lane.state.failure is None
    assert setup.sink_state.failure is None
    assert setup.lane.caught_up()

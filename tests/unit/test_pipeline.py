"""One spool on its way to one sink: in order, acknowledged after the answer, held and let go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shipper.delivery.pipeline import READ_RECORDS, DeliveryContext, Pipeline, TurnResult
from shipper.ledger.ledger import Ledger, Position
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.metrics import Batch
from spooler.spool.identity import Identity
from tests.kit.shipping import (
    DELIVERED,
    Clock,
    OwnedReader,
    Record,
    ScriptedSink,
    append,
    config,
    detection,
    finish,
    goodbye,
    retry,
    script,
    spool,
    step,
)
from tests.kit.spools import identity

FLUSH = 5.0
LONG = 1e9


class Setup:
    """A live spool, a route, and a sink that answers by script."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock = Clock()
        self.config = config(folder, flush_interval=FLUSH, **settings)
        self.ledger = Ledger(self.config.state)
        self.sink = ScriptedSink(self.config)
        self.who: Identity = identity(workload_uid="w")
        self.directory, self.writer = spool(folder / "spool", [], who=self.who, close=False)
        self.route = self.new_route()

    def new_route(self) -> Pipeline:
        """What a service does after its start."""
        return Pipeline(
            reader=OwnedReader(self.directory),
            identity=self.who,
            sink=self.sink,
            context=DeliveryContext(ledger=self.ledger, config=self.config),
        )

    def log(self, *records: Record) -> None:
        append(self.writer, records)

    def turn(
        self, *, owned: bool = True, flush_all: bool = False, seconds: float = LONG
    ) -> TurnResult:
        return self.route.turn(
            now=self.clock, until=self.clock.now + seconds, owned=owned, flush_all=flush_all
        )

    @property
    def saved(self) -> Position:
        return self.ledger.position(self.who.spool, "processor")

    def buried(self) -> list[int]:
        return [letter["seq"] for letter in self.ledger.dead_letters()]

    def close(self) -> None:
        self.ledger.close()
        self.writer.close()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path, batch_max_steps=10)
    yield made
    made.close()


@pytest.mark.promise("G3")
def test_steps_go_out_whole_and_in_the_order_they_were_logged(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(25)))
    progress = setup.turn()
    assert progress == TurnResult(at_end=True)
    assert setup.sink.steps == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert setup.route.take_delivered() == 25
    assert setup.route.take_delivered() == 0


@pytest.mark.promise("G3")
def test_more_than_one_read_keeps_the_order(setup: Setup) -> None:
    count = 2 * READ_RECORDS + 3
    setup.log(*(step(number) for number in range(count)))
    assert setup.turn().at_end
    assert sum(setup.sink.steps, []) == list(range(count))  # noqa: RUF017 - short lists
    assert setup.saved.seq == count


@pytest.mark.promise("G4")
def test_a_position_is_saved_after_the_answer_and_not_before(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(25)))
    saved: list[int] = []

    def judge(batch: Batch, tries: int) -> Outcome:
        saved.append(setup.saved.seq)
        return DELIVERED

    setup.sink.judge = judge
    setup.turn()
    assert saved == [0, 10, 20]
    assert setup.saved.seq == 25


@pytest.mark.promise("G4")
def test_nothing_is_saved_when_nobody_says_so(setup: Setup) -> None:
    setup.log(step(1))
    setup.sink.judge = lambda batch, tries: retry()
    assert setup.turn().failure == retry()
    assert setup.saved == Position()
    assert setup.new_route().position == Position()


@pytest.mark.promise("G4")
def test_a_new_service_goes_on_where_the_last_one_saved(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(25)))
    setup.sink.judge = script(DELIVERED, retry())
    setup.turn()
    setup.sink.judge = script()
    setup.route = setup.new_route()
    setup.turn()
    assert setup.sink.steps[2:] == [list(range(10, 20)), list(range(20, 25))]


@pytest.mark.promise("G5")
def test_what_is_sent_again_has_the_same_records_and_the_tries_are_counted(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(10)))
    setup.sink.judge = script(retry(), retry(), retry())
    for _ in range(4):
        setup.turn()
    assert {batch.seqs for batch in setup.sink.sent} == {tuple(range(1, 11))}
    assert setup.sink.tries == [1, 2, 3, 4]


def test_tries_are_counted_for_one_parcel_and_begin_anew_with_the_next(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(20)))
    setup.sink.judge = script(retry(), DELIVERED, retry())
    setup.turn()
    setup.turn()
    setup.turn()
    assert setup.sink.tries == [1, 2, 1, 2]


def test_other_kinds_are_gone_past_without_a_request(setup: Setup) -> None:
    setup.log(detection(), finish(), ("from next year", {"time": 1.0}))
    assert setup.turn().at_end
    assert setup.sink.sent == []
    assert setup.saved.seq == 3


def test_a_step_with_nothing_to_send_is_gone_past_without_a_request(setup: Setup) -> None:
    setup.log(step(1, loss=None))
    assert setup.turn().at_end
    assert (setup.sink.sent, setup.saved.seq) == ([], 1)


def test_an_open_step_is_held_and_let_go_after_one_interval(setup: Setup) -> None:
    setup.log(step(1), step(2, closed=False, a=1))
    progress = setup.turn()
    assert (progress.at_end, progress.wait) == (False, FLUSH)
    assert setup.saved.seq == 1
    setup.clock.pass_by(FLUSH - 1)
    assert setup.turn().wait == pytest.approx(1)
    setup.clock.pass_by(1)
    assert setup.turn().at_end
    assert setup.sink.steps == [[1], [2]]


def test_a_part_that_comes_in_time_travels_with_the_others(setup: Setup) -> None:
    setup.log(step(1, closed=False, a=1))
    setup.turn()
    setup.clock.pass_by(FLUSH - 1)
    setup.log(step(1, b=2))
    setup.turn()
    (batch,) = setup.sink.sent
    assert batch.seqs == (1, 2)


def test_a_part_that_comes_too_late_travels_after_the_others(setup: Setup) -> None:
    setup.log(step(1, closed=False, a=1))
    setup.turn()
    setup.clock.pass_by(FLUSH)
    setup.turn()
    setup.log(step(1, b=2))
    setup.turn()
    assert [batch.seqs for batch in setup.sink.sent] == [(1,), (2,)]


@pytest.mark.parametrize(
    ("ending", "owned", "flush_all"),
    [(finish(), True, False), (goodbye(), True, False), (None, False, False), (None, True, True)],
)
def test_an_open_step_goes_at_once_when_nothing_can_follow(
    setup: Setup, ending: Record | None, owned: bool, flush_all: bool
) -> None:
    setup.log(step(1, closed=False), *([ending] if ending else []))
    assert setup.turn(owned=owned, flush_all=flush_all).at_end
    assert setup.sink.steps == [[1]]


def test_an_open_step_does_not_hold_up_another_run(setup: Setup) -> None:
    setup.log(step(1, run="a", closed=False), *(step(number, run="b") for number in range(15)))
    setup.turn()
    assert [batch.run for batch in setup.sink.sent] == ["b", "b"]
    assert setup.saved == Position(
        seq=0, acked_by_run={"b": 16}, acked_seqs=frozenset(range(2, 17))
    )
    setup.route = setup.new_route()
    setup.turn(owned=False)
    assert [(batch.run, batch.seqs) for batch in setup.sink.sent[2:]] == [("a", (1,))]
    assert setup.saved == Position(seq=16)


def test_time_that_is_up_ends_a_turn_between_two_requests(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(25)))
    assert setup.turn(seconds=0.0) == TurnResult(more=True)
    assert setup.sink.steps == [list(range(10))]
    assert setup.turn(seconds=LONG).at_end


def test_nothing_that_can_be_read_again_is_kept_between_turns(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(25)))
    setup.sink.judge = script(retry())
    for seconds in (LONG, 0.0, LONG):
        setup.turn(seconds=seconds)
        assert not setup.route._batches
        assert not setup.route._stored


def test_a_record_that_cannot_be_sent_is_kept_apart_and_gone_past(setup: Setup) -> None:
    bad = ("step", {**step(2)[1], "time": "never"})
    setup.log(step(1), bad, step(2**40), step(3))
    setup.turn()
    assert setup.sink.steps == [[1, 3]]
    assert setup.buried() == [2, 3]
    assert setup.saved.seq == 4


@pytest.mark.promise("G6")
def test_a_refused_request_is_kept_as_dead_letters_and_the_next_one_goes(setup: Setup) -> None:
    setup.log(*(step(number) for number in range(15)))
    setup.sink.judge = script(
        Outcome(disposition=Disposition.PERMANENT, reason="no-identity", detail="why")
    )
    assert setup.turn().at_end
    assert setup.buried() == list(range(1, 11))
    letters = setup.ledger.dead_letters()
    assert {(letter["reason"], letter["detail"]) for letter in letters} == {("no-identity", "why")}
    assert setup.route.take_delivered() == 5
    assert setup.saved.seq == 15

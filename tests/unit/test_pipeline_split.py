"""A refused request is split until the one step that is refused is found; damage is gone past."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipper.delivery.pipeline import DeliveryContext, Pipeline, TurnResult
from shipper.delivery.policy import ONE_MORE_SECONDS, REFUSALS_IN_A_ROW
from shipper.errors import StateUnusable
from shipper.ledger.ledger import DATABASE_NAME, Ledger
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.metrics import Batch
from spooler.spool.reader import Reader
from tests.kit.shipping import (
    DELIVERED,
    Clock,
    ScriptedSink,
    append,
    config,
    retry,
    script,
    spool,
    step,
)
from tests.kit.spools import identity

WHO = identity(workload_uid="w")
SPLIT = Outcome(disposition=Disposition.SPLIT, reason="bad-request", detail="400")
AMBIGUOUS = Outcome(
    disposition=Disposition.SPLIT, reason="server-error", detail="500", ambiguous=True
)


class Setup:
    """A closed spool of `count` steps in requests of a hundred."""

    def __init__(self, folder: Path, count: int) -> None:
        self.clock = Clock()
        self.config = config(folder)
        self.ledger = Ledger(self.config.state)
        self.sink = ScriptedSink(self.config)
        self.directory, _ = spool(folder / "spool", (step(n) for n in range(count)), who=WHO)
        self.route = self.new_route()

    def new_route(self) -> Pipeline:
        return Pipeline(
            reader=Reader(self.directory),
            identity=WHO,
            sink=self.sink,
            context=DeliveryContext(ledger=self.ledger, config=self.config),
        )

    def turn(self) -> TurnResult:
        until = self.clock.now + 1e9
        return self.route.turn(now=self.clock, until=until, owned=False, flush_all=False)

    def buried(self) -> list[int]:
        return [letter["seq"] for letter in self.ledger.dead_letters()]

    def delivered(self) -> list[int]:
        """Step numbers of what was answered well, one for each time."""
        return [
            step.step
            for batch in self.sink.sent
            if self.sink.judge(batch, 1) is DELIVERED
            for step in batch.payload.steps
        ]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path, 100)
    yield made
    made.ledger.close()


def refusing(*poisoned: int, outcome: Outcome = SPLIT) -> Any:
    def judge(batch: Batch, tries: int) -> Outcome:
        bad = any(step.step in poisoned for step in batch.payload.steps)
        return outcome if bad else DELIVERED

    return judge


@pytest.mark.promise("G3")
@pytest.mark.promise("G6")
@pytest.mark.parametrize("poisoned", [0, 1, 49, 50, 63, 98, 99])
def test_one_poisoned_step_is_found_by_halves_and_everything_else_arrives_in_order(
    setup: Setup, poisoned: int
) -> None:
    setup.sink.judge = refusing(poisoned)
    assert setup.turn() == TurnResult(at_end=True)
    assert setup.delivered() == [number for number in range(100) if number != poisoned]
    assert setup.buried() == [poisoned + 1]
    assert setup.route.position.seq == 100
    # On each level one half is refused and the other one arrives.
    assert len(setup.sink.sent) <= 1 + 2 * math.ceil(math.log2(100))


@pytest.mark.promise("G6")
def test_several_poisoned_steps_are_all_found(setup: Setup) -> None:
    setup.sink.judge = refusing(3, 4, 77)
    setup.turn()
    assert setup.buried() == [4, 5, 78]
    assert len(setup.delivered()) == 97


@pytest.mark.promise("G6")
def test_a_single_step_with_an_ambiguous_answer_is_retried_and_never_buried(setup: Setup) -> None:
    setup.sink.judge = refusing(50, outcome=AMBIGUOUS)
    for _ in range(20):
        assert setup.turn().failure == AMBIGUOUS
    assert setup.buried() == []
    assert setup.route.position.seq == 50
    assert setup.delivered() == list(range(50))
    assert [s.step for s in setup.sink.sent[-1].payload.steps] == [50]
    setup.sink.judge = refusing()
    assert setup.turn().at_end
    assert setup.route.position.seq == 100


def test_the_halves_of_a_split_stay_between_turns(setup: Setup) -> None:
    setup.sink.judge = script(SPLIT, retry())
    setup.turn()
    setup.sink.judge = script()
    setup.turn()
    assert [len(steps) for steps in setup.sink.steps] == [100, 50, 50, 50]
    assert setup.sink.tries == [1, 1, 2, 1]


def test_a_half_is_tried_as_something_new(setup: Setup) -> None:
    setup.sink.judge = script(retry(), retry(), SPLIT, SPLIT)
    for _ in range(3):
        setup.turn()
    assert setup.sink.tries == [1, 2, 3, 1, 1, 1, 1]
    assert [len(steps) for steps in setup.sink.steps] == [100, 100, 100, 50, 25, 25, 50]


@pytest.mark.promise("G3")
def test_what_is_logged_while_halves_are_in_hand_is_read_before_the_end_is_told(
    tmp_path: Path,
) -> None:
    made = Setup(tmp_path, 0)
    directory, writer = spool(tmp_path / "live", [step(1), step(2)], who=WHO, close=False)
    made.directory = directory
    made.route = made.new_route()
    with closing(made.ledger), closing(writer):
        made.sink.judge = script(SPLIT, retry())
        assert made.turn().failure is not None
        append(writer, [step(3)])
        assert made.turn().at_end
        assert made.sink.steps[-1] == [3]


@pytest.mark.promise("G4")
def test_a_restart_in_the_middle_of_a_split_begins_it_again_where_it_was_saved(
    setup: Setup,
) -> None:
    setup.sink.judge = script(SPLIT, DELIVERED, SPLIT, retry())
    setup.turn()
    assert setup.route.position.seq == 50
    setup.route = setup.new_route()
    setup.sink.judge = script()
    assert setup.turn().at_end
    assert setup.sink.steps[-1] == list(range(50, 100))


def turns(setup: Setup, *, waiting: float, limit: int = 1000) -> int:
    """Turns until everything is gone past, with a pause after each failure; their number."""
    for number in range(1, limit):
        if setup.turn().at_end:
            return number
        setup.clock.pass_by(waiting)
    raise AssertionError("it does not come to its end")


@pytest.mark.promise("G6")
def test_when_everything_is_refused_it_is_not_the_fault_of_the_data(setup: Setup) -> None:
    """Ten are believed to be it, then it pauses and needs an operator; the rest arrives later."""
    setup.sink.judge = lambda batch, tries: SPLIT
    for _ in range(50):
        failure = setup.turn().failure
        assert failure is not None
        assert (failure.reason, failure.needs_operator) == ("all-refused", True)
        assert "bad-request" in failure.detail
        setup.clock.pass_by(ONE_MORE_SECONDS / 100)
    assert len(setup.buried()) == REFUSALS_IN_A_ROW
    setup.sink.judge = refusing()
    assert setup.turn().at_end
    assert setup.delivered()[-1] == 99
    assert len(setup.buried()) == REFUSALS_IN_A_ROW


@pytest.mark.promise("G6")
def test_data_that_is_really_refused_blocks_its_spool_not_without_end(setup: Setup) -> None:
    setup.sink.judge = refusing(*range(20))
    turns(setup, waiting=ONE_MORE_SECONDS / 2)
    assert setup.buried() == list(range(1, 21))
    assert setup.route.position.seq == 100


@pytest.mark.promise("G6")
def test_a_receiver_that_accepts_some_may_refuse_any_number(setup: Setup) -> None:
    setup.sink.judge = refusing(*range(0, 100, 2))
    assert setup.turn() == TurnResult(at_end=True)
    assert len(setup.buried()) == 50


@pytest.mark.parametrize("reason", ["no-identity", "too-old"])
def test_what_the_receiver_says_about_job_and_age_is_believed(setup: Setup, reason: str) -> None:
    setup.config = config(setup.directory.parent.parent, batch_max_steps=1)
    setup.sink = ScriptedSink(setup.config)
    setup.route = setup.new_route()
    nameless = Outcome(disposition=Disposition.PERMANENT, reason=reason)
    setup.sink.judge = lambda batch, tries: nameless
    assert setup.turn() == TurnResult(at_end=True)
    assert len(setup.buried()) == 100


def damaged(directory: Path, sql: str) -> None:
    with closing(sqlite3.connect(directory / "00000001.sqlite", isolation_level=None)) as segment:
        segment.execute(sql)


@pytest.mark.promise("G7")
@pytest.mark.parametrize(
    ("sql", "lost", "reason"),
    [
        ("UPDATE record SET body = x'80' WHERE seq = 51", (51, 51), "checksum"),
        ("UPDATE record SET kind = 'finish' WHERE seq = 51", (51, 51), "checksum"),
        ("UPDATE record SET kind = CAST(x'ff' AS TEXT) WHERE seq = 51", (51, 51), "checksum"),
        ("UPDATE record SET checksum = checksum + 1 WHERE seq = 51", (51, 51), "checksum"),
        ("DELETE FROM record WHERE seq BETWEEN 51 AND 60", (51, 60), "missing inside the file"),
    ],
)
def test_a_damaged_record_is_noted_and_gone_past(
    setup: Setup,
    sql: str,
    lost: tuple[int, int],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged(setup.directory, sql)
    with caplog.at_level(logging.ERROR, logger="shipper.delivery.pipeline"):
        assert setup.turn().at_end
    first, last = lost
    assert setup.delivered() == [n for n in range(100) if not first <= n + 1 <= last]
    assert setup.route.position.seq == 100
    with closing(sqlite3.connect(setup.config.state / DATABASE_NAME)) as state:
        noted = state.execute("SELECT first, last, reason FROM damage").fetchall()
    assert noted == [(first, last, reason)]
    told = [(one.fields["seq"], one.fields["last"]) for one in caplog.records]
    assert (first, last) in told


@pytest.mark.promise("G7")
def test_damage_at_the_very_end_or_of_everything_is_gone_past(setup: Setup) -> None:
    damaged(setup.directory, "UPDATE record SET body = x'80'")
    assert setup.turn().at_end
    assert setup.sink.sent == []
    assert setup.route.position.seq == 100


def test_what_cannot_be_sent_is_said_once_while_the_receiver_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Setup(tmp_path, 0)
    with closing(made.ledger):
        records = [step(1), ("step", {"run": 7}), step(2)]
        directory, _ = spool(tmp_path / "other", records, who=WHO)
        damaged(directory, "UPDATE record SET checksum = 0 WHERE seq = 3")
        made.directory = directory
        made.route = made.new_route()
        made.sink.judge = lambda batch, tries: retry()
        with caplog.at_level(logging.ERROR, logger="shipper.delivery.pipeline"):
            for _ in range(5):
                made.turn()
        assert len(caplog.records) == 2, caplog.text
        assert made.buried() == [2]


def test_halves_of_what_took_too_long_go_out_after_a_wait(setup: Setup) -> None:
    late = Outcome(disposition=Disposition.SPLIT, reason="timeout", detail="late", ambiguous=True)
    setup.sink.judge = lambda batch, tries: late if len(batch.seqs) > 50 else DELIVERED
    assert setup.turn().failure is late
    assert len(setup.sink.sent) == 1
    assert setup.turn() == TurnResult(at_end=True)
    assert [len(batch.seqs) for batch in setup.sink.sent] == [100, 50, 50]
    assert setup.delivered() == list(range(100))


@contextmanager
def unwritable(setup: Setup, table: str) -> Iterator[None]:
    """Nothing can be written to a table, as when the disk is full at that moment."""
    name = setup.config.state / DATABASE_NAME
    with closing(sqlite3.connect(name, isolation_level=None)) as other:
        for verb in ("INSERT", "UPDATE"):
            other.execute(
                f"CREATE TRIGGER no_{verb} BEFORE {verb} ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        try:
            yield
        finally:
            other.execute("DROP TRIGGER no_INSERT")
            other.execute("DROP TRIGGER no_UPDATE")


@pytest.mark.promise("G17")
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_position_that_cannot_be_saved_costs_a_repetition_and_no_count(
    setup: Setup, cut: int
) -> None:
    """The halves of a batch were gone from memory before their position was saved."""
    setup.sink.judge = lambda batch, _: SPLIT if len(batch.seqs) > 30 else DELIVERED
    with ExitStack() as stack:
        judge, accepted = setup.sink.judge, list[int]()

        def fail_after(batch: Batch, attempt: int) -> Outcome:
            outcome = judge(batch, attempt)
            accepted.extend(batch.seqs if outcome is DELIVERED else ())
            if outcome is DELIVERED and len(accepted) >= 25 * cut:
                stack.enter_context(unwritable(setup, "position"))
            return outcome

        setup.sink.judge = fail_after
        with pytest.raises(StateUnusable, match="disk full"):
            setup.turn()
    setup.sink.judge = judge
    assert setup.turn().at_end
    (row,) = setup.ledger.positions()
    assert (row["seq"], row["delivered"]) == (100, 100)


@pytest.mark.promise("G17")
def test_a_record_that_was_rejected_is_not_delivered_as_well(setup: Setup) -> None:
    """Its position could not be saved, and the receiver accepts it the next time."""
    rejected = Outcome(disposition=Disposition.PERMANENT, reason="bad-request")
    setup.sink.judge = lambda batch, _: rejected if 7 in batch.seqs else DELIVERED
    with unwritable(setup, "position"), pytest.raises(StateUnusable):
        setup.turn()
    dead = len(setup.buried())
    assert dead
    setup.sink.judge = lambda batch, _: DELIVERED
    assert setup.turn().at_end
    (row,) = setup.ledger.positions()
    assert (row["seq"], row["delivered"] + dead) == (100, 100)

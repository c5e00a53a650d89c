"""However runs lie between each other and whatever is answered: once, in order, and none forgotten.

The model is the list of records that were logged. The receiver is a sink that notes what it was
sent and answers as drawn; a lost answer is one that it noted and the service never heard. A restart
is a new route from what the ledger saved, a kill is one between the answer and the saving.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.ledger.ledger import Ledger
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.metrics import Batch
from shipper.steps import collect_steps
from tests.kit.shipping import (
    DELIVERED,
    Clock,
    OwnedReader,
    Record,
    ScriptedSink,
    append,
    config,
    finish,
    goodbye,
    retry,
    spool,
    step,
    stored,
)
from tests.kit.spools import identity

FLUSH = 5.0
WHO = identity(workload_uid="w")
ANSWERS = ["delivered", "retry", "split", "ambiguous", "dead", "lost", "killed"]
LOSSES = {"lost", "killed"}

PART = st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans(), st.booleans())
OTHER = st.sampled_from(["finish a", "finish b", "exit", "run", "gap"])
LOGGED = st.lists(PART | OTHER, max_size=12)
ACTIONS = st.lists(
    st.tuples(
        LOGGED,
        st.lists(st.sampled_from(ANSWERS), max_size=4),
        st.booleans(),  # restart before the turn
        st.sampled_from([0.0, 1.0, FLUSH]),  # time that passes before it
        st.sampled_from([0.0, 1e9]),  # length of the turn
    ),
    max_size=6,
)


OPEN, LAST = ("a", False, False, False), ("a", True, True, False)
# Once: records logged while halves of a refused request were in hand were taken for read.
HALVES_IN_HAND: list[Any] = [
    ([LAST, LAST], ["split", "retry"], False, 0.0, 1e9),
    ([OPEN], [], False, 0.0, 0.0),
]


class Killed(BaseException):
    """The process is gone."""


class World:
    """What was logged, what the receiver has, and the service between them."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.config = config(folder, batch_max_steps=batch_size, flush_interval=FLUSH)
        self.clock = Clock()
        self.ledger = Ledger(self.config.state)
        self.sink = ScriptedSink(self.config, self.judge)
        self.directory, self.writer = spool(folder / "spool", [], who=WHO, close=False)
        self.records: list[Record] = []
        self.numbers = {"a": 0, "b": 0, "c": 0}
        self.answers: list[str] = []
        self.accepted: list[tuple[int, ...]] = []  # seqs of every request that was processed
        self.unheard: list[tuple[int, ...]] = []  # those whose answer was lost
        self.route = self.new_route()

    def new_route(self) -> Pipeline:
        return Pipeline(
            reader=OwnedReader(self.directory),
            identity=WHO,
            sink=self.sink,
            context=DeliveryContext(ledger=self.ledger, config=self.config),
        )

    def log(self, drawn: list[tuple[str, bool, bool, bool] | str]) -> None:
        records = [self.record(one) for one in drawn]
        append(self.writer, records)
        self.records += records

    def record(self, drawn: tuple[str, bool, bool, bool] | str) -> Record:
        if isinstance(drawn, str):
            kind, _, run = drawn.partition(" ")
            gap = {"time": 1.0, "reason": "disk-full", "count": 3, "first": 0.0, "last": 1.0}
            made = {"finish": finish(run), "exit": goodbye(), "gap": ("gap", gap)}
            return made.get(kind, ("run", {"run": "a", "time": 1.0}))
        run, closed, onwards, text = drawn
        self.numbers[run] += onwards
        value = "text" if text else 1.5
        return step(self.numbers[run], run=run, closed=closed, x=value)

    def judge(self, batch: Batch, tries: int) -> Outcome:
        answer = self.answers.pop(0) if self.answers else "delivered"
        if answer in ("delivered", *LOSSES):
            self.accepted.append(batch.seqs)
        if answer in LOSSES:
            self.unheard.append(batch.seqs)
        if answer == "killed":
            raise Killed
        return {
            "delivered": DELIVERED,
            "split": Outcome(disposition=Disposition.SPLIT, reason="bad-request"),
            "ambiguous": Outcome(disposition=Disposition.SPLIT, reason="timeout", ambiguous=True),
            "dead": Outcome(disposition=Disposition.PERMANENT, reason="no-identity"),
        }.get(answer, retry())

    def turn(self, *, seconds: float = 1e9, ended: bool = False) -> bool:
        """One turn; True when there is nothing left."""
        until = self.clock.now + seconds
        try:
            progress = self.route.turn(
                now=self.clock, until=until, owned=not ended, flush_all=False
            )
        except Killed:
            self.route = self.new_route()
            return False
        return progress.at_end

    def buried(self) -> list[int]:
        return [letter["seq"] for letter in self.ledger.dead_letters()]

    def check_position(self) -> None:
        """Nothing before the saved position, or ahead of it by run, is unsettled."""
        settled = {seq for seqs in self.accepted for seq in seqs} | set(self.buried())
        position = self.ledger.position(WHO.spool, "processor")
        for seq, (kind, body) in enumerate(self.records, 1):
            if kind == "step" and seq <= max(
                position.seq, position.acked_by_run.get(body["run"], 0)
            ):
                assert seq in settled, f"{position} is past {seq}"


@contextmanager
def world(batch_size: int) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        made = World(Path(folder), batch_size)
        try:
            yield made
        finally:
            made.ledger.close()
            made.writer.close()


@pytest.mark.promise("G3")
@pytest.mark.promise("G4")
@settings(deadline=None)
@given(ACTIONS, st.integers(1, 4))
@example(HALVES_IN_HAND, 2)
def test_every_record_arrives_once_and_in_order_whatever_happens(
    actions: list[tuple[list[tuple[str, bool, bool, bool] | str], list[str], bool, float, float]],
    batch_size: int,
) -> None:
    with world(batch_size) as w:
        for logged, answers, restart, passing, seconds in actions:
            w.log(logged)
            w.answers = list(answers)
            w.clock.pass_by(passing)
            if restart:
                w.route = w.new_route()
            w.turn(seconds=seconds)
            w.check_position()
        w.answers = []
        for _ in range(len(w.records) + 2):
            if w.turn(ended=True):
                break
        else:
            raise AssertionError("the spool does not come to its end")
        w.check_position()
        assert w.ledger.position(WHO.spool, "processor").seq == len(w.records)
        check_arrivals(w)


def check_arrivals(w: World) -> None:
    """Compare what was logged with what the receiver and the dead letters have."""
    parts = {seq: body for seq, (kind, body) in enumerate(w.records, 1) if kind == "step"}
    buried = set(w.buried())
    times = Counter(seq for seqs in w.accepted for seq in seqs)
    doubtful = Counter(seq for seqs in w.unheard for seq in seqs)
    for seq in parts:
        assert times[seq] or seq in buried, f"{seq} is lost"
        # Beyond the one that counts, only an answer that was never heard makes a repetition.
        assert times[seq] <= 1 + doubtful[seq], f"{seq} was sent without need"
        assert seq not in buried or times[seq] == doubtful[seq], f"{seq} is dead and delivered"
    for run in "abc":
        first = list(
            dict.fromkeys(
                seq
                for seqs in w.accepted
                for seq in seqs
                if seq in parts and parts[seq]["run"] == run
            )
        )
        assert first == sorted(first), f"run {run} out of order"


@settings(deadline=None)
@given(LOGGED, st.sets(st.integers(1, 12)))
def test_every_record_is_in_exactly_one_place(
    drawn: list[tuple[str, bool, bool, bool] | str], acked: set[int]
) -> None:
    with world(1) as w:
        records = [w.record(one) for one in drawn]
    steps = collect_steps([one for one in stored(*records) if one.seq not in acked])
    placed = Counter(
        [seq for one in (*steps.complete, *steps.open) for seq in one.seqs]
        + [one.stored.seq for one in steps.rejected]
    )
    for seq, (kind, _) in enumerate(records, 1):
        if kind == "step":
            assert placed[seq] == (seq not in acked)
        assert placed[seq] <= 1
    for run in "abc":
        seqs = [seq for one in steps.complete if one.run == run for seq in one.seqs]
        assert seqs == sorted(seqs)
        assert sum(one.run == run for one in steps.open) <= 1
    for one in (*steps.complete, *steps.open):
        numbers = {records[seq - 1][1].get("step", one.step) for seq in one.seqs}
        assert numbers == {one.step}
        assert list(one.seqs) == sorted(one.seqs)

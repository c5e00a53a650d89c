"""Stored records become whole steps: parts merge, ends are seen, nonsense is refused alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from shipper.steps import CollectedSteps, collect_steps, cut_off
from spooler.spool import codec
from spooler.spool.reader import Stored
from tests.kit.shipping import T0, Record, finish, goodbye, step, stored


def collected(*records: Record, acked: Collection[int] = ()) -> CollectedSteps:
    """Of the records that are not acknowledged yet, which the pipeline hands over."""
    return collect_steps([one for one in stored(*records) if one.seq not in acked])


def told(steps: CollectedSteps) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Run and number of the complete steps and of the open ones."""
    return [(s.run, s.step) for s in steps.complete], [(s.run, s.step) for s in steps.open]


def test_parts_of_a_step_are_one_step_and_later_values_win() -> None:
    steps = collected(
        step(3, closed=False, loss=1.0, lr=0.1), step(3, closed=False, loss=2.0), step(3, acc=0.5)
    )
    (merged,) = steps.complete
    assert merged.data == {"loss": 2.0, "lr": 0.1, "acc": 0.5}
    assert merged.seqs == (1, 2, 3)
    assert (merged.first, merged.last) == (1, 3)
    assert not steps.open


def test_the_time_of_a_step_is_that_of_its_first_part() -> None:
    late = ("step", {"run": "r", "step": 3, "time": T0 + 99, "closed": True, "data": {"b": 1}})
    (merged,) = collected(step(3, closed=False, a=1), late).complete
    assert merged.time == T0 + 3


def test_nested_values_get_names_joined_by_dots_in_every_part() -> None:
    parts = collected(step(1, closed=False, a={"b": {"c": 1}}), step(1, a={"b": {"d": 2}}))
    assert parts.complete[0].data == {"a.b.c": 1, "a.b.d": 2}


def test_a_step_that_wandb_did_not_close_stays_open() -> None:
    assert told(collected(step(1), step(2, closed=False))) == ([("r", 1)], [("r", 2)])


def test_an_explicit_step_ends_with_the_next_number() -> None:
    steps = collected(*(step(number, closed=False) for number in (1, 2, 5)))
    assert told(steps) == ([("r", 1), ("r", 2)], [("r", 5)])


def test_a_number_that_comes_back_after_another_is_a_step_of_its_own() -> None:
    steps = collected(step(1, a=1), step(2), step(1, b=2))
    assert told(steps)[0] == [("r", 1), ("r", 2), ("r", 1)]
    assert [s.data for s in steps.complete][::2] == [{"a": 1}, {"b": 2}]


def test_runs_between_each_other_do_not_end_or_mix_each_other() -> None:
    steps = collected(
        step(1, run="a", closed=False, x=1),
        step(1, run="b", closed=False, x=2),
        step(1, run="a", y=3),
        step(2, run="b", closed=False, x=4),
    )
    assert told(steps) == ([("a", 1), ("b", 1)], [("b", 2)])
    assert steps.complete[0].data == {"x": 1, "y": 3}
    assert steps.complete[0].seqs == (1, 3)


def test_complete_steps_come_in_the_order_of_their_first_part() -> None:
    steps = collected(
        step(1, run="a", closed=False), step(1, run="b"), step(2, run="b"), step(1, run="a")
    )
    assert [s.first for s in steps.complete] == [1, 2, 3]


def test_the_end_of_a_run_closes_its_step_and_no_other() -> None:
    steps = collected(step(1, run="a", closed=False), step(1, run="b", closed=False), finish("a"))
    assert told(steps) == ([("a", 1)], [("b", 1)])


def test_the_end_of_the_process_closes_every_step() -> None:
    steps = collected(step(1, run="a", closed=False), step(1, run="b", closed=False), goodbye())
    assert told(steps) == ([("a", 1), ("b", 1)], [])


@pytest.mark.parametrize("kind", ["run", "detection", "something of next year"])
def test_other_kinds_neither_end_a_step_nor_are_refused(kind: str) -> None:
    other = Stored(seq=2, kind=kind, body=b"\xc1 not even msgpack")
    records = [*stored(step(1, closed=False, a=1)), other, *stored(step(1, b=2), first=3)]
    steps = collect_steps(records)
    assert [s.seqs for s in steps.complete] == [(1, 3)]
    assert not steps.rejected
    assert [passed.seq for passed in steps.skipped] == [2]


def gap(count: Any = 12, reason: Any = "disk-full") -> Record:
    return "gap", {"time": T0, "reason": reason, "count": count, "first": T0, "last": T0}


def test_a_gap_is_told_by_the_step_that_follows_it() -> None:
    steps = collected(step(1, a=1), gap(), step(2, b=2))
    assert [s.data for s in steps.complete] == [
        {"a": 1},
        {"lens-ship/dropped/disk-full": 12, "b": 2},
    ]
    assert [s.seqs for s in steps.complete] == [(1,), (2, 3)]
    assert steps.gaps == ()


def test_a_gap_within_a_step_is_a_part_of_it() -> None:
    (merged,) = collected(step(1, closed=False, a=1), gap(), step(1, b=2)).complete
    assert merged.seqs == (1, 2, 3)


def test_a_gap_that_no_step_follows_waits_to_be_told() -> None:
    steps = collected(step(1), gap(), ("step", {**GOOD, "time": "x"}))
    assert steps.gaps == (2,)
    assert steps.skipped == ()


def test_a_gap_is_reported_once_when_the_step_after_it_is_acknowledged() -> None:
    steps = collected(gap(), step(1, run="a"), step(1, run="b", x=1), acked={1, 2})
    assert [s.data for s in steps.complete] == [{"x": 1}]
    assert steps.gaps == ()


@pytest.mark.parametrize("bad", [gap(count="many"), gap(reason=None), ("gap", {})])
def test_a_gap_that_says_nothing_is_passed_over(bad: Record) -> None:
    steps = collected(bad, step(1, a=1))
    assert [s.data for s in steps.complete] == [{"a": 1}]
    assert [passed.seq for passed in steps.skipped] == [1]


@pytest.mark.promise("G4")
def test_runs_do_not_wait_for_each_other() -> None:
    records = (step(1, run="a"), step(1, run="b"), step(2, run="a"), step(2, run="b"))
    steps = collected(*records, acked={1, 3})
    assert told(steps)[0] == [("b", 1), ("b", 2)]


def test_an_open_step_goes_on_after_parts_that_are_acknowledged() -> None:
    parts = (step(1, closed=False, a=1), step(1, closed=False, b=2), step(1, c=3))
    (rest,) = collected(*parts, acked={1, 2}).complete
    assert (rest.seqs, rest.data) == ((3,), {"c": 3})


GOOD: dict[str, Any] = step(2)[1]
WRONG = {
    "run": [None, 7, b"r", ["r"]],
    "step": [None, 2.0, "2", True, [2]],
    "time": [None, True, "now", [T0]],
    "data": [None, 7, "loss", [["loss", 1]], {5: 1}, {b"loss": 1}, {None: 1}],
    "closed": [None, 1, "true"],
}
CASES = [(field, value) for field, values in WRONG.items() for value in values]


@pytest.mark.promise("G7")
@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_malformed_field_costs_that_record(field: str, value: Any) -> None:
    bad = ("step", {**GOOD, field: value})
    steps = collected(step(1), bad, step(3))
    assert told(steps) == ([("r", 1), ("r", 3)], [])
    (refused,) = steps.rejected
    assert refused.stored.seq == 2
    assert refused.reason == "malformed"
    assert field in refused.detail


@pytest.mark.promise("G7")
@pytest.mark.parametrize("field", sorted(WRONG))
def test_a_missing_field_costs_that_record(field: str) -> None:
    bad = ("step", {name: value for name, value in GOOD.items() if name != field})
    steps = collected(bad, step(3))
    assert told(steps)[0] == [("r", 3)]
    assert field in steps.rejected[0].detail


@pytest.mark.promise("G7")
@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x93\x01\x02\x03", codec.pack(GOOD)[:-1], codec.pack(GOOD) + b"\x00"]
)
@pytest.mark.parametrize("kind", ["step", "finish"])
def test_a_body_that_is_no_map_costs_that_record(kind: str, body: bytes) -> None:
    records = [*stored(step(1)), Stored(seq=2, kind=kind, body=body), *stored(step(3), first=3)]
    steps = collect_steps(records)
    assert told(steps)[0] == [("r", 1), ("r", 3)]
    assert [(r.stored.seq, r.reason) for r in steps.rejected] == [(2, "unreadable")]


@pytest.mark.promise("G7")
@pytest.mark.parametrize("levels", [900, 1020])
def test_a_value_nested_beyond_reason_costs_that_record(levels: int) -> None:
    deep = codec.pack(GOOD).replace(
        codec.pack({"data": GOOD["data"]})[1:],
        codec.pack({"data": 0})[1:-1] + b"\x81\xa1a" * levels + b"\x01",
    )
    steps = collect_steps([Stored(seq=1, kind="step", body=deep), *stored(step(3), first=2)])
    assert told(steps)[0][-1] == ("r", 3)
    assert len(steps.rejected) + len(steps.complete) == 2


def test_a_finish_without_its_run_is_refused_and_closes_nothing() -> None:
    steps = collected(step(1, closed=False), ("finish", {"time": T0}))
    assert told(steps) == ([], [("r", 1)])
    assert [r.detail for r in steps.rejected] == ["run is missing"]


def test_one_refused_part_leaves_the_other_parts_of_the_step() -> None:
    steps = collected(step(1, closed=False, a=1), ("step", {**GOOD, "time": "x"}), step(1, b=2))
    assert [s.data for s in steps.complete] == [{"a": 1, "b": 2}]
    assert len(steps.rejected) == 1


def inherited(number: int, run: str = "r") -> Record:
    """A step that a child logged to its parent's run."""
    kind, body = step(number, run=run)
    return kind, {**body, "inherited": True}


def test_a_step_knows_whether_another_process_has_begun_its_run() -> None:
    kind, body = inherited(2)
    part = (kind, {**body, "closed": False})
    given = (kind, {**body, "step_given": True})
    assert [one.own_count for one in collected(step(1), inherited(1)).complete] == [False, True]
    assert [one.own_count for one in collected(part, inherited(2), given).complete] == [True, False]


@pytest.mark.promise("G16")
@pytest.mark.parametrize(
    ("records", "runs"),
    [
        ([step(0, run="a"), step(1, run="b")], ["a", "b"]),
        ([step(0, run="a"), finish("a"), step(1, run="b")], ["b"]),
        ([step(0, run="a"), step(1, run="b"), finish("a"), finish("b")], []),
        ([inherited(0, "a"), step(1, run="b")], ["b"]),
        ([inherited(0, "a")], []),
        ([step(0, run="a"), goodbye()], []),
        ([step(0, run="a"), goodbye(), step(1, run="a")], []),  # of a thread that went on
        ([], []),
    ],
)
def test_only_a_run_that_its_process_began_and_left_open_is_cut_off(
    records: list[Record], runs: list[str]
) -> None:
    assert [one.run for one in cut_off(stored(*records))] == runs

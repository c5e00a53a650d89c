"""Runs of one workload that write the same names into the same rows."""

from __future__ import annotations

from typing import Any

import pytest

from shipper.status.shared_names import (
    FirstSteps,
    NameWriter,
    SharedNames,
    find_shared,
    first_steps,
)
from shipper.steps import Stored
from spooler.spool import codec
from tests.kit.shipping import step

BEGIN = FirstSteps("a", 0, frozenset({"loss", "lr"}), False, False)


def writer(
    run: str,
    began: float,
    newest: float | None = None,
    *,
    rank: int | None = 0,
    workload: str = "w",
    **steps: Any,
) -> NameWriter:
    newest = began + 5 if newest is None else newest
    begin = BEGIN._replace(run=run, **steps)
    return NameWriter(workload=workload, rank=rank, began=began, newest=newest, steps=begin)


def pairs(*writers: NameWriter) -> list[tuple[str, str, bool]]:
    return [(one.earlier, one.later, one.at_once) for one in find_shared(writers)]


@pytest.mark.parametrize(
    "writers",
    [
        (),
        (writer("a", 0),),
        (writer("a", 0), writer("b", 10, step=5)),  # a restart from a checkpoint
        (writer("a", 0), writer("a", 10)),  # a restart under the same id
        (writer("a", 0), writer("b", 1, rank=1)),
        (writer("a", 0), writer("b", 1, workload="v")),
        (writer("a", 0), writer("b", 1, run_prefix=True)),
        (writer("a", 0), writer("b", 1, names=frozenset({"accuracy"}))),
        (writer("a", 0, rank=6, sole_writer=True), writer("b", 1, rank=7)),
    ],
)
def test_runs_that_share_no_row_or_no_name_and_restarts_are_not_reported(
    writers: tuple[NameWriter, ...],
) -> None:
    assert pairs(*writers) == []


@pytest.mark.parametrize(
    ("writers", "at_once"),
    [
        ((writer("a", 0), writer("b", 10)), False),  # a loop over parameters
        ((writer("a", 0), writer("b", 1)), True),  # trials beside each other
        ((writer("a", 0), writer("b", 1, step=50)), True),
        ((writer("a", 0, rank=None), writer("b", 1, rank=None)), True),  # ranks without a number
        ((writer("a", 0), writer("b", 1, rank=7, sole_writer=True)), True),
        (
            (writer("a", 0, rank=6, sole_writer=True), writer("b", 1, rank=7, sole_writer=True)),
            True,
        ),
    ],
)
def test_runs_that_replace_values_of_each_other_are_reported(
    writers: tuple[NameWriter, ...], at_once: bool
) -> None:
    assert pairs(*writers) == [("a", "b", at_once)]


def test_one_pair_of_a_workload_is_reported_the_newest() -> None:
    many = [writer(f"r{number}", 10.0 * number) for number in range(1000)]
    assert find_shared(many) == (
        SharedNames(
            workload="w",
            earlier="r998",
            later="r999",
            ranks=(0, 0),
            step=0,
            at_once=False,
            names=("loss", "lr"),
        ),
    )


def stored(seq: int, record: tuple[str, dict[str, Any]]) -> Stored:
    kind, body = record
    return Stored(seq=seq, kind=kind, body=codec.pack(body))


def test_the_first_steps_of_the_first_run_say_how_a_spool_begins() -> None:
    first = step(3, run="a", loss=1.0)
    first[1]["sole_writer"] = True
    given = [("run", {"run": "a", "time": 1.0}), ("step", {"run": 1}), first]
    given += [step(4, run="a", lr=0.5), step(0, run="b", accuracy=1.0)]
    records = [stored(seq, record) for seq, record in enumerate(given, 1)]
    assert first_steps(records) == FirstSteps("a", 3, frozenset({"loss", "lr"}), True, False)
    assert first_steps(records[:2]) is None, "no step yet"
    assert first_steps(records[1:]) is None, "the beginning is deleted"
    assert first_steps([]) is None

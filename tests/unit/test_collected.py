"""The count of collected lines must see what is lost, doubled, of nobody's, or out of order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.kit.collected import (
    LOG,
    STACKS,
    Collected,
    ReportCounts,
    log_lines,
    stacks,
    unclean_exits,
)

LINES = ("step 1", "step 2", "saved", "step 3", "saved")
GOODBYE = "lens-ship: process 7 on vm ended without a goodbye; last step 3 of run r\n"


def report(*lines: str, data_type: str = LOG) -> dict[str, Any]:
    return {"data_type": data_type, "data_content": "".join(f"{line}\n" for line in lines)}


def count(stored: Sequence[Any], recorded: Sequence[Any] = (report(*LINES),)) -> ReportCounts:
    return log_lines(Collected(lines=LINES, stacks_asked=0, recorded=[recorded], stored=stored))


@pytest.mark.parametrize(
    "stored",
    [
        [report(*LINES)],
        [report(*LINES[:2]), report(*LINES[2:])],
        [report(*LINES[:2]), {"data_type": LOG, "data_content": GOODBYE}, report(*LINES[2:])],
        [report(*LINES[:4]), report("a stack", data_type=STACKS), report(LINES[4])],
    ],
)
def test_whole_however_it_is_cut(stored: list[Any]) -> None:
    assert count(stored) == ReportCounts(written=5, recorded=5, delivered=5)


@pytest.mark.parametrize(
    ("stored", "faults"),
    [
        ([], {"lost": 5}),
        ([report(*LINES[:4])], {"delivered": 4, "lost": 1}),
        ([report(*LINES), report("step 2")], {"delivered": 5, "duplicated": 1}),
        ([report(*LINES, "saved")], {"delivered": 5, "duplicated": 1}),
        ([report(*LINES, "step 4")], {"delivered": 5, "changed": 1}),
        ([report(*LINES[1:], LINES[0])], {"delivered": 5, "disordered": 1}),
    ],
)
def test_every_fault_is_seen(stored: list[Any], faults: dict[str, int]) -> None:
    assert count(stored) == ReportCounts(written=5, recorded=5, **faults)


def test_order_is_that_of_each_process() -> None:
    first, second = [report(*LINES[:2])], [report(*LINES[2:])]
    found = Collected(
        lines=LINES, stacks_asked=0, recorded=[first, second], stored=[*second, *first]
    )

    assert log_lines(found) == ReportCounts(written=5, recorded=5, delivered=5)


def test_a_line_that_was_recorded_twice_or_not_at_all_shows() -> None:
    assert count([report(*LINES)], [report(*LINES, "saved")]).recorded == 6
    assert count([report(*LINES)], [report(*LINES[1:])]).recorded == 4


def test_stacks_that_were_asked_for_and_not_taken_show() -> None:
    taken = [report("a", data_type=STACKS), report(*LINES)]

    found = stacks(Collected(lines=LINES, stacks_asked=2, recorded=[taken], stored=taken[:1]))

    assert found == ReportCounts(written=2, recorded=1, delivered=1)


def test_the_rest_of_a_dump_is_no_further_look() -> None:
    title = "--- the thread that took the signal, then"
    begun, rest = [title, "Stack (most recent call first):"], [title, "  File"]
    taken = [report(*lines, data_type=STACKS) for lines in (begun, rest)]

    found = stacks(Collected(lines=LINES, stacks_asked=1, recorded=[taken], stored=taken))

    assert found == ReportCounts(written=2, recorded=2, delivered=2)


def test_unclean_exits_are_counted_once() -> None:
    told = {"data_type": LOG, "data_content": GOODBYE}

    assert unclean_exits([told, told, report("step 1")]) == 1

"""Whatever a record says of axes: each value is in one row, and each row has a step."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shipper.steps import collect_steps, cut_off
from spooler.errors import BodyUnreadable
from spooler.hooks.axes import RunAxes
from spooler.records import axis, step
from tests.kit.shipping import stored

NAMES = st.sampled_from(["a", "b", "t/a", "t/b", "_p", "s", "t", "n.x"])
NUMBERS = st.one_of(
    st.integers(-5, 2**63), st.floats(), st.integers(0, 100), st.just(True), st.text(max_size=2)
)
DATA = st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=6)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def check(record: dict[str, Any], number: int) -> None:
    (found,) = collect_steps(stored(("step", record))).complete
    names = [name for _, row in found.rows() for name in row]
    assert len(names) == len(set(names))
    added = {axis for axis, (last, _) in (record.get("axes") or {}).items() if last is not None}
    assert set(record["data"]) <= set(names) <= set(record["data"]) | added
    steps = [row for row, _ in found.rows()]
    assert steps == sorted(set(steps), reverse=True)
    assert all(one == number or 0 <= one < 2**31 for one in steps)


@given(
    st.lists(
        st.tuples(st.sampled_from(["*", "t/*", "a", "t/a", "s", "_p"]), NAMES, st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.lists(DATA, max_size=4),
    st.sampled_from([0, None]),
)
def test_rows_of_any_run_hold_each_value_once(
    definitions: list[tuple[str, str, bool]], rows: list[dict[str, Any]], first: int | None
) -> None:
    axes = RunAxes(first)
    for name, metric, sync in definitions:
        axes.define(axis.encode("r", 0.0, name, step_metric=metric, step_sync=sync))
    for number, data in enumerate(rows):
        check(step.encode("r", number, 1.0, True, data, axes=axes.of_step(data)), number)


@given(DATA, st.dictionaries(NAMES, st.tuples(ODD, ODD).map(list) | ODD, max_size=3) | ODD)
def test_any_axes_of_a_record_are_taken_or_refused(data: dict[str, Any], axes: Any) -> None:
    record = {"run": "r", "step": 3, "time": 1.0, "closed": True, "data": data, "axes": axes}
    refused = True
    with suppress(BodyUnreadable):
        step.decode(record)
        refused = False
    cut_off(stored(("step", record)))
    if not refused:
        check(record, 3)

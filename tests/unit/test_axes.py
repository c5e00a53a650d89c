"""Which step the values of a row belong to, where a run has defined axes."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from shipper.steps import collect_steps, cut_off
from spooler.errors import MalformedBody
from spooler.hooks.axes import RunAxes
from spooler.records import axis, step
from spooler.records.axes import STEP_KEYS, rows
from spooler.records.values import careful
from tests.kit.shipping import finish, stored

Calls = list[tuple[str, dict[str, Any]]]


def define(name: str, step_metric: str = "", sync: bool = True, overwrite: bool = False) -> Any:
    body = axis.encode(
        run="r",
        time=0.0,
        name=name,
        step_metric=step_metric,
        step_sync=sync and bool(step_metric),
        overwrite=overwrite,
    )
    return "axis", body


def log(closed: bool = True, /, **data: Any) -> Any:
    return "log", {"closed": closed, "data": {k.replace("__", "/"): v for k, v in data.items()}}


def drawn(*calls: Any, first: int | None = 0, **more: Any) -> list[dict[int, Mapping[str, Any]]]:
    """The rows of each step of a run that makes these calls."""
    axes, records, number = None, [], 0
    for kind, body in calls:
        if kind == "axis":
            axes = axes or RunAxes(first)
            axes.define(body)
            continue
        carried = axes.of_step(body["data"]) if axes else None
        data = careful(body["data"])
        made = step.encode("r", number, 1.0, body["closed"], data, axes=carried, **more)
        records.append(("step", made))
        number += body["closed"]
    return [dict(one.rows()) for one in collect_steps(stored(*records, finish("r"))).complete]


TRAINER = [define("train/global_step"), define("*", "train/global_step")]


def test_a_row_has_the_step_of_its_axis() -> None:
    rows = drawn(*TRAINER, log(loss=1, train__global_step=10), log(loss=2, train__global_step=20.0))
    assert [[*row] for row in rows] == [[10], [20]]
    assert rows[0][10] == {"loss": 1, "train/global_step": 10}


def test_a_row_that_lacks_its_axis_has_its_last_value() -> None:
    rows = drawn(*TRAINER, log(table=1), log(loss=1, train__global_step=10), log(table=2))
    assert rows == [
        {0: {"table": 1, "train/global_step": 0}},
        {10: {"loss": 1, "train/global_step": 10}},
        {10: {"table": 2, "train/global_step": 10}},
    ]
    assert drawn(*TRAINER, log(x=1), log(x=2), first=None) == [{0: {"x": 1}}, {1: {"x": 2}}]


def test_without_step_sync_such_a_row_has_the_tracker_s_number() -> None:
    calls = (define("a", "s", sync=False), log(a=1), log(a=1, s=7), log(a=2))
    assert drawn(*calls) == [{0: {"a": 1}}, {7: {"a": 1, "s": 7}}, {2: {"a": 2}}]


def test_values_with_several_axes_are_several_rows() -> None:
    calls = (define("train/*", "t"), define("eval/*", "e"), log(train__a=1, eval__a=2, t=50, e=3))
    assert drawn(*calls) == [{50: {"train/a": 1, "t": 50}, 3: {"eval/a": 2, "e": 3}}]
    calls = (define("train/*", "t"), log(train__a=1, other=2, t=50))
    assert drawn(*calls) == [{50: {"train/a": 1, "t": 50}, 0: {"other": 2}}]


@pytest.mark.parametrize("kind", [dict, OrderedDict, defaultdict])
def test_names_in_a_map_have_axes_too(kind: Any) -> None:
    made = kind()
    made["a"] = 1
    calls = (define("sub.a", "s"), log(sub=made, b=2, s=50))
    assert drawn(*calls) == [{50: {"sub.a": 1, "s": 50}, 0: {"b": 2}}]


def test_an_evaluation_at_a_step_of_the_training_is_in_its_row() -> None:
    logged = drawn(*TRAINER, log(loss=1, train__global_step=5), log(eval=2, train__global_step=5))
    assert [[*row] for row in logged] == [[5], [5]]


def test_an_exact_name_goes_before_the_longest_beginning() -> None:
    calls = (
        define("*", "s"),
        define("train/*", "t"),
        define("train/loss", "u"),
        define("train/own"),
        log(a=1, train__a=2, train__loss=3, train__own=4, s=10, t=20, u=30),
    )
    assert drawn(*calls) == [
        {
            30: {"train/loss": 3, "u": 30},
            20: {"train/a": 2, "t": 20},
            10: {"a": 1, "s": 10},
            0: {"train/own": 4},
        }
    ]


def test_a_definition_counts_from_its_call_on() -> None:
    calls = (log(a=1, s=7), define("*", "s"), log(a=2, s=8), define("*", "t"), log(a=3, b=4, t=9))
    assert drawn(*calls) == [
        {0: {"a": 1, "s": 7}},
        {8: {"a": 2, "s": 8}},
        {8: {"a": 3, "s": 8}, 9: {"b": 4, "t": 9}},  # a name keeps its first one
    ]


def test_a_later_definition_adds_to_an_earlier_one_or_takes_its_place() -> None:
    later = (define("a", "s"), define("a"), log(a=1, s=5))
    assert drawn(*later) == [{5: {"a": 1, "s": 5}}]
    anew = (define("a", "s"), define("a", overwrite=True), log(a=1, s=5))
    assert drawn(*anew) == [{0: {"a": 1}, 5: {"s": 5}}]


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 2**31, "text", None, True, [1]])
def test_a_row_whose_axis_is_no_step_has_the_tracker_s_number(value: Any) -> None:
    first, bad, last = drawn(define("*", "s"), log(a=1, s=5), log(a=2, s=value), log(a=3, s=6))
    assert ([*first], [*bad], [*last]) == ([5], [1], [6])


def test_an_axis_that_was_once_a_fraction_is_not_used_again() -> None:
    logged = drawn(
        define("*", "epoch"),
        log(a=1, epoch=0.0),
        log(a=2, epoch=0.5),
        log(a=3, epoch=1.0),
        log(a=4),
    )
    assert [[*row] for row in logged] == [[0], [1], [2], [3]]
    assert logged[3] == {3: {"a": 4, "epoch": 1.0}}


def test_an_axis_that_goes_back_is_believed() -> None:
    logged = drawn(*TRAINER, *(log(a=1, train__global_step=n) for n in (100, 200, 150)))
    assert [[*row] for row in logged] == [[100], [200], [150]]


def test_parts_of_a_step_are_one_row() -> None:
    part, last = log(False, a=1), log(b=2, train__global_step=30)
    (row,) = drawn(*TRAINER, part, last)
    assert row == {30: {"a": 1, "b": 2, "train/global_step": 30}}
    calls = (define("t/*", "t"), define("e/*", "e"), log(False, t__a=1, e__a=2), log(t=8, e=3))
    assert drawn(*calls) == [{8: {"t/a": 1, "t": 8}, 3: {"e/a": 2, "e": 3}}]


def test_numbers_of_other_libraries_and_nested_maps_are_axes_too() -> None:
    values: list[Any] = [np.int64(4), np.float32(4), np.array(4), np.float64(4)]
    for value in values:
        assert [*drawn(define("*", "s"), log(a=1, s=value), log(a=2))[1]] == [4]
    assert drawn(define("*", "n.s"), log(n={"s": 6, "a": 1})) == [{6: {"n.s": 6, "n.a": 1}}]


def test_wandb_s_own_names_have_no_row_and_no_axis() -> None:
    assert drawn(define("*", "_step"), log(a=1), log(a=2)) == [{0: {"a": 1}}, {1: {"a": 2}}]
    logged = drawn(define("t/*", "t"), define("e/*", "e"), log(t__a=1, t=9, e__a=1, e=4, _x=5))
    assert logged == [{9: {"t/a": 1, "t": 9}, 4: {"e/a": 1, "e": 4, "_x": 5}}]


def test_what_cannot_be_flattened_costs_only_its_axis() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    axes = RunAxes(0)
    axes.define(define("*", "s")[1])
    assert axes.of_step({"deep": deep, "s": 5}) is None


@pytest.mark.parametrize("key", STEP_KEYS)
def test_known_keys_are_the_step_where_no_axis_was_defined(key: str) -> None:
    logged = ("log", {"closed": True, "data": {"loss": 1, key: 40}})
    assert drawn(logged) == [{40: {"loss": 1, key: 40}}]
    assert [*drawn(logged, step_given=True)[0]] == [0], "the caller named the step"
    assert [*drawn(define("other", "o"), logged)[0]] == [0], "the run has axes of its own"
    assert rows(3, {key: 40}, None, ()).rows == ((3, {key: 40}),)


def test_the_first_known_key_with_a_step_counts() -> None:
    data = {"global_step": 1, "trainer/global_step": 2, "train/global_step": "?"}
    assert rows(0, data, None, STEP_KEYS).rows == ((2, data),)


def test_a_forked_child_s_count_is_told_apart_and_its_axis_is_not() -> None:
    data = {"loss": 1, "global_step": 5}
    for body, own in (({"loss": 1}, True), (data, False)):
        record = step.encode("r", 0, 1.0, True, body, inherited=True)
        (found,) = collect_steps(stored(("step", record))).complete
        assert found.own_count == own


def test_the_end_of_a_killed_process_is_at_the_step_of_its_last_row() -> None:
    axes = {"train/global_step": [70, None]}
    (end,) = cut_off(stored(("step", step.encode("r", 7, 1.0, True, {"a": 1}, axes=axes))))
    assert (end.step, end.data, end.more) == (70, {"lens-ship/cut_off": 1}, ())


@pytest.mark.parametrize(
    "axes", [{"s": 1}, {"s": [1]}, {"s": ["1", None]}, {"s": [None, [1]]}, {"s": [True, None]}, 5]
)
def test_a_body_with_axes_of_another_form_is_malformed(axes: Any) -> None:
    with pytest.raises(MalformedBody, match="axes"):
        step.decode({**step.EXAMPLE, "axes": axes})

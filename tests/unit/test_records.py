"""Record kinds: bodies have the fields their files name, and a step's data flattens as wandb's."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from spooler.records import REGISTRY, detection, finish, gap, run, step
from spooler.records import exit as exit_record

KINDS = sorted(REGISTRY)


@pytest.mark.parametrize("kind", KINDS)
def test_every_body_has_the_time_as_a_float(kind: str) -> None:
    assert isinstance(import_module(REGISTRY[kind]).EXAMPLE["time"], float)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_named_like_its_line_and_made_like_its_example(kind: str) -> None:
    module = import_module(REGISTRY[kind])
    assert kind == module.NAME
    assert isinstance(module.EXAMPLE, dict)
    assert all(isinstance(key, str) for key in module.EXAMPLE)


def test_what_make_is_given_stands_in_the_body() -> None:
    assert step.encode(run="r", step=3, time=1.5, closed=False, data={"a": 1}) == {
        "run": "r",
        "step": 3,
        "time": 1.5,
        "closed": False,
        "data": {"a": 1},
    }
    assert run.make(run="r", time=1.5, facts={"project": "p"}) == {
        "run": "r",
        "time": 1.5,
        "project": "p",
    }
    assert finish.encode(run="r", time=1.5, step=None, exit_code=1) == {
        "run": "r",
        "time": 1.5,
        "step": None,
        "exit_code": 1,
    }
    assert gap.encode(time=3.0, reason="disk-full", count=2, first=1.0, last=2.0) == {
        "time": 3.0,
        "reason": "disk-full",
        "count": 2,
        "first": 1.0,
        "last": 2.0,
    }
    assert exit_record.encode(time=1.0, steps={"r": 4}) == {"time": 1.0, "steps": {"r": 4}}
    assert detection.make(run="r", time=1.0, look=2, evidence={"a": {}}, hints={}) == {
        "run": "r",
        "time": 1.0,
        "look": 2,
        "evidence": {"a": {}},
        "hints": {},
    }


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ({}, {}),
        ({"a": 1, "b": None}, {"a": 1, "b": None}),
        ({"a": {"b": {"c": 1}, "d": 2}, "e": 3}, {"a.b.c": 1, "a.d": 2, "e": 3}),
        ({"a": {}}, {}),
        ({"a": {"x": {"y": {}}}, "b": 1}, {"b": 1}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}]}),
        ({"a": {1: 2}}, {"a.1": 2}),
        ({"a": {"b": 1}, "a.b": 2}, {"a.b": 2}),
        ({"a.b": 2, "a": {"b": 1}}, {"a.b": 1}),
        (
            {"m": {"_type": "histogram", "class": "x"}, "n": {"h": {"_type": "table"}}},
            {"m": {"_type": "histogram", "class": "x"}, "n.h": {"_type": "table"}},
        ),
    ],
)
def test_nested_data_gets_the_names_that_wandb_shows(
    nested: dict[str, Any], flat: dict[str, Any]
) -> None:
    before = repr(nested)
    assert step.flatten(nested) == flat
    assert repr(nested) == before


def test_flat_data_stays_as_it_is() -> None:
    data = {"loss": 2.5, "image": "a.png", "none": None}
    assert step.flatten(dict(data)) == data

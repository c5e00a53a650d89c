"""Record kinds: bodies have the fields their files name, and a step's data flattens as wandb's."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from spooler.errors import MalformedBody
from spooler.records import REGISTRY, finish, gap, run, step
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


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_encoded_decodes_to_the_same(kind: str) -> None:
    module = import_module(REGISTRY[kind])
    record = module.decode(module.EXAMPLE)
    assert module.encode(**record._asdict()) == module.EXAMPLE


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_with_fields_of_a_later_version_decodes(kind: str) -> None:
    module = import_module(REGISTRY[kind])
    assert module.decode({**module.EXAMPLE, "of next year": [1]}) == module.decode(module.EXAMPLE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_is_not_one_of_its_kind_is_refused_with_the_field(kind: str) -> None:
    module = import_module(REGISTRY[kind])
    for name in module.decode(module.EXAMPLE)._fields:
        if name not in module.EXAMPLE:
            continue
        with pytest.raises(MalformedBody, match=name):
            module.decode({**module.EXAMPLE, name: {1}})
        rest = {key: value for key, value in module.EXAMPLE.items() if key != name}
        if name in type(module.decode(module.EXAMPLE))._field_defaults:
            module.decode(rest)
        else:
            with pytest.raises(MalformedBody, match=f"{name} is missing"):
                module.decode(rest)


def test_a_body_holds_what_it_was_given_and_no_empty_optional_field() -> None:
    assert step.encode(run="r", step=3, time=1.5, closed=False, data={"a": 1}) == {
        "run": "r",
        "step": 3,
        "time": 1.5,
        "closed": False,
        "data": {"a": 1},
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


def test_records_of_earlier_versions_get_the_defaults() -> None:
    old = {"run": "r", "step": 3, "time": 1.5, "closed": False, "data": {"a": 1}}
    found = step.decode(old)
    assert (found.tracker, found.step_given, found.inherited) == ("wandb", False, False)
    assert found.axes is None
    begun = run.decode({"run": "r", "time": 1.5, "wandb": "0.31.0", "tags": []})
    assert (begun.tracker, begun.tracker_version) == ("wandb", "0.31.0")


def test_the_step_encoder_writes_what_the_schema_reads() -> None:
    given = step.StepRecord(
        run="r",
        step=3,
        time=1.5,
        closed=True,
        data={"a": 1},
        tracker="other",
        step_given=True,
        inherited=True,
        axes={"n": [7, None]},
        sole_writer=True,
        run_prefix=True,
        accepted=False,
        source={"path": "/train.log", "line": 7},
    )
    body = step.encode(**given._asdict())
    assert body == given._asdict()
    assert step.decode(body) == given


def test_a_run_id_beyond_all_reason_is_refused() -> None:
    with pytest.raises(MalformedBody, match="run is longer"):
        step.decode({**step.EXAMPLE, "run": "r" * 1025})


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_that_is_a_whole_number_is_a_time(kind: str) -> None:
    module = import_module(REGISTRY[kind])
    record = module.decode({**module.EXAMPLE, "time": 1_700_000_000})
    assert (record.time, type(record.time)) == (1.7e9, float)
    with pytest.raises(MalformedBody, match="time is"):
        module.decode({**module.EXAMPLE, "time": True})

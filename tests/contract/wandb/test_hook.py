"""What wandb accepts is recorded as wandb stores it, and wandb itself notices nothing of us."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from spooler.records import run as run_record
from tests.contract.wandb.ran import Ran, assert_as_stored


@pytest.mark.promise("G3")
def test_what_is_recorded_of_a_run_is_what_wandb_stores_of_it(run: Callable[..., Ran]) -> None:
    ran = run("values")
    assert_as_stored(ran.steps(ran.report["run"]), ran.stored(ran.report["run"]))


def test_values_are_recorded_as_the_numbers_and_texts_they_are(run: Callable[..., Ran]) -> None:
    ran = run("values")
    found: dict[str, Any] = {}
    for data in ran.steps(ran.report["run"]).values():
        found |= data
    expected = {
        "int": 7,
        "float": 0.1,
        "true": True,
        "text": "ü",
        "none": None,
        "train.loss": 0.5,
        "train.deep.er": 1,
        "flat": 2,
        "float32": 0.5,
        "int64": 3,
        "0d": 2.5,
        "one": 0.75,
        "bool": True,
        "loss": 0.25,
        "large": 2.0**70,
        "inf": math.inf,
        "ninf": -math.inf,
        "list": [1, 2.5, "x"],
        "small": [0, 1, 2],
    }
    assert {name: found[name] for name in expected} == expected
    assert all(type(found[name]) is type(value) for name, value in expected.items())
    assert math.isnan(found["nan"])
    assert found["largest"] == {"_type": "integer", "bits": 1329, "negative": False}
    assert found["array"] == {"_type": "array", "shape": [10, 10], "dtype": "float64"}


def test_media_are_recorded_as_placeholders(run: Callable[..., Ran]) -> None:
    ran = run("values")
    media = [
        body["data"]["media"]
        for kind, body in ran.records()
        if kind == "step" and "media" in body["data"]
    ]
    assert len(media) == 4
    assert [one["class"].rpartition(".")[2] for one in media[:2]] == ["Histogram", "Html"]
    assert media[0]["_type"] == "histogram"
    assert all(one["_type"] != "object" for one in media)


@pytest.mark.promise("G2")
def test_a_value_that_raises_at_our_touch_costs_itself_alone(run: Callable[..., Ran]) -> None:
    ran = run("values")
    assert ran.report["raises to us"] == ["returned", "NoneType"]
    (data,) = [
        body["data"]
        for kind, body in ran.records()
        if kind == "step" and set(body["data"]) == {"bad", "good"}
    ]
    assert data["good"] == 1
    assert (data["bad"]["_type"], data["bad"]["error"]) == ("error", "KeyError")
    assert ran.said == []


@pytest.mark.promise("G8")
def test_calls_return_and_raise_as_they_do_without_us(run: Callable[..., Ran]) -> None:
    with_us, without = run("values"), run("values", PRIMUS_LENS_WANDB_HOOK="false")
    assert without.spools == []
    own = {"run"}
    assert {k: v for k, v in with_us.report.items() if k not in own} == {
        k: v for k, v in without.report.items() if k not in own
    }
    raised = [name for name, seen in with_us.report.items() if "raised" in str(seen)]
    assert {
        "before init",
        "not a map",
        "keys no text",
        "wrong argument",
        "no argument",
        "raises",
        "after finish",
        "module after finish",
    } <= set(raised)


@pytest.mark.promise("G8")
def test_wandb_stores_what_it_stores_without_us(run: Callable[..., Ran]) -> None:
    with_us, without = run("values"), run("values", PRIMUS_LENS_WANDB_HOOK="false")
    left, right = (one.stored(one.report["run"]) for one in (with_us, without))
    assert left.keys() == right.keys()
    for number, data in left.items():
        assert data.keys() == right[number].keys()
        for name, value in data.items():
            assert isinstance(value, dict) or repr(value) == repr(right[number][name])


@pytest.mark.promise("G8")
def test_the_user_s_map_is_not_changed(run: Callable[..., Ran]) -> None:
    unchanged = {k: v for k, v in run("values").report.items() if k.endswith(" unchanged")}
    assert len(unchanged) > 10
    assert all(unchanged.values())


def test_a_call_that_wandb_refuses_is_not_recorded(run: Callable[..., Ran]) -> None:
    ran = run("values")
    accepted = [
        name
        for name, seen in ran.report.items()
        if f"{name} unchanged" in ran.report and seen[0] == "returned"
    ]
    steps = [body for kind, body in ran.records() if kind == "step"]
    assert len(steps) == len(accepted)
    assert all("a" not in body["data"] for body in steps)


def test_a_run_is_announced_with_its_own_description(run: Callable[..., Ran]) -> None:
    ran = run("values")
    body = ran.one("run", ran.report["run"])
    facts = {name: body[name] for name in ("project", "name", "group", "job_type", "tags", "mode")}
    assert facts == {
        "project": "scenario",
        "name": "all-values",
        "group": "g",
        "job_type": "train",
        "tags": ["one"],
        "mode": "offline",
    }
    begun = run_record.decode(body)
    assert (begun.step, begun.resumed) == (0, False)
    assert body.get("tracker", "wandb") == "wandb"
    assert body["tracker_version"]


def test_evidence_is_looked_for_once_and_its_config_is_the_run_s(run: Callable[..., Ran]) -> None:
    ran = run("values")
    body = ran.one("detection", ran.report["run"])
    assert body["look"] == 1
    assert body["evidence"]["wandb"]["config"] == {"lr": 0.1}

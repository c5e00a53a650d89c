"""A step becomes JSON that the receiver takes, whatever was logged, and no value changes."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from shipper.sinks import values
from shipper.sinks.processor import encode
from shipper.steps import Step
from spooler.spool.identity import Identity
from tests.kit.processor.posts import logs_post, metrics_post
from tests.kit.spools import identity

T0 = 1700000000.25
WHO = identity(workload_uid="w")
Point = dict[str, Any]


def a_step(data: dict[str, Any], *, step: int = 7, time: float = T0, run: str = "r") -> Step:
    return Step(run=run, step=step, time=time, data=data, seqs=(1,))


def named(rank: int | None = None, *, options: dict[str, bool] | None = None, **marks: bool) -> str:
    """The name that `loss` gets."""
    step = a_step({"loss": 1})._replace(**marks)
    found = encode.encode_step(step, identity(pid=7, rank=rank), encode.Options(**options or {}))
    return str(json.loads(found.fragment)["name"])


def test_a_process_that_counts_on_its_own_has_names_of_its_own() -> None:
    assert named(own_count=True) == "process7/loss"
    assert named(2, own_count=True) == "rank2/process7/loss"


def test_the_sole_writer_of_a_job_needs_no_rank() -> None:
    assert named(63, sole_writer=True) == "loss"
    assert named(63, sole_writer=True, run_prefix=True) == "run-r/loss"


def test_a_run_that_asks_for_it_is_set_apart_unless_that_is_switched_off() -> None:
    assert named(run_prefix=True) == "run-r/loss"
    assert named(3, run_prefix=True) == "rank3/run-r/loss"
    assert named(3, run_prefix=True, options={"run_prefix": False}) == "rank3/loss"


def test_rows_of_one_step_are_elements_with_a_step_each() -> None:
    step = a_step({"loss": 1, "t": 7})._replace(more=((3, {"eval": 2.5, "e": math.nan}),))
    found = encode.encode_step(step, WHO, encode.Options())
    points = [(one["name"], one["step"]) for one in json.loads(b"[%b]" % found.fragment)]
    assert points == [("loss", 7), ("t", 7), ("eval", 3), ("e/nonfinite", 3)]
    assert (found.path, found.items, found.points) == ("/wandb/metrics", 4, 4)
    assert (found.seqs, found.nonfinite, found.left_out) == ((1,), 1, 0)


def test_every_row_of_a_step_is_within_the_range_of_the_key() -> None:
    step = a_step({"loss": 1})._replace(more=((-1, {"other": 2}),))
    assert "step -1 is outside" in encode.problem(step)
    assert encode.problem(step._replace(more=((0, {"other": 2}),))) == ""


def test_rows_of_one_step_are_logs_if_one_of_them_holds_text() -> None:
    step = a_step({"loss": 1})._replace(more=((3, {"eval": "good"}), (1, {"empty": None})))
    found = encode.encode_step(step, WHO, encode.Options())
    rows = [(one["step"], one["data"]) for one in json.loads(b"[%b]" % found.fragment)]
    assert rows == [(7, {"loss": 1}), (3, {"eval": "good"})]
    assert (found.path, found.items, found.points, found.left_out) == ("/wandb/logs", 2, 2, 1)
    numbers = encode.encode_step(step, WHO, encode.Options(drop_non_numeric=True))
    assert (numbers.path, numbers.items, numbers.left_out) == ("/wandb/metrics", 1, 2)


def encoded(data: dict[str, Any], who: Identity = WHO, **options: bool) -> encode.EncodedStep:
    return encode.encode_step(a_step(data), who, encode.Options(**options))


def parsed(body: bytes) -> Any:
    """Parse as strictly as can be: UTF-8, no NaN, no name twice in one object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    def refused(token: str) -> Any:
        raise AssertionError(token)

    return json.loads(body.decode(), object_pairs_hook=unique, parse_constant=refused)


def sent(data: dict[str, Any], who: Identity = WHO, **options: bool) -> tuple[str, list[Point]]:
    """The path and the elements of the list, once the receiver's own decoder has taken them."""
    step = encoded(data, who, **options)
    request = encode.Request(path=step.path, run="r", parts=(step,))
    body = encode.body(request, who)
    elements = parsed(body)["logs" if step.path == "/wandb/logs" else "metrics"]
    post = logs_post(body).logs if step.path == "/wandb/logs" else metrics_post(body).metrics
    assert len(elements) == len(post) == step.items == request.items
    return step.path, elements


def metrics(data: dict[str, Any], who: Identity = WHO, **options: bool) -> dict[str, Any]:
    """Names and values of a step that has to be sent as metrics."""
    path, points = sent(data, who, **options)
    assert path == "/wandb/metrics"
    return {point["name"]: point["value"] for point in points}


def logs(data: dict[str, Any], who: Identity = WHO) -> dict[str, Any]:
    """The values of a step that has to be sent as one entry."""
    path, [entry] = sent(data, who)
    assert path == "/wandb/logs"
    values: dict[str, Any] = entry["data"]
    return values


def test_a_point_has_every_field_in_its_type() -> None:
    _, [point] = sent({"loss": 2.5})
    assert point == {"name": "loss", "value": 2.5, "step": 7, "timestamp": T0, "tags": {}}
    assert type(point["step"]) is int
    assert type(point["timestamp"]) is float


@pytest.mark.parametrize(
    "value", [0, -1, 2**53 + 1, 2**64 - 1, -(2**63), 0.1, 1e308, -5e-324, 1e16, -0.0]
)
def test_a_finite_number_arrives_as_it_was(value: float) -> None:
    assert metrics({"x": value}) == {"x": value}


def test_booleans_are_one_and_zero() -> None:
    got = metrics({"yes": True, "no": False})
    assert got == {"yes": 1, "no": 0}
    assert all(type(value) is int for value in got.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_announced_instead(value: float) -> None:
    assert metrics({"loss": value, "lr": 0.1}) == {"lr": 0.1, "loss/nonfinite": 1}
    assert encoded({"loss": value, "lr": 0.1}).nonfinite == 1


def test_a_name_of_the_users_own_is_not_overwritten_by_the_announcement() -> None:
    assert metrics({"loss": math.nan, "loss/nonfinite": 5}) == {"loss/nonfinite": 5}


def test_an_integer_beyond_all_floats_counts_as_infinite() -> None:
    huge = {"_type": "integer", "bits": 2000, "negative": False}
    assert metrics({"n": huge}) == {"n/nonfinite": 1}


def test_none_is_left_out_and_counted() -> None:
    assert metrics({"a": None, "b": 1}) == {"b": 1}
    assert encoded({"a": None, "b": 1}).left_out == 1


@pytest.mark.parametrize("data", [{}, {"a": None}])
def test_a_step_with_nothing_to_say_has_no_elements(data: dict[str, Any]) -> None:
    assert encoded(data).items == 0
    assert encoded(data).fragment == b""


OTHERS: list[tuple[Any, Any]] = [
    ("text", "text"),
    ("", ""),
    ([1, 2.5, "x", None, True], [1, 2.5, "x", None, True]),
    ([math.nan, [math.inf]], ["nan", ["inf"]]),
    ({"_type": "histogram", "class": "H"}, {"_type": "histogram", "class": "H"}),
    (b"\x00\xff", "2 bytes"),
    ({"_type": "x", 5: 1, None: 2}, {"_type": "x", "5": 1, "None": 2}),
]


@pytest.mark.parametrize(("value", "arrives"), OTHERS)
def test_a_value_that_is_no_number_sends_the_whole_step_as_one_entry(
    value: Any, arrives: Any
) -> None:
    assert logs({"loss": 2.5, "other": value, "ok": True}) == {
        "loss": 2.5,
        "other": arrives,
        "ok": 1,
    }


def test_what_is_not_finite_is_announced_in_an_entry_too() -> None:
    assert logs({"loss": math.nan, "note": "diverged"}) == {
        "loss/nonfinite": 1,
        "note": "diverged",
    }


def test_numbers_only_leaves_the_others_out_and_counts_them() -> None:
    data = {"loss": 2.5, "note": "text", "none": None}
    assert metrics(data, drop_non_numeric=True) == {"loss": 2.5}
    assert encoded(data, drop_non_numeric=True).left_out == 2


@pytest.mark.parametrize("levels", [50, 150, 300, 900])
def test_a_deeply_nested_value_is_cut_and_the_step_arrives(levels: int) -> None:
    deep: Any = 1
    for _ in range(levels):
        deep = [deep]
    got = logs({"loss": 2.5, "deep": deep})
    assert got["loss"] == 2.5
    assert ("nested deeper" in json.dumps(got["deep"])) == (levels > 100)


RESERVED = ["step", "run_id", "source", "history", "created_at", "updated_at", "iteration", ""]


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("underscores", ["", "_", "__"])
def test_a_name_of_the_row_itself_gets_an_underscore(name: str, underscores: str) -> None:
    written = name + underscores
    assert metrics({written: 1}) == {f"{written}_": 1}
    assert list(logs({written: "text"})) == [f"{written}_"]


def test_no_two_names_become_one() -> None:
    names = [name + "_" * count for name in [*RESERVED, "loss"] for count in range(4)]
    assert len(metrics(dict.fromkeys(names, 1))) == len(names)


@pytest.mark.parametrize("name", ["target_iteration", "steps", "step/x", "Step", "_step", "loss_"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert metrics({name: 1}) == {name: 1}


@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        ("a\0b", "a\ufffdb"),
        ("gr\u00f6\u00dfe \U0001f600", "gr\u00f6\u00dfe \U0001f600"),
        ("a\ud800b", "a?b"),
        ('quote " \\ \n', 'quote " \\ \n'),
    ],
)
def test_texts_lose_only_what_the_receiver_cannot_hold(name: str, arrives: str) -> None:
    assert metrics({name: 1}) == {arrives: 1}
    assert logs({name: name, "deep": [name, {"_type": name}]}) == {
        arrives: arrives,
        "deep": [arrives, {"_type": arrives}],
    }


@pytest.mark.parametrize("rank", [None, 0])
def test_the_first_rank_and_an_unknown_one_keep_their_names(rank: int | None) -> None:
    assert metrics({"loss": 1}, identity(rank=rank)) == {"loss": 1}


def test_other_ranks_are_set_apart() -> None:
    data = {"loss": 1, "step": 2, "": 3, "x": math.inf}
    expected = {"rank3/loss": 1, "rank3/step": 2, "rank3/": 3, "rank3/x/nonfinite": 1}
    assert metrics(data, identity(rank=3)) == expected
    assert list(logs({"a": "text"}, identity(rank=3))) == ["rank3/a"]


def test_the_rank_prefix_can_be_switched_off() -> None:
    who = identity(rank=3)
    assert metrics({"loss": 1, "step": 2}, who, rank_prefix=False) == {"loss": 1, "step_": 2}


TIMES = [math.nan, math.inf, -math.inf, -1.0, 1.7e12, None, "now", 17, True]


@pytest.mark.parametrize("time", TIMES)
def test_a_time_that_the_receiver_cannot_hold_becomes_that_of_the_spool(time: Any) -> None:
    step = encode.encode_step(a_step({"a": 1, "b": "x"}, time=time), WHO, encode.Options())
    assert step.time == WHO.created
    assert parsed(step.fragment)["timestamp"] == WHO.created


@pytest.mark.parametrize("created", [math.nan, math.inf, -5.0, 1e13])
def test_a_spool_without_a_sane_time_either_is_of_the_beginning(created: float) -> None:
    assert values.sane_time(math.nan, identity(created=created)) == 0.0


@pytest.mark.parametrize("time", [0.0, T0, values.TIME_MAX])
def test_a_sane_time_stays(time: float) -> None:
    assert values.sane_time(time, WHO) == time


@pytest.mark.parametrize("step", [0, 1, 2**31 - 1])
def test_a_step_within_the_receivers_key_has_no_problem(step: int) -> None:
    assert encode.problem(a_step({}, step=step)) == ""


@pytest.mark.parametrize("step", [-1, 2**31, 2**32, 2**64 - 1, -(2**63)])
def test_a_step_beyond_the_receivers_key_can_never_be_sent(step: int) -> None:
    assert str(step) in encode.problem(a_step({}, step=step))


def test_an_entry_is_one_element_and_a_metrics_step_one_for_each_number() -> None:
    for numbers, text in itertools.product(range(1, 4), [False, True]):
        data: dict[str, Any] = {f"n{number}": number for number in range(numbers)}
        step = encoded({**data, "note": "x"} if text else data)
        assert step.items == (1 if text else numbers)

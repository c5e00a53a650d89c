"""Whatever way `Run.log` is called, its numbers are wandb's, or no value meets another."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from shipper.importers import open_imports
from shipper.sinks.processor import encode
from shipper.steps import collect_steps
from tests.contract.wandb.ran import Ran, assert_as_stored
from tests.kit import spools
from tests.kit.wandb_server import wandb_server

# Older ones have no shared runs, or ask more of a server, or end at the end of a child.
newest = pytest.mark.skipif(
    "LENS_SHIP_TEST_PYTHON" in os.environ, reason="is about the newest wandb"
)


@pytest.mark.promise("G3")
@pytest.mark.parametrize("calls", ["given", "lower", "parts"])
def test_a_step_has_the_number_that_wandb_gives_it(calls: str, run: Callable[..., Ran]) -> None:
    ran = run(calls)
    assert_as_stored(ran.steps(ran.report["run"]), ran.stored(ran.report["run"]))


def test_numbers_inside_objects_are_recorded_as_wandb_stores_them(
    run: Callable[..., Ran],
) -> None:
    ran = run("kinds")
    ours, theirs = ran.steps(ran.report["run"]), ran.stored(ran.report["run"])
    assert ours.keys() == theirs.keys()
    for number, stored in theirs.items():
        if not any(isinstance(value, str) for value in stored.values()):  # of an older wandb
            assert ours[number] == stored


def values(rows: dict[int, dict[str, Any]]) -> Counter[tuple[str, Any]]:
    return Counter((name, value) for row in rows.values() for name, value in row.items())


@pytest.mark.promise("G3")
@pytest.mark.parametrize("calls", ["threads", "greenlets", "handler"])
def test_calls_at_one_moment_have_numbers_of_their_own(calls: str, run: Callable[..., Ran]) -> None:
    """Wandb's own: each once. Which of two calls at one moment has which, wandb does not say."""
    ran = run(calls)
    ours, theirs = ran.steps(ran.report["run"]), ran.stored(ran.report["run"])
    if calls == "greenlets" and not theirs:
        pytest.skip("greenlet is not installed")
    assert ours.keys() == theirs.keys()
    assert values(ours) == values(theirs)
    assert max(len(row) for row in ours.values()) == 1
    assert ours[max(ours)] == theirs[max(theirs)] == {"end": 1}


def sent(ran: Ran) -> Counter[tuple[int, str]]:
    """Where the values of all processes go at the receiver: step and name."""
    places: Counter[tuple[int, str]] = Counter()
    for directory in ran.spools:
        reader = spools.Reader(directory)
        for step in collect_steps(reader.read(0, 1000).records).complete:
            encoded = encode.encode_step(step, reader.identity(), encode.Options())
            for point in json.loads(b"[%b]" % encoded.fragment):
                places[point["step"], point["name"]] += 1
    return places


@pytest.mark.promise("G3")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_no_value_of_several_processes_meets_another(method: str, run: Callable[..., Ran]) -> None:
    ran = run(method)
    run_id, pid = ran.report["run"], ran.report["pid"]
    stored = values(ran.stored(run_id))
    assert len(ran.spools) == 3
    recorded: Counter[tuple[str, Any]] = Counter()
    for directory in ran.spools:
        writer = spools.Reader(directory).identity().pid
        recorded += values(ran.steps(run_id, writer))
        kinds = [kind for kind, _ in ran.records(writer)]
        assert kinds.count("finish") == (writer == pid), "a child does not end its parent's run"
        steps = [body for kind, body in ran.records(writer) if kind == "step"]
        assert all(body.get("inherited", False) == (writer != pid) for body in steps)
    assert recorded == stored
    places = sent(ran)
    assert places.total() == len(places) == stored.total()
    assert {name for _, name in places if "/" not in name} == {"loss"}


@newest
def test_the_receiver_of_a_shared_run_numbers_its_calls(run: Callable[..., Ran]) -> None:
    with wandb_server() as url:
        ran = run("lower", WANDB_MODE="shared", WANDB_BASE_URL=url, WANDB_API_KEY="a" * 40)
    assert_as_stored(ran.steps(ran.report["run"]), ran.stored(ran.report["run"]))


@newest
def test_a_child_that_exits_does_not_end_its_parent_s_run(run: Callable[..., Ran]) -> None:
    ran = run("exiting")
    assert [kind for kind, _ in ran.records(ran.report["pid"]) if kind != "detection"] == [
        "run",
        "step",
        "finish",
        "exit",
    ]
    assert len(ran.spools) == 1, "a child that records nothing leaves nothing"


@pytest.mark.parametrize("calls", ["given", "lower", "parts"])
def test_a_replay_of_wandb_s_own_file_sends_the_same_steps(
    calls: str, run: Callable[..., Ran]
) -> None:
    ran = run(calls)
    (source,) = open_imports(ran.wandb / "wandb")
    replayed = collect_steps(source.read(0, 1000).records).complete
    told = {
        one.step: {name: value for name, value in one.data.items() if not name.startswith("_")}
        for one in replayed
    }
    assert_as_stored(ran.steps(ran.report["run"]), told)

"""Names of values where ranks and runs share rows, from programs to what the processor is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from shipper.sinks.processor.encode import Options, encode_step
from shipper.steps import collect_steps
from tests.contract.wandb.ran import Ran
from tests.kit import spools


def rows(ran: Ran) -> dict[int, dict[str, Any]]:
    """What the telemetry-processor gets: step -> name -> value."""
    (directory,) = ran.spools
    identity, found = spools.Reader(directory).identity(), spools.read_whole(directory)
    sent: dict[int, dict[str, Any]] = {}
    for step in collect_steps(found.records).complete:
        points = json.loads(b"[%b]" % encode_step(step, identity, Options()).fragment)
        for point in points:
            sent.setdefault(point["step"], {})[point["name"]] = point["value"]
    return sent


def runs(ran: Ran) -> list[dict[str, Any]]:
    return [body for kind, body in ran.records() if kind == "run"]


def test_megatron_s_last_rank_sends_whole_iterations_under_their_own_names(
    run: Callable[..., Ran],
) -> None:
    ran = run("megatron", RANK="7", WORLD_SIZE="8")
    expected = {
        iteration: {
            "samples vs steps": 16 * iteration,
            "learning-rate": 1e-4,
            "batch-size": 16,
            "lm loss": 1 / iteration,
            "grad-norm": 0.5,
            "iteration-time": 0.25,
        }
        for iteration in (1, 2, 3)
    }
    expected[2]["lm loss validation"] = 0.75
    assert rows(ran) == expected
    (begun,) = runs(ran)
    assert begun["sole_writer"] is True
    assert begun["reason"] == "Megatron-LM logs on the last rank only"
    assert len(begun["config"]) == 707, "all of Megatron's arguments"


def test_a_megatron_job_of_which_other_ranks_log_too_keeps_them_apart(
    run: Callable[..., Ran],
) -> None:
    ran = run("megatron", RANK="7", WORLD_SIZE="8", PRIMUS_LENS_SOLE_WRITER="false")
    assert all(name.startswith("rank7/") for row in rows(ran).values() for name in row)
    (begun,) = runs(ran)
    assert begun["reason"] == "PRIMUS_LENS_SOLE_WRITER is set"


def test_a_framework_that_is_imported_after_the_run_began_is_seen_at_the_first_step(
    run: Callable[..., Ran],
) -> None:
    ran = run("late", RANK="4", WORLD_SIZE="8")
    assert rows(ran) == {1: {"loss": 1.0}, 2: {"loss": 0.5}}
    begun, update = runs(ran)
    assert "sole_writer" not in begun
    assert (update["update"], update["sole_writer"]) == (True, True)
    assert update["reason"] == "torchtitan logs on the first rank of the last pipeline stage only"
    assert set(rows(run("late", RANK="5", WORLD_SIZE="8"))[1]) == {"rank5/loss"}


def test_a_run_that_repeats_steps_of_another_is_kept_apart_and_one_that_goes_on_is_not(
    run: Callable[..., Ran],
) -> None:
    ran = run("several")
    first, second, third, again = ran.report["runs"]
    assert again == second != third
    apart = f"run-{second}/loss"
    assert rows(ran) == {
        0: {"loss": 1.0, apart: 1.0},
        10: {"loss": 0.5, apart: 0.5},
        50: {"loss": 1.0},
        60: {"loss": 0.5},
        70: {apart: 1.0},
        80: {apart: 0.5},
    }
    reasons = {body["run"]: body.get("reason") for body in runs(ran)}
    assert reasons == {
        first: None,
        second: "an earlier run of this process has logged the same steps",
        third: None,
    }


def test_every_trial_of_a_sweep_is_kept_apart(run: Callable[..., Ran]) -> None:
    ran = run("several", WANDB_SWEEP_ID="s1")
    begun = runs(ran)
    assert {body["sweep"] for body in begun} == {"s1"}
    names = {name for row in rows(ran).values() for name in row}
    assert names == {f"run-{run_id}/loss" for run_id in ran.report["runs"]}

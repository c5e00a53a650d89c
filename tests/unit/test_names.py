"""Whether names have a rank or a run before them."""

from __future__ import annotations

import types
from typing import Any

import pytest

from spooler.hooks.names import Job, Names, decide

ARGUMENTS = {"wandb_project": "p"}
TITAN = {"metrics": {"save_for_all_ranks": False}, "parallelism": {"pipeline_parallel_degree": 4}}
BRIDGE = {"logger": {"wandb_project": "p"}}


def job(*modules: str, rank: int = 7, world_size: int = 8, **more: Any) -> Job:
    return Job(
        rank=rank,
        world_size=world_size,
        modules={name: types.ModuleType(name) for name in modules},
        **more,
    )


def written(name: str, **attributes: object) -> dict[str, object]:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    return {name: module}


MEGATRON_VARS = "megatron.training.global_vars"


@pytest.mark.parametrize(
    "found",
    [
        job("megatron.training", config=ARGUMENTS),
        Job(rank=7, world_size=8, modules=written(MEGATRON_VARS, _GLOBAL_WANDB_WRITER=1)),
        Job(rank=7, world_size=8, modules=written(MEGATRON_VARS, _GLOBAL_TENSORBOARD_WRITER=1)),
        Job(
            rank=7,
            world_size=8,
            modules=written(f"primus.backends.{MEGATRON_VARS}", _GLOBAL_MLFLOW_WRITER=1),
        ),
        job("megatron.bridge", config=BRIDGE),
        job("torchtitan", rank=6, config=TITAN),
        job("torchtitan", rank=6, config={**TITAN, "experimental": {}}),
    ],
)
def test_a_framework_that_logs_on_one_rank_makes_it_the_sole_writer(found: Job) -> None:
    names = decide(found)
    assert (names.sole_writer, names.run_prefix) == (True, False)
    assert names.reason


@pytest.mark.parametrize(
    "found",
    [
        Job(),
        job(),
        job("megatron.core", config=ARGUMENTS),  # a library of other frameworks
        job("megatron.training"),  # of which this run is none
        job("megatron.training", rank=6, config=ARGUMENTS),
        job("megatron.training", rank=0, world_size=1, config=ARGUMENTS),
        job("megatron.training", world_size=0, config=ARGUMENTS),
        Job(rank=7, world_size=8, modules=written(MEGATRON_VARS, _GLOBAL_WANDB_WRITER=None)),
        job("megatron.bridge", config={"logger": "text"}),
        job("torchtitan", rank=7, config=TITAN),
        job("torchtitan", rank=6, config={**TITAN, "metrics": {"save_for_all_ranks": True}}),
        job("torchtitan", rank=6, config={"parallelism": TITAN["parallelism"]}),
        job("torchtitan", rank=6, config={**TITAN, "parallelism": {}}),
        job("torchtitan", rank=0, config=TITAN),
        job(rank=6, config=TITAN),
    ],
)
def test_what_no_rule_knows_stays_as_it_was(found: Job) -> None:
    assert decide(found) == Names()


@pytest.mark.parametrize("facts", [{"sweep": "s1"}, {"beside": True}, {"repeats": True}])
def test_a_run_is_kept_apart_from_others_that_share_its_steps(facts: dict[str, Any]) -> None:
    names = decide(Job(**facts))
    assert (names.sole_writer, names.run_prefix) == (False, True)
    assert names.reason


def test_the_user_s_choice_comes_first_and_is_the_reason() -> None:
    found = job("megatron.training", config=ARGUMENTS, sweep="s1")
    assert decide(found, False, False)[:2] == (False, False)
    assert decide(job(), True, True)[:2] == (True, True)
    assert decide(job(), True).reason == "PRIMUS_LENS_SOLE_WRITER is set"
    assert decide(found).reason == (
        "Megatron-LM logs on the last rank only, the run is a trial of a sweep"
    )

"""Which of several trackers is recorded, call by call."""

from __future__ import annotations

import pytest

from spooler.hooks import REGISTRY
from spooler.hooks.precedence import LEAVE_OUT, MOST, ORDER, RECORD, WAIT, leads, verdict


def test_every_hook_has_a_place_in_the_order() -> None:
    assert {place.rpartition(".")[2] for place in REGISTRY.values()} == set(ORDER)


def test_a_tracker_leads_those_after_it() -> None:
    assert [one for one in ORDER if leads("mlflow", one)] == ["tensorboard", "transformers"]
    assert not leads("wandb", "spooler")
    assert not leads("spooler", "wandb")


@pytest.mark.parametrize(
    ("leaders", "step", "waiting", "expected"),
    [
        ([], 1, [], RECORD),
        ([7], 1, [], LEAVE_OUT),
        ([None, 0], 1, [], LEAVE_OUT),
        ([None], 1, [], WAIT),
        ([None], 1, [1, 1], WAIT),
        ([None], 2, [1, 1], RECORD),
        ([None], 0, [0] * MOST, RECORD),
        ([3], 2, [1, 1], LEAVE_OUT),
        ([], 1, [1], RECORD),
    ],
)
def test_a_call_waits_only_until_it_is_known_who_leads(
    leaders: list[int | None], step: int, waiting: list[int], expected: str
) -> None:
    assert verdict(leaders, step, waiting) == expected

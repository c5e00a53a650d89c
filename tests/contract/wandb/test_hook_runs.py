"""Steps have wandb's own numbers; runs begin, stand beside each other, are adopted, and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shipper.importers import SourceInfo
from shipper.importers.wandb_run import WandbFile
from spooler.records import run as run_record
from tests.contract.wandb.ran import ENDS, Ran, assert_as_stored
from tests.kit import spools


@pytest.mark.promise("G3")
@pytest.mark.parametrize("which", ["first", "second", "failed", "last"])
def test_steps_have_wandb_s_own_numbers(which: str, run: Callable[..., Ran]) -> None:
    """Counted, given, in parts, positional, and of a run that is never finished."""
    ran = run("steps")
    assert_as_stored(ran.steps(ran.report[which]), ran.stored(ran.report[which]))


def test_parts_of_a_step_are_told_from_its_end(run: Callable[..., Ran]) -> None:
    ran = run("steps")
    parts = [
        (body["step"], sorted(body["data"]), body["closed"])
        for kind, body in ran.records()
        if kind == "step" and body["run"] == ran.report["first"]
    ]
    assert parts == [
        (0, ["a"], True),
        (1, ["a"], True),
        (2, ["part"], False),
        (2, ["b", "part"], False),
        (2, ["last"], True),
        (3, ["a"], True),
        (10, ["given"], False),
        (10, ["same"], False),
        (12, ["positional"], False),
        (13, ["positional"], True),
        (20, ["closed"], True),
        (21, ["named"], True),
        (22, ["open"], False),
    ]


def test_runs_beside_each_other_stay_apart(run: Callable[..., Ran]) -> None:
    ran = run("steps")
    if ran.report["beside"] is None:
        pytest.skip("this version of wandb has one run at a time")
    left, right = ran.report["beside"]
    assert ran.steps(left) == {number: {"left": number} for number in range(3)}
    assert ran.steps(right) == {number * 10: {"right": number * 10} for number in range(4)}
    for one in (left, right):
        assert_as_stored(ran.steps(one), ran.stored(one))
        assert ran.kinds(one)[0] == "run"
        assert ran.kinds(one)[-1] == "finish"


@pytest.mark.parametrize(
    ("which", "last", "code"), [("first", 22, None), ("second", 1, 0), ("failed", 0, 1)]
)
def test_the_end_of_a_run_is_recorded_once(
    which: str, last: int, code: int | None, run: Callable[..., Ran]
) -> None:
    """By `finish`, by leaving the block, and by leaving it with an error."""
    ran = run("steps")
    body = ran.one("finish", ran.report[which])
    assert body["step"] == last
    assert code is None or body["exit_code"] == code
    assert ran.kinds(ran.report[which])[-1] == "finish"
    assert ran.report["user's error"] == "the user's own"


def test_a_run_s_configuration_and_its_changes_are_recorded_flat_and_masked(
    run: Callable[..., Ran],
) -> None:
    ran = run("configured")
    assert ran.report["while it runs"] == 2
    first, soon, *later = (body for kind, body in ran.records() if kind == "run")
    assert first["config"] == {
        "lr": 0.1,
        "model.layers": 2,
        "model.hf_token": "[masked]",
        "sizes": "[1, 2]",
        "seed": "None",
    }
    assert "update" not in first
    assert (soon["config"], soon["update"]) == ({"batch": 8}, True)
    # At most one a second, and what has changed since then at the end.
    assert all(body["update"] for body in later)
    changed = {name: value for body in later for name, value in body["config"].items()}
    assert changed == {"phase": 99, "db": "postgres://[masked]@host/db"}
    assert len(later) < 100
    assert ran.kinds(ran.report["run"])[-2:] == ["run", "finish"]


def test_a_replay_of_wandb_s_own_file_has_the_same_configuration(run: Callable[..., Ran]) -> None:
    ran = run("configured")
    (path,) = ran.wandb.glob("wandb/*run-*/run-*.wandb")
    replayed: dict[str, Any] = {}
    for stored in WandbFile(path, SourceInfo()).read(0, 1000).records:
        if stored.kind == "run":
            replayed |= run_record.decode(spools.codec.unpack(stored.body)).config
    hooked: dict[str, Any] = {}
    for kind, body in ran.records():
        hooked |= body["config"] if kind == "run" else {}
    assert replayed == hooked


def test_a_run_that_is_left_open_ends_with_the_interpreter(run: Callable[..., Ran]) -> None:
    ran = run("steps")
    assert ran.one("finish", ran.report["last"])["step"] == 1
    assert ran.records()[-1][0] == "exit"
    assert ran.records()[-1][1]["steps"][ran.report["last"]] == 1
    assert not list(ran.spools[0].glob("*-wal"))


@pytest.mark.promise("G2")
@pytest.mark.parametrize("end", ["ending", "raising", "exiting_with_3", "interrupted_at_once"])
def test_a_process_ends_as_without_us_and_its_run_with_wandb_s_exit_code(
    end: str, run: Callable[..., Ran]
) -> None:
    ran, without = run(end), run(end, PRIMUS_LENS_WANDB_HOOK="false")
    assert ran.code == without.code == ENDS.get(end, 0)
    code = ran.stored_exit_code(ran.report["run"])
    assert code == without.stored_exit_code(without.report["run"])
    assert ran.one("finish", ran.report["run"])["exit_code"] == code


def test_a_program_that_does_not_know_of_us_is_recorded(run: Callable[..., Ran]) -> None:
    """By the one line in site-packages; it ends without finishing, with an exit code of its own."""
    ran = run("plain")
    assert ran.code == 3
    assert ran.report["hooked"]
    assert_as_stored(ran.steps(ran.report["run"]), ran.stored(ran.report["run"]))
    assert [kind for kind, _ in ran.records() if kind != "detection"] == [
        "run",
        *["step"] * 5,
        "finish",
        "exit",
    ]
    who = spools.Reader(ran.spools[0]).identity()
    assert who.workload_uid == "workload-1"
    assert ran.said == []


@pytest.mark.parametrize("mode", ["disabled", "offline"], ids=["variable", "argument"])
def test_a_disabled_run_records_nothing(mode: str, run: Callable[..., Ran]) -> None:
    ran = run("disabled", WANDB_MODE=mode)
    assert ran.report == {"directory": None}
    assert ran.spools == []
    assert ran.said == []


def test_a_run_that_began_before_the_hook_is_adopted(run: Callable[..., Ran]) -> None:
    """And a hook that is taken off records nothing until it is put on again."""
    ran = run("adopt")
    stored = ran.stored(ran.report["run"])
    hooked = {
        number: data for number, data in stored.items() if not {"before", "unhooked"} & set(data)
    }
    assert len(hooked) == 4
    assert_as_stored(ran.steps(ran.report["run"]), hooked)
    body = ran.one("run", ran.report["run"])
    assert body["name"] == "adopted"
    assert ran.kinds(ran.report["run"])[0] == "run"
    assert ran.kinds(ran.report["run"])[-1] == "finish"

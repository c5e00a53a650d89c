"""What `SummaryWriter` is used for beyond one scalar, with the real tensorboardX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shipper.steps import Step, collect_steps
from spooler.records import finish, run, step
from tests.kit import spools
from tests.kit.trackers import PROGRAMS, Program, play, python_of, recorded

WRITER = PROGRAMS["tensorboardX.writer"]


@pytest.fixture(autouse=True)
def _installed() -> None:
    python_of(WRITER)


def ran(work: Path, code: str, program: Program = WRITER, **environ: str) -> Any:
    return spools.answer(play(work, program, f"{code}\nprint(json.dumps(0))", **environ))


def steps(work: Path) -> list[step.StepRecord]:
    return list(map(step.decode, recorded(work)["step"]))


def collected(work: Path) -> list[Step]:
    (directory,) = spools.spools_below(work / "spool")
    records = spools.read_whole(directory).records
    return collect_steps(records, {}).due(ended=True, waited=()).steps


def test_names_times_and_steps_are_those_that_tensorboard_shows(tmp_path: Path) -> None:
    ran(
        tmp_path,
        "run.add_scalar('a', 1.0, 5, 1700000000.25); run.add_scalars('m', {'x': 1, 'y': 2}, 5)\n"
        "run.add_scalar('a', 2.0, global_step=3); run.add_scalar(tag='b', scalar_value=3)\n"
        "beside = tensorboardX.SummaryWriter(work + '/eval'); beside.add_scalar('a', 4.0, 5)\n"
        "below = tensorboardX.SummaryWriter(log_dir=work + '/tb/x/y')\n"
        "below.add_scalar('a', 5.0, 5)\n"
        "again = tensorboardX.SummaryWriter(work + '/tb'); again.add_scalar('c', 6.0, 5)\n"
        "silent = tensorboardX.SummaryWriter(work + '/no', write_to_disk=False)\n"
        "silent.add_scalar('a', 7.0, 5)",
    )
    assert [(one.step, one.step_given, one.data) for one in steps(tmp_path)] == [
        (5, True, {"a": 1.0}),
        (5, True, {"m/x": 1, "m/y": 2}),
        (3, True, {"a": 2.0}),
        (0, False, {"b": 3}),
        (5, True, {"eval/a": 4.0}),
        (5, True, {"x/y/a": 5.0}),
        (5, True, {"c": 6.0}),
    ]
    assert steps(tmp_path)[0].time == 1700000000.25
    assert {one.run for one in steps(tmp_path)} == {recorded(tmp_path)["run"][0]["run"]}


def test_a_run_has_the_same_id_in_every_rank_and_after_a_restart(tmp_path: Path) -> None:
    for rank, job in (("0", "w"), ("1", "w"), ("0", "v")):
        ran(tmp_path, "log({'a': 1}, 1)", RANK=rank, LOCAL_RANK=rank, WORKLOAD_UID=job)
    first, again, other = (body["run"] for body in recorded(tmp_path)["run"])
    assert first == again != other


def test_the_writer_of_hparams_is_not_another_run(tmp_path: Path) -> None:
    ran(tmp_path, "run.add_hparams({'lr': 0.1}, {'acc': 0.5}, global_step=4)\nlog({'a': 1}, 5)")
    bodies = recorded(tmp_path)
    assert {run.decode(body).run for body in bodies["run"]} == {steps(tmp_path)[0].run}
    assert run.decode(bodies["run"][-1]).config == {"lr": 0.1}
    assert [(one.step, one.data) for one in steps(tmp_path)] == [(4, {"acc": 0.5}), (5, {"a": 1})]
    assert len(bodies["finish"]) == 1


def test_a_run_ends_with_its_last_writer_and_goes_on_with_the_next(tmp_path: Path) -> None:
    ran(
        tmp_path,
        "log({'a': 1}, 1)\nother = tensorboardX.SummaryWriter(work + '/other')\n"
        "run.close(); run.close(); other.add_scalar('b', 2, 2); other.close()\nlog({'a': 3}, 3)",
    )
    (directory,) = spools.spools_below(tmp_path / "spool")
    kinds = [kind for kind in spools.kinds(directory) if kind != "detection"]
    assert kinds == ["run", "step", "step", "finish", "run", "step", "finish", "exit"]
    assert [finish.decode(body).step for body in recorded(tmp_path)["finish"]] == [2, 3]


def test_values_against_samples_are_rows_of_their_own(tmp_path: Path) -> None:
    """As Megatron-LM writes them, in turn with those against iterations."""
    ran(
        tmp_path,
        "for n in (1, 2):\n"
        "    for name in ('loss', 'lr'):\n"
        "        log({name: n / 2}, n); log({name + ' vs samples': n / 2}, n * 512)",
    )
    first, second = collected(tmp_path)
    assert {number: dict(data) for number, data in first.rows()} == {
        1: {"loss": 0.5, "lr": 0.5},
        512: {"loss vs samples": 0.5, "lr vs samples": 0.5, "samples": 512},
    }
    assert [number for number, _ in second.rows()] == [1024, 2]


# --- several trackers -----------------------------------------------------------------------------

_WANDB = "import wandb; other = wandb.init(mode='offline', dir=work, settings=SETTINGS)\n".replace(
    "SETTINGS", "wandb.Settings(console='off', silent=True)"
)


def by_tracker(work: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in steps(work):
        found.setdefault(one.tracker, []).append((one.step, one.data))
    return found


def test_what_wandb_gets_too_is_recorded_once(tmp_path: Path) -> None:
    """As Megatron-LM does: TensorBoard first in each step. After wandb's run TensorBoard counts."""
    ran(
        tmp_path,
        f"{_WANDB}for n in range(1, 4):\n"
        "    log({'loss': n}, n); other.log({'loss': n}, step=n)\n"
        "other.finish(); log({'loss': 4}, 4)",
    )
    assert by_tracker(tmp_path) == {
        "wandb": [(n, {"loss": n}) for n in range(1, 4)],
        "tensorboard": [(4, {"loss": 4})],
    }
    assert [body.get("tracker", "wandb") for body in recorded(tmp_path)["run"]] == [
        "wandb",
        "tensorboard",
    ]


@pytest.mark.parametrize("last", [1, 3])
def test_a_wandb_run_in_which_nothing_is_logged_leaves_nothing_out(
    last: int, tmp_path: Path
) -> None:
    ran(tmp_path, f"{_WANDB}for n in range(1, {last + 1}):\n    log({{'a': n, 'b': n}}, n)")
    expected = [(n, {name: n}) for n in range(1, last + 1) for name in "ab"]
    assert by_tracker(tmp_path) == {"tensorboard": expected}
    times = [one.time for one in collected(tmp_path)]
    assert times == sorted(times)


def test_a_wandb_run_that_only_the_parent_logs_to_leaves_nothing_out_in_a_child(
    tmp_path: Path,
) -> None:
    """TensorboardX writes nothing: it hangs where a child ends with the lock of their queue."""
    ran(
        tmp_path,
        f"{_WANDB}other.log({{'loss': 1}}, step=1); run.file_writer.event_writer.close()\n"
        "if os.fork() == 0:\n"
        "    for n in range(1, 4): log({'a': n}, n)\n"
        "    os._exit(0)\n"
        "os.wait(); log({'loss': 1}, 1); other.finish()",
    )
    assert by_tracker(tmp_path) == {
        "wandb": [(1, {"loss": 1})],
        "tensorboard": [(n, {"a": n}) for n in range(1, 4)],
    }


def test_trackers_that_are_chosen_are_recorded_both(tmp_path: Path) -> None:
    ran(
        tmp_path,
        f"{_WANDB}log({{'loss': 1}}, 1); other.log({{'loss': 1}}, step=1)",
        PRIMUS_LENS_TRACKERS="tensorboard,wandb",
    )
    assert sorted(by_tracker(tmp_path)) == ["tensorboard", "wandb"]


@pytest.mark.parametrize("patched", ["init", "patch"])
def test_what_wandb_copies_from_tensorboard_is_of_its_run(patched: str, tmp_path: Path) -> None:
    sync = _WANDB if patched == "patch" else _WANDB.replace("dir=", "sync_tensorboard=True, dir=")
    patch = "import wandb; wandb.tensorboard.patch()\n" if patched == "patch" else ""
    work = json.dumps(str(tmp_path / "second"))
    ran(
        tmp_path,
        f"{patch}{sync}run = torch.utils.tensorboard.SummaryWriter({work})\n"
        "for n in range(1, 4): log({'loss': n}, n * 10)\nother.finish()",
        PROGRAMS["torch.utils.tensorboard.writer"],
    )
    (begun,) = [run.decode(body) for body in recorded(tmp_path)["run"]]
    assert begun.tracker == "wandb"
    assert {one.run for one in steps(tmp_path)} == {begun.run}
    assert by_tracker(tmp_path) == {"wandb": [(n * 10, {"second/loss": n}) for n in range(1, 4)]}

"""A real Trainer: recorded with `report_to="none"`, and once when it reports to other trackers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spooler.records import finish, run, step
from tests.kit.trackers import PROGRAMS, answer, play, python_of, recorded

TRAINER = PROGRAMS["transformers.trainer_callback"]
_NOTHING_BEGUN = replace(TRAINER, begin="", log="pass")
_TRAIN = """
import torch
from transformers import Trainer, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def forward(self, x, labels):
        found = self.line(x).squeeze(-1)
        return {"loss": torch.nn.functional.mse_loss(found, labels), "logits": found}

rows = [{"x": torch.tensor([n / 8, 1.0]), "labels": torch.tensor(n / 4)} for n in range(8)]
arguments = TrainingArguments(
    output_dir=work + "/out", run_name="tiny", report_to=REPORT_TO, max_steps=6, logging_steps=2,
    eval_strategy="steps", eval_steps=3, save_strategy="no", use_cpu=True, disable_tqdm=True,
)
trainer = Trainer(Model(), arguments, train_dataset=rows, eval_dataset=rows)
trainer.train()
print(json.dumps(trainer.state.log_history))
"""


@pytest.fixture(autouse=True)
def _installed() -> None:
    python_of(TRAINER)


def train(work: Path, report_to: Any, **environ: str) -> list[dict[str, Any]]:
    """What the Trainer itself has kept of what it logged."""
    begun = "import transformers\n" + _TRAIN.replace("REPORT_TO", repr(report_to))
    history: list[dict[str, Any]] = answer(
        play(work, _NOTHING_BEGUN, begun, WANDB_MODE="offline", WANDB_DIR=str(work), **environ)
    )
    return history


def test_a_trainer_that_reports_to_nothing_is_recorded(tmp_path: Path) -> None:
    history = train(tmp_path, "none")
    bodies = recorded(tmp_path)
    steps = list(map(step.decode, bodies["step"]))
    assert [{**one.data, "step": one.step} for one in steps] == history
    assert {one["step"] for one in history} == {2, 3, 4, 6}
    (begun,) = map(run.decode, bodies["run"])
    assert (begun.tracker, begun.name) == ("transformers", "tiny")
    assert begun.config["max_steps"] == 6
    (ended,) = map(finish.decode, bodies["finish"])
    assert (ended.run, ended.step) == (begun.run, 6)


def test_what_a_callback_logs_elsewhere_is_recorded_once(tmp_path: Path) -> None:
    """Of several, wandb leads: callbacks of TensorBoard and MLflow come before or after it."""
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    for number, (report_to, leader) in enumerate(
        (
            (["tensorboard", "mlflow", "wandb"], "wandb"),
            (["tensorboard", "mlflow"], "mlflow"),
            (["tensorboard"], "tensorboard"),
        )
    ):
        work = tmp_path / str(number)
        history = train(work, report_to, **environ)
        bodies = recorded(work)
        assert {body.get("tracker", "wandb") for body in bodies["step"]} == {leader}
        assert {body.get("tracker", "wandb") for body in bodies["run"]} == {leader}
        found = [one.data for one in map(step.decode, bodies["step"])]
        losses = [one["loss"] for one in history if "loss" in one]
        names = {"loss", "train/loss"}
        assert [data[name] for data in found for name in data if name in names] == losses

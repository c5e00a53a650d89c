"""MLflow's autolog: what it logs of trainings is recorded, once and as MLflow stores it.

It has a client and a queue of its own, and calls none of the functions that programs call.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spooler.records import finish, run, step
from tests.kit.trackers import PROGRAMS, answer, play, recorded

pytestmark = pytest.mark.skipif(
    not os.environ.get("LENS_SHIP_TEST_FRAMEWORKS"), reason="make test-frameworks runs it"
)
AUTOLOG = replace(
    PROGRAMS["mlflow.tracking._tracking_service.client"],
    begin="import mlflow; mlflow.set_tracking_uri(f'sqlite:///{work}/mlflow.db')\n"
    "made = mlflow.create_experiment('autolog', artifact_location=f'file://{work}/artifacts')\n"
    "mlflow.set_experiment(experiment_id=made)",
    log="pass",
    package="torch",
)
LIGHTNING = """
import torch, lightning
from torch.utils.data import DataLoader, TensorDataset

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, number):
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)

mlflow.pytorch.autolog(log_models=False, log_every_n_step=1, silent=True)
data = DataLoader(TensorDataset(torch.ones(12, 2)), batch_size=4)
trainer = lightning.Trainer(max_epochs=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
with mlflow.start_run() as begun:
    trainer.fit(Module(), data)
"""
SKLEARN = """
mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
from sklearn.linear_model import LinearRegression
with mlflow.start_run() as begun:
    LinearRegression().fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0])
"""
STORED = """
client, run = mlflow.MlflowClient(), begun.info.run_id
found = client.get_run(run)
print(json.dumps(dict(
    points=sorted([m.key, m.step, m.timestamp, m.value]
        for name in found.data.metrics for m in client.get_metric_history(run, name)),
    params=found.data.params, run=run, failed=found.info.status != "FINISHED")))
"""


def recorded_run(work: Path) -> dict[str, Any]:
    """What is recorded, in the form of what MLflow has stored."""
    bodies = recorded(work)
    steps = [step.decode(body) for body in bodies["step"]]
    runs = [run.decode(body) for body in bodies["run"]]
    (ended,) = map(finish.decode, bodies["finish"])
    (name,) = {one.run for one in (*steps, *runs, ended)}
    return {
        "points": sorted(
            [key, one.step, round(one.time * 1000), value]
            for one in steps
            for key, value in one.data.items()
        ),
        "params": {key: str(value) for one in runs for key, value in one.config.items()},
        "run": name,
        "failed": ended.exit_code != 0,
    }


def test_each_step_of_a_training_of_lightning_is_recorded(tmp_path: Path) -> None:
    stored = answer(play(tmp_path, AUTOLOG, LIGHTNING + STORED))
    points = [(name, number) for name, number, *_ in stored["points"]]
    epochs = [(name, number) for name in ("loss", "loss_epoch") for number in range(2)]
    assert points == [*epochs, *(("loss_step", number) for number in range(1, 7))]
    assert stored["params"]["optimizer_name"] == "AdamW"
    assert recorded_run(tmp_path) == stored


def test_what_is_logged_after_a_fit_of_sklearn_is_recorded(tmp_path: Path) -> None:
    stored = answer(play(tmp_path, AUTOLOG, SKLEARN + STORED))
    assert "training_mean_squared_error" in {name for name, *_ in stored["points"]}
    assert recorded_run(tmp_path) == stored

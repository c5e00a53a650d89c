"""Trainings of real frameworks on the CPU, a few steps each: `trainings.py NAME REPORT`.

Models are tiny, random and made from a configuration: nothing comes from a hub. The report has the
rows that the user of the framework would draw, as the framework itself tells them: step -> name ->
number. Runs in the interpreter of the frameworks.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import spooler

warnings.simplefilter("ignore")
spooler.install()

WORDS = [f"w{number}" for number in range(30)]
ROWS: dict[int, dict[str, Any]] = defaultdict(dict)


def model() -> Any:
    """A language model of a few thousand parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=32, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
            eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<s>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def arguments(**more: Any) -> dict[str, Any]:
    """What all trainers of Transformers are given."""
    return {
        "output_dir": "out",
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        "report_to": "wandb",
        "save_strategy": "no",
        "disable_tqdm": True,
        **more,
    }


def note(trainer: Any) -> None:
    """The rows of a trainer: what it has logged, under wandb's names for it."""
    from transformers.integrations.integration_utils import rewrite_logs

    only_summary = {"train_runtime", "train_loss", "total_flos"}
    only_summary |= {"train_samples_per_second", "train_steps_per_second"}
    for entry in trainer.state.log_history:
        step = entry["step"]
        logged = {k: v for k, v in entry.items() if k != "step" and k not in only_summary}
        ROWS[step] |= {**rewrite_logs(logged), "train/global_step": step}


def transformers() -> None:
    """The Trainer of Transformers, with an evaluation at steps of the training."""
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": [0, *range(2, 12)], "labels": [0, *range(2, 12)]}] * 24
    given = arguments(max_steps=12, logging_steps=3, eval_strategy="steps", eval_steps=6)
    trainer = Trainer(
        model(), TrainingArguments(**given), train_dataset=data, eval_dataset=data[:4]
    )
    trainer.train()
    note(trainer)


def sft() -> None:
    """Supervised fine-tuning of TRL."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{"text": " ".join(WORDS[:12])}] * 16)
    trainer = SFTTrainer(
        model(),
        SFTConfig(**arguments(max_steps=6, logging_steps=2, max_length=16)),
        train_dataset=data,
        processing_class=tokenizer(),
    )
    trainer.train()
    note(trainer)


def grpo() -> None:
    """TRL's GRPO, which logs tables of completions and names no step in those calls."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(set(text.split()))) for text in completions]

    given = arguments(max_steps=4, logging_steps=2, num_generations=2, log_completions=True)
    trainer = GRPOTrainer(
        model=model(),
        reward_funcs=reward,
        args=GRPOConfig(**given, max_completion_length=6),
        train_dataset=Dataset.from_list([{"prompt": "w1 w2 w3"}] * 8),
        processing_class=tokenizer(),
    )
    trainer.train()
    note(trainer)
    # A table comes before the numbers of its step: wandb draws it at the step before.
    ROWS[0]["train/global_step"] = 0


def lightning() -> None:
    """Lightning, with a logger of our own beside wandb's."""
    import lightning as pl
    import torch
    from lightning.pytorch.loggers import Logger, WandbLogger

    class Rows(Logger):
        name, version = "rows", 0

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            pass

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            assert step is not None
            ROWS[step] |= {**metrics, "trainer/global_step": step}

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.layer(batch).pow(2).mean()
            self.log("train/loss", loss)
            self.log("by_epoch", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val/loss", self.layer(batch).pow(2).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    loader = torch.utils.data.DataLoader(torch.randn(16, 4), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=2, log_every_n_steps=3, accelerator="cpu", enable_progress_bar=False,
        enable_checkpointing=False, logger=[WandbLogger(offline=True), Rows()],
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), loader, loader)


def plain() -> None:
    """A loop that names no step and defines no axis."""
    import wandb

    with wandb.init() as run:
        for number in range(8):
            row = {"loss": 1 / (number + 1), "lr": 0.1}
            run.log(row)
            ROWS[number] = row


def openrlhf() -> None:
    """Axes for training and evaluation, logged as OpenRLHF does."""
    import wandb

    with wandb.init() as run:
        for kind in ("train", "eval"):
            run.define_metric(f"{kind}/global_step")
            run.define_metric(f"{kind}/*", step_metric=f"{kind}/global_step", step_sync=True)
        for number in range(10, 60, 10):
            row = {"train/loss": 1 / number, "train/global_step": number}
            run.log(row)
            ROWS[number] |= row
        for number in (20, 40):
            row = {"eval/reward": number / 7, "eval/global_step": number}
            run.log(row)
            ROWS[number] |= row


TRAININGS = {one.__name__: one for one in (transformers, sft, grpo, lightning, plain, openrlhf)}


if __name__ == "__main__":
    TRAININGS[sys.argv[1]]()
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()
    Path(sys.argv[2]).write_text(json.dumps(ROWS), encoding="utf-8")

"""One call of `log` for each metric of an iteration, with the iteration by position."""

from __future__ import annotations

from typing import Any

from .global_vars import get_args, get_wandb_writer


def training_log(
    loss_dict: dict[str, Any], learning_rate: float, iteration: int, grad_norm: float
) -> None:
    """What is logged of one iteration, in Megatron's order."""
    args, writer = get_args(), get_wandb_writer()
    if not writer:
        return
    writer.log({"samples vs steps": args.consumed_train_samples}, iteration)
    writer.log({"learning-rate": learning_rate}, iteration)
    writer.log({"batch-size": args.global_batch_size}, iteration)
    for key in loss_dict:
        writer.log({key: loss_dict[key]}, iteration)
    writer.log({"grad-norm": grad_norm}, iteration)
    writer.log({"iteration-time": 0.25}, iteration)


def evaluate_and_print_results(losses: dict[str, Any], iteration: int) -> None:
    """The last rank logs the validation at the number of the iteration before it."""
    writer = get_wandb_writer()
    for key in losses if writer else ():
        writer.log({f"{key} validation": losses[key]}, iteration)

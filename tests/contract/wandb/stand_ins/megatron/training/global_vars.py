"""The last rank begins the run, and keeps the module `wandb` as its writer."""

from __future__ import annotations

import argparse
from typing import Any

_GLOBAL_ARGS: Any = None
_GLOBAL_TENSORBOARD_WRITER: Any = None
_GLOBAL_WANDB_WRITER: Any = None


def set_global_variables(args: argparse.Namespace) -> None:
    """Begin a run with all arguments as its configuration."""
    global _GLOBAL_ARGS, _GLOBAL_WANDB_WRITER
    _GLOBAL_ARGS = args
    if getattr(args, "wandb_project", "") and args.rank == (args.world_size - 1):
        import wandb

        wandb.init(
            dir=args.wandb_save_dir,
            name=args.wandb_exp_name,
            project=args.wandb_project,
            config=vars(args),
        )
        _GLOBAL_WANDB_WRITER = wandb


def get_args() -> Any:
    return _GLOBAL_ARGS


def get_wandb_writer() -> Any:
    return _GLOBAL_WANDB_WRITER

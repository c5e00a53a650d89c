"""Hooks: what a program logs to an experiment tracker is recorded, without a change of its code.

A hook is one module and one line in `REGISTRY` for each module of the tracker that it wraps. The
hook is applied when the program has imported that module, and never imports it. The name of the
hook is that of the tracker in every record, and in `ALL_TRACKERS` of `spooler.config`. It has:

- `wrap(module)`: put wrappers in place of the tracker's functions. A second call changes nothing.
- `unwrap(module)`: put the tracker's own functions back. What is recorded stays recorded.

A wrapper calls the tracker's own function first, with exactly the arguments it was given, and
returns or raises what that function does. Only a call that the tracker accepted is recorded.
(MLflow's raises when its server is away. It is recorded then too, marked as not accepted, and its
time is filled in, so that a repetition is the same.)
Nothing of a hook raises into the program. `spooler.hooks.wrappers` has those that keep these
rules, and `spooler.hooks.run_tracker` what all hooks record with. `spooler.hooks.precedence` says
which tracker is recorded where a program logs the same numbers to several.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `spooler`
if TYPE_CHECKING:
    from collections.abc import Mapping

REGISTRY: dict[str, str] = {
    "wandb": "spooler.hooks.wandb",
    "mlflow.tracking._tracking_service.client": "spooler.hooks.mlflow",
    "torch.utils.tensorboard.writer": "spooler.hooks.tensorboard",
    "tensorboardX.writer": "spooler.hooks.tensorboard",
    "transformers.trainer_callback": "spooler.hooks.transformers",
}
"""Module to wait for -> module of its hook."""

TRAINING: dict[str, str] = {
    "torch.distributed.distributed_c10d": "spooler.hooks.training",
    "torch.optim.optimizer": "spooler.hooks.training",
    "torch.distributed.elastic.agent.server.local_elastic_agent": "spooler.hooks.training",
    "jax._src.distributed": "spooler.hooks.training",
}
"""The same for modules with a call that begins a training, where the collectors start."""


def awaited(environ: Mapping[str, str]) -> dict[str, str]:
    """The modules that this process waits for, and their hooks."""
    return {**REGISTRY, **TRAINING} if environ.get("PRIMUS_LENS_COLLECTORS") else REGISTRY

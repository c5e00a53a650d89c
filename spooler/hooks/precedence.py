"""Which tracker is recorded where a program logs the same numbers to several. Pure.

Megatron-LM writes wandb and TensorBoard. The Transformers Trainer hands its logs to every callback.
Then one tracker leads, by the order below, and what the others log is left out. This is decided
at each call:

- A run that has logged leads while it is active.
- A run that is active and has logged nothing yet may be about to: calls of the others that belong
  to their first step wait in memory. If their second step comes first, it leads nothing: some
  programs begin a run only to keep a configuration in it.

Lines of the log come after all of these, and also after trackers of the job's other processes: the
process that prints is as a rule not the one that reads the log. See `spooler.hooks.elsewhere`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ORDER = ("wandb", "mlflow", "tensorboard", "transformers")
MOST = 1000  # calls that wait: those without a step are all of step 0
RECORD, WAIT, LEAVE_OUT = "record", "wait", "leave out"


def leads(one: str, other: str) -> bool:
    """Whether tracker `one` is before `other`. Trackers that are not in the order are apart."""
    return one in ORDER and other in ORDER and ORDER.index(one) < ORDER.index(other)


def verdict(leaders: Iterable[int | None], step: int, waiting: Sequence[int]) -> str:
    """What becomes of a call.

    Args:
        leaders: for each active run of a tracker before this one, the last step that it has logged.
        step: of the call.
        waiting: the steps of the calls that wait.
    """
    steps = list(leaders)
    if any(one is not None for one in steps):
        return LEAVE_OUT
    is_first = len(waiting) < MOST and all(one == step for one in waiting)
    return WAIT if steps and is_first else RECORD

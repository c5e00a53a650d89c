"""Which tracker is recorded where a program logs the same numbers to several. Pure.

Megatron-LM writes wandb and TensorBoard. The Transformers Trainer hands its logs to every callback.
Then one tracker leads, by the order below, and what the others log is left out. This is decided
at each call:

- A run that has logged leads while it is active.
- A run that is active and has logged nothing yet may be about to: calls of the others that belong
  to their first step wait in memory. If their second step comes first, it leads nothing: some
  programs begin a run only to keep a configuration in it.
"""

from __future__ import annotations

from collections.abc import Iterable

ORDER = ("wandb", "mlflow", "tensorboard", "transformers")
RECORD, WAIT, LEAVE_OUT = "record", "wait", "leave out"


def leads(one: str, other: str) -> bool:
    """Whether tracker `one` is before `other`. Trackers that are not in the order are apart."""
    return one in ORDER and other in ORDER and ORDER.index(one) < ORDER.index(other)


def verdict(leaders: Iterable[int | None], step: int, waits: int | None) -> str:
    """What becomes of a call.

    Args:
        leaders: for each active run of a tracker before this one, the last step that it has logged.
        step: of the call.
        waits: the step of calls that wait, None if none does.
    """
    steps = list(leaders)
    if any(one is not None for one in steps):
        return LEAVE_OUT
    return WAIT if steps and waits in (None, step) else RECORD

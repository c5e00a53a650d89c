"""``lens-ship demo``: a real training job, real failures, and a count at the end.

`run` is one demo as a whole, `story` the sequence of events, `processes` starts and kills, `master`
is DLRover's (`dlrover_main` runs in its interpreter), `gather` reads what is left behind, `count`
and `collected` (pure) compare it, `result` judges, `screen` shows it, `curve` draws the loss.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_demo"]


def run_demo(
    *, seconds: float, keep: Path | None, seed: int | None = None, dlrover: str = ""
) -> int:
    """Play the story with `seconds` of training; the exit code: 0 nothing lost, 1 failed, 2 cannot.

    `keep` is a folder that keeps every file of it; `seed` repeats the planned moments of another
    demo; `dlrover` is the interpreter of an environment with a training master in it.
    """
    from shipper.demo.run import run

    return run(seconds=seconds, keep=keep, seed=seed, dlrover=dlrover)

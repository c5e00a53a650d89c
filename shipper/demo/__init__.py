"""``lens-ship demo``: a real training job, real failures, and a count at the end.

`run` is one demo as a whole, `story` the sequence of events, `processes` starts and kills, `gather`
reads what is left behind, `count` (pure) compares it, `screen` shows it, `curve` draws the loss.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_demo"]


def run_demo(*, seconds: float, keep: Path | None, seed: int | None = None) -> int:
    """Play the story with `seconds` of training; the exit code: 0 nothing lost, 1 failed, 2 cannot.

    `keep` is a folder that keeps every file of it; `seed` repeats the planned moments of another
    demo.
    """
    from shipper.demo.run import run

    return run(seconds=seconds, keep=keep, seed=seed)

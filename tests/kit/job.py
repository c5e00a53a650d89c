"""A training job as a script: a launcher with two trainers, which record until the job ends.

    python job.py FOLDER

The launcher prints "ready" once its trainers have recorded. A signal ends the job, and the end of a
stdin that is not a terminal: the trainers record a little more, and the exit code says which it
was. FOLDER/signals has the name of every signal that the launcher has got, with SIGUSR2 for those
after the one that ends the job. While there is a file FOLDER/held, the job does not end.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

TRAINERS = 2
BEFORE, AFTER = 40, 10
STEPS = TRAINERS * (BEFORE + AFTER)
CODE = 5  # of a job that was ended by a signal
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SIGNALS = (*ENDING, signal.SIGUSR1, signal.SIGCONT)


def train() -> None:
    from spooler import recorder

    recorder._SHUTDOWN_SECONDS = 180.0  # also on a slow machine
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    for number in range(BEFORE + AFTER):
        if number == BEFORE:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.read()
        body = {"run": "r", "step": number, "time": time.time(), "closed": True}
        assert recorder.recorder().record("step", {**body, "data": {"loss": number + 0.5}})


def launch(folder: Path) -> NoReturn:
    trainers = [
        subprocess.Popen(
            [sys.executable, __file__, "trainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LOCAL_RANK": str(rank), "RANK": str(rank)},
        )
        for rank in range(TRAINERS)
    ]

    # No handlers: one may run inside another, and note its signal first.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    code: int | None = None

    def note() -> bool:
        """Take the next signal; whether there was one."""
        nonlocal code
        pending = signal.sigpending().intersection(SIGNALS)
        if not pending:
            return False
        number = signal.Signals(signal.sigwait({min(pending)}))
        if number in ENDING and code is not None:
            number = signal.SIGUSR2
        with (folder / "signals").open("a") as file:
            file.write(f"{number.name}\n")
        if number in ENDING:
            code = CODE
        return True

    for trainer in trainers:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"ready\n"
    # A terminal that is lost is none any more, so look before the caller may close it.
    awaited: list[int] = [] if os.isatty(0) else [0]
    os.write(1, b"ready\n")
    while note() or code is None or (folder / "held").exists():
        if select.select(awaited if code is None else [], [], [], 0.01)[0]:
            code = 0
    for trainer in trainers:
        trainer.communicate()
    while note():
        pass
    sys.exit(code)


if __name__ == "__main__":
    train() if sys.argv[1] == "trainer" else launch(Path(sys.argv[1]))

"""A training job as a script: a launcher with two trainers, which record until the job ends.

    python job.py FOLDER

The launcher prints "ready" once its trainers have recorded. A signal ends the job, and the end of a
stdin that is not a terminal: the trainers record a little more, and the exit code says which it
was. FOLDER/signals has the name of every signal that the launcher has got, with SIGUSR2 for those
after the one that ends the job. While there is a file FOLDER/held, the job does not end.
"""

from __future__ import annotations

import itertools
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


def train() -> None:
    from spooler import recorder

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

    endings = itertools.count()  # in a handler, another may run between any two steps

    def end(code: int) -> NoReturn:
        while (folder / "held").exists():
            time.sleep(0.01)
        for trainer in trainers:
            trainer.communicate()
        sys.exit(code)

    def note(number: int, _frame: object) -> None:
        ends = number in ENDING and next(endings) == 0
        known = signal.SIGUSR2 if number in ENDING and not ends else signal.Signals(number)
        with (folder / "signals").open("a") as file:
            file.write(f"{known.name}\n")
        if ends:
            end(CODE)

    # A signal that comes just before the wait ends it, too.
    signalled, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in (*ENDING, signal.SIGUSR1, signal.SIGCONT):
        signal.signal(number, note)
    for trainer in trainers:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"ready\n"
    # A terminal that is lost is none any more, so look before the caller may close it.
    awaited = [signalled] if os.isatty(0) else [signalled, 0]
    os.write(1, b"ready\n")
    while 0 not in select.select(awaited, [], [])[0]:
        os.read(signalled, 1)
    end(0)


if __name__ == "__main__":
    train() if sys.argv[1] == "trainer" else launch(Path(sys.argv[1]))

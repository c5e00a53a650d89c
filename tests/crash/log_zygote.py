"""A process that records a growing and rotating log, killed many times over, by SIGKILL.

Usage: python log_zygote.py KILLS SEED FOLDER ROTATION

A writer, a process of its own, writes random lines to FOLDER/train.log, rotates it, and writes the
same bytes to FOLDER/expected. Meanwhile one child after the other is forked that collects the log
into the spool as fast as it can, and is killed at a random instant. At the end the writer stops and
a last child collects what is left.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from spooler.collectors.log import LogCollector

LIFE_SECONDS = 0.15
FILE_BYTES = 40000
KEPT = 300  # files, before the oldest goes
LETTERS = "abcdefghij äöüß 損失 😀"


def write(folder: Path, rotation: str, seed: int) -> None:
    """Write and rotate until the file `stop` is there."""
    rng = random.Random(seed)
    log = folder / "train.log"
    with (folder / "expected").open("ab", buffering=0) as expected:
        while not (folder / "stop").exists():
            with log.open("ab", buffering=0) as file:
                size = rng.randrange(FILE_BYTES)
                while file.tell() < size and not (folder / "stop").exists():
                    line = ("".join(rng.choices(LETTERS, k=rng.randrange(1, 200))) + "\n").encode()
                    cut = rng.randrange(len(line))
                    for part in (line[:cut], line[cut:]):
                        file.write(part)
                        expected.write(part)
                        time.sleep(rng.choice((0, 0, 0.001)))
            rotate(log, rng.choice(("rename", "copy")) if rotation == "both" else rotation)


def rotate(log: Path, how: str) -> None:
    """Make `train.log` the youngest of the rotated files, one way or the other."""
    numbers = [int(path.suffix[1:]) for path in log.parent.glob("train.log.*")]
    for number in sorted(numbers, reverse=True):
        if number >= KEPT:
            os.unlink(f"{log}.{number}")
            continue
        os.rename(f"{log}.{number}", f"{log}.{number + 1}")
    if how == "rename":
        os.rename(log, f"{log}.1")
    else:
        shutil.copyfile(log, f"{log}.1")
        os.truncate(log, 0)


def collect(log: Path, *, to_the_end: bool) -> None:
    """Collect for ever, or until there is nothing more."""
    collector = LogCollector(log_file_path=str(log))
    while True:
        if collector.is_enabled():
            lines = collector.collect_data(last=to_the_end)
            if lines and not collector.store_data(lines):
                os._exit(3)
            if not lines and to_the_end:
                os._exit(0)


def begin(log: Path) -> None:
    """Follow the log from here on, before there is anything in it."""
    log.touch()
    collector = LogCollector(log_file_path=str(log))
    assert collector.is_enabled()
    assert not collector.collect_data()
    collector.close()


def fork(log: Path, *, to_the_end: bool = False) -> int:
    """A child that collects."""
    pid = os.fork()
    if pid == 0:
        try:
            collect(log, to_the_end=to_the_end)
        finally:
            os._exit(2)
    return pid


def main() -> None:
    """Write, collect, kill, and collect the rest."""
    kills, seed, place, rotation = sys.argv[1:5]
    folder = Path(place)
    if rotation.startswith("write "):
        write(folder, rotation.removeprefix("write "), int(seed))
        return
    begin(folder / "train.log")
    writer = subprocess.Popen([sys.executable, __file__, "0", seed, place, f"write {rotation}"])
    rng = random.Random(int(seed))
    for _ in range(int(kills)):
        pid = fork(folder / "train.log")
        time.sleep(rng.uniform(0, LIFE_SECONDS))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    (folder / "stop").touch()
    assert writer.wait(60) == 0
    _, status = os.waitpid(fork(folder / "train.log", to_the_end=True), 0)
    assert status == 0, status


if __name__ == "__main__":
    main()

"""SIGKILL of processes that follow a log, while it is written, rotated, truncated and recreated.

A writer writes lines in parts, some longer than a piece, and does to the file what the way of the
seed says. Meanwhile one process after the other collects it into the spool, as fast as it can, and
is killed at a random instant; the last one collects what is left. Every line has a number, so that
the recorded text can be compared line by line: all of what was never taken away must be there, of
what was truncated or deleted its beginning. Some lines also have a step, which must be there once.
Consecutive seeds are consecutive ways.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from spooler.collectors.log import LogCollector
from spooler.filetail.lines import PIECE_BYTES
from spooler.log_steps import known_parsers
from spooler.loglines import LINE_LIMIT
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, Tell
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit import spools

WAYS = {
    "rename": ("rename",),
    "copy": ("copy",),
    "rename and copy": ("rename", "copy"),
    "everything": ("rename", "copy", "truncate", "delete"),
}
LIVES = 30
LIFE_SECONDS = 0.12
FILE_BYTES = 30000
KEPT = 300  # rotated files, before the oldest goes
LETTERS = "abcdefghij äöüß 損失 😀"
BEGIN = "\x02"  # of a line; stands nowhere else
FIRST = f"{BEGIN}the first line\n"
STEPS_APART = 20  # lines
PATTERN = f"{BEGIN}{{step}} has {{value}} "
_TAKEN_AWAY, _KEPT = "\x03", "\x04"  # after all that one file was given, in `expected`


def lines(rng: random.Random) -> Iterator[bytes]:
    """Numbered lines, one in five hundred of them longer than a piece."""
    for number in count():
        text = "".join(rng.choices(LETTERS, k=rng.randrange(1, 200)))
        if rng.random() < 0.002:
            text += "損" * (PIECE_BYTES // 3 + rng.randrange(2000))
        word = "of" if number % STEPS_APART else "has"
        yield f"{BEGIN}{number} {word} {number} {text}\n".encode()


def write(directory: Path, ways: tuple[str, ...], seed: int) -> None:
    """Write, and rotate, truncate or delete, until the file `stop` is there."""
    rng = random.Random(seed)
    log, stop, to_write = directory / "train.log", directory / "stop", lines(rng)
    with (directory / "expected").open("ab", buffering=0) as expected:
        while not stop.exists():
            with log.open("ab", buffering=0) as file:
                size = rng.randrange(FILE_BYTES)
                while file.tell() < size and not stop.exists():
                    line = next(to_write)
                    cut = rng.randrange(len(line))
                    for part in (line[:cut], line[cut:]):
                        file.write(part)
                        expected.write(part)
                        time.sleep(rng.choice((0, 0, 0.001)))
            way = rng.choice(ways)
            expected.write((_TAKEN_AWAY if way in ("truncate", "delete") else _KEPT).encode())
            treat(log, way)


def treat(log: Path, way: str) -> None:
    """Take away what is in the log, or make it the youngest of the rotated files."""
    if way == "truncate":
        os.truncate(log, 0)
    elif way == "delete":
        os.unlink(log)
    else:
        rotate(log, way)


def rotate(log: Path, way: str) -> None:
    """As logrotate does, with numbers."""
    numbers = [int(path.suffix[1:]) for path in log.parent.glob("train.log.*")]
    for number in sorted(numbers, reverse=True):
        if number >= KEPT:
            os.unlink(f"{log}.{number}")
            continue
        os.rename(f"{log}.{number}", f"{log}.{number + 1}")
    if way == "rename":
        os.rename(log, f"{log}.1")
    else:
        shutil.copyfile(log, f"{log}.1")
        os.truncate(log, 0)


def collect(log: Path, tell: Tell, *, to_the_end: bool) -> None:
    """Collect until killed, or until all is read."""
    collector = LogCollector(log_file_path=str(log))
    while True:
        if collector.is_enabled():
            found = collector.collect_data(last=to_the_end)
            if found and not collector.store_data(found):
                os._exit(3)
            if found:
                tell(1)
            elif to_the_end:
                return


def begin(log: Path, way: str) -> None:
    """Follow the log from here on, and see it rotated: what is unread is known by that alone."""
    log.write_text(FIRST, encoding="utf-8")
    log.with_name("expected").write_text(FIRST + _KEPT, encoding="utf-8")
    collector = LogCollector(log_file_path=str(log))
    if not collector.store_data(collector.collect_data()):
        os._exit(3)
    rotate(log, way)
    log.touch()
    if collector.collect_data():
        os._exit(3)


def trial(seed: int, work: Path) -> Verdict:
    """Kill collectors in a row while the log is written, rotated and truncated."""
    rng, found = random.Random(seed), Findings()
    name, ways = list(WAYS.items())[seed % len(WAYS)]
    directory = work / "logs"
    directory.mkdir()
    log = directory / "train.log"
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    known_parsers()  # loaded before a process has its short life
    os.environ |= {"PRIMUS_LENS_LOG_PATTERN": PATTERN, "PRIMUS_LENS_TRACKERS": "log"}
    begun = Child(lambda _tell: begin(log, ways[0])).end() == 0
    found.check(begun, "G20", "the log cannot be followed")
    writer = Child(lambda _tell: write(directory, ways, seed))
    lived = 0
    for life in range(LIVES):
        child = Child(lambda tell: collect(log, tell, to_the_end=False))
        # On a busy machine the others may die before they collect anything.
        if life % 3 == 0 and not child.wait_for_first():
            found.check(False, "G20", f"{name}: a collector reads nothing of what is written")
            child.kill()
            break
        child.watch(rng.uniform(0, LIFE_SECONDS))
        found.check(not child.has_ended, "G20", f"{name}: a collector ended by itself")
        child.kill()
        lived += bool(child.told)
    (directory / "stop").touch()
    found.check(writer.end() == 0, "the attack", "its writer died")
    last = Child(lambda tell: collect(log, tell, to_the_end=True))
    found.check(last.end() == 0, "G20", f"{name}: the last collector failed")
    found.faults = lived
    got = recorded(work / "spool", "report")
    compare(
        found, name, _split("".join(one["data_content"] for one in got)), directory / "expected"
    )
    compare_steps(found, name, got, recorded(work / "spool", "step"))
    found.worst("files", len(list(directory.glob("train.log*"))))
    return found.verdict()


def recorded(root: Path, kind: str) -> list[dict[str, Any]]:
    """The records of a kind below `root`, in order."""
    begun = [path for path in spools.spools_below(root) if Reader(path).segments()]
    in_turn = sorted(begun, key=lambda path: Reader(path).identity().created)
    return [body for path in in_turn for body in spools.read_whole(path).bodies(kind)]


def compare_steps(
    found: Findings, name: str, reports: list[dict[str, Any]], steps: list[dict[str, Any]]
) -> None:
    """Each recorded line with numbers that is whole, and not too long for them, has one step.

    A step may be there without its line: that may be taken away in between.
    """
    lines = _split("".join(one["data_content"] for one in reports))
    whole = [line for line in lines if line.endswith("\n") and len(line) <= LINE_LIMIT]
    due = {int(line[1:].split()[0]) for line in whole if line[1:].split()[1] == "has"}
    got = Counter(one["step"] for one in steps)
    twice = [number for number, times in got.items() if times > 1]
    more = got.keys() - due if "truncate" not in WAYS[name] else set()
    found.check(not twice, "G20", f"{name}: steps that are there twice: {twice}")
    found.check(due <= got.keys(), "G20", f"{name}: steps that are lost: {due - got.keys()}")
    found.check(not more, "G20", f"{name}: steps without a line: {more}")
    found.worst("steps", got.total())


def compare(found: Findings, name: str, got: list[str], expected: Path) -> None:
    """Every file's lines, once and in order; a file that was taken away may lack its end."""
    at = lost = 0
    for file, is_whole in _files(expected.read_text(encoding="utf-8")):
        same = 0
        while same < len(file) and got[at + same : at + same + 1] == [file[same]]:
            same += 1
        at += same
        if same < len(file) and not is_whole and at < len(got):
            # A piece of a long line, whose other pieces have gone.
            at += file[same] != got[at] and file[same].startswith(got[at])
        elif same < len(file) and is_whole:
            other = got[at][:80] if at < len(got) else "nothing"
            found.check(False, "G20", f"{name}: {file[same][:80]!r} is due and there is {other!r}")
            return
        lost += len(file) - same
    found.check(at == len(got), "G20", f"{name}: {len(got) - at} lines too many: {got[at:][:2]}")
    found.worst("lines", at)
    found.worst("lines gone with their file", lost)


def _files(expected: str) -> Iterator[tuple[list[str], bool]]:
    """The lines of each file that the writer has written, and whether it let it be."""
    while expected:
        end = min((expected.find(mark) + 1 or len(expected)) for mark in (_TAKEN_AWAY, _KEPT))
        file, expected = expected[:end], expected[end:]
        yield _split(file.rstrip(_TAKEN_AWAY + _KEPT)), not file.endswith(_TAKEN_AWAY)


def _split(text: str) -> list[str]:
    """Lines with what begins them, which is not what ends them: a piece of one has none."""
    first, *others = text.split(BEGIN)
    return [*([first] if first else []), *(BEGIN + one for one in others)]


ATTACK = Attack(
    meaning="SIGKILL of processes that follow a log which is rotated, truncated and recreated",
    promises=("G20",),
    trial=trial,
    trials=Trials(short=len(WAYS), usual=12, long=300),
    catches=(
        "position-not-read-from-records",
        "position-before-lines",
        "partial-line-twice",
        "rotation-skips-the-rest",
        "truncation-not-noticed",
        "multibyte-characters-cut",
        "steps-of-a-piece-again",
    ),
)

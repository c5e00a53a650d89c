"""A process that writes at full speed beside one that reads as the service does.

SQLite before 3.51.3 can lose or corrupt committed rows when one process writes a WAL database while
another checkpoints it. A spool has one owner; its connection alone writes and checkpoints. The race
is a few instructions wide; pinned to one processor it is met by chance, which is looked for, and so
is its cause: whether the reader ever has a segment open for writing, as a checkpoint needs it.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from pathlib import Path

from shipper.disk.discovery import find_spools
from spooler.errors import SpoolError
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.attacks.spool_kills import record_for_ever
from tests.crash.lab.conservation import ALL
from tests.crash.lab.lives import Life, Tell
from tests.crash.lab.verdict import Findings, Verdict

SECONDS = 3.0


def read_for_ever(root: Path, rng: random.Random) -> None:
    """Read what comes, in chunks, as the service does."""
    position = 0
    while True:
        for path in find_spools(root):
            try:
                position = max(position, Reader(path).read(position, 500).through)
            except SpoolError:
                continue  # found afterwards, by who looks at the whole
        time.sleep(rng.uniform(0, 0.002))


def trial(seed: int, work: Path) -> Verdict:
    """Write and read beside each other on one processor, then look at every file."""
    rng, found = random.Random(seed), Findings()
    root = work / "spool"
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(root)
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[seed % len(processors)]})

    def read(_tell: Tell) -> None:
        read_for_ever(root, rng)

    writer = Life(record_for_ever)
    writer.wait_for_first()
    reader = Life(read)
    end, writable, looks = time.monotonic() + SECONDS, set[str](), 0
    while time.monotonic() < end:
        writer.watch(rng.uniform(0.0005, 0.003))
        seen = _segments_open(reader.pid)
        looks += bool(seen)
        writable |= {name for name, may_write in seen if may_write}
    found.check(not writable, "G1", f"the reader may write {sorted(writable)[:3]}")
    if not looks:
        raise RuntimeError("the reader was never seen reading")
    reader.kill()
    writer.kill()
    found.faults += 1
    returned = len(writer.told)
    (path,) = find_spools(root)
    try:
        chunk = Reader(path).read(0, ALL)
        seqs = [stored.seq for stored in chunk.records]
    except SpoolError as error:
        found.check(False, "G1", f"the spool cannot be read: {error}")
        return found.verdict()
    found.check(not chunk.damage, "G1", f"damage: {chunk.damage[:2]}")
    found.check(len(seqs) >= returned, "G1", f"{returned} returned, {len(seqs)} are there")
    found.worst("lost records", max(0, returned - len(seqs)))
    for file in sorted(path.glob("*.sqlite")):
        _check_whole(file, found)
    return found.verdict()


def _segments_open(pid: int) -> list[tuple[str, bool]]:
    """The segments that a process has open, and whether it may write them."""
    seen = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = os.readlink(descriptor)
            if name.endswith(".sqlite"):
                info = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text(encoding="ascii")
                flags = int(info.split("flags:")[1].split()[0], 8)
                seen.append((Path(name).name, bool(flags & os.O_ACCMODE)))
    return seen


def _check_whole(file: Path, found: Findings) -> None:
    """What SQLite itself says of a file."""
    connection = sqlite3.connect(file)
    try:
        said = connection.execute("PRAGMA integrity_check").fetchall()
    except sqlite3.Error as error:
        said = [(str(error),)]
    finally:
        connection.close()
    found.check(said == [("ok",)], "G1", f"{file.name}: {said[:2]}")


ATTACK = Attack(
    meaning="a writer at full speed and a reader beside it, on one processor",
    promises=("G1",),
    trial=trial,
    trials=Trials(short=1, usual=4, long=40),
    catches=("second-checkpointer",),
)

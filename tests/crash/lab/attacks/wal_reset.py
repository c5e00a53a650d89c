"""The reader is held for a moment, instruction by instruction, while the writer commits.

SQLite before 3.51.3 loses committed rows when one connection checkpoints while another starts its
log anew: one has read how long the log was, the other begins it at its start, and the first then
notes that the new log was copied up to the old length. Between the two lie some fifty instructions;
chance hardly ever meets them. Here the reader is stopped after each of the locks that it takes, or,
where it asks for the lock of a checkpoint, so many instructions after that one; then the writer
commits, and the reader goes on. In our product there is no such lock to stop at: the connection
that writes is the only one that checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

from shipper.disk.discovery import find_spools
from spooler.errors import SpoolError
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.conservation import ALL
from tests.crash.lab.lives import Life, Tell
from tests.crash.lab.stepping import IDLE, Lock, Stepped, missing
from tests.crash.lab.verdict import Findings, Verdict

ROUNDS = 24
INSTRUCTIONS = 480  # from that lock to where the checkpoint has made up its mind, and beyond
FILL = 40  # records that make the log longer than what is committed while the reader stands


class _Worker:
    """A child that does as it is told: a byte is how much of it."""

    def __init__(self, work: Callable[[int, Tell], None]) -> None:
        orders, self._orders = os.pipe()
        done_here, done = os.pipe()

        def live(tell: Tell) -> None:
            os.dup2(orders, IDLE)
            while order := os.read(IDLE, 1):
                work(order[0], tell)
                os.write(done, b".")

        self.life = Life(live)
        os.close(orders)
        os.close(done)
        self._done = done_here

    def order(self, number: int) -> None:
        """Let it begin."""
        os.write(self._orders, bytes([number]))

    def wait(self) -> bool:
        """Until it is done; False when it has died of it."""
        return bool(os.read(self._done, 1))


def _append(count: int, tell: Tell) -> None:
    from spooler.recorder import recorder

    for _ in range(count):
        number = recorder().last_seq + 1
        body = {"run": "r", "step": number, "time": 1.0, "closed": True, "data": {"x": "y" * 300}}
        if not recorder().record("step", body):
            raise RuntimeError(f"record {number} was refused: {recorder().dropped}")
        tell(number)


def trial(seed: int, work: Path) -> Verdict:
    """Hold the reader in `ROUNDS` places; consecutive seeds are the places between those."""
    found = Findings()
    root = work / "spool"
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(root)
    os.environ["PRIMUS_LENS_SPOOL_SEGMENT_RECORDS"] = "1000000"
    writer = _Worker(_append)
    writer.order(FILL)
    writer.wait()
    (path,) = find_spools(root)

    def read(_: int, __: Tell) -> None:
        with contextlib.suppress(SpoolError):  # looked for afterwards, in the whole
            Reader(path).read(0, ALL)

    reader = _Worker(read)
    try:
        _play(seed, reader, writer, found)
    finally:
        reader.life.kill()
        writer.life.kill()
    _look(path, len(writer.life.told), found)
    return found.verdict()


def _play(seed: int, reader: _Worker, writer: _Worker, found: Findings) -> None:
    rng = random.Random(seed)
    asked = _watch(reader)
    checkpoints = sum(lock.is_to_checkpoint for lock in asked)
    found.worst("locks of a reader to checkpoint", checkpoints)
    every = INSTRUCTIONS // ROUNDS
    for number in range(ROUNDS):
        reader.order(1)
        reader.wait()  # where it checkpoints, the whole log is copied now
        with Stepped(reader.life.pid) as stepped:
            reader.order(1)
            for turn, lock in enumerate(stepped.locks()):
                if lock.is_to_checkpoint or (not checkpoints and turn == number % len(asked)):
                    stepped.step(number * every + seed % every)
                    break
            writer.order(rng.randrange(1, 4))
            is_well = writer.wait()
            found.faults += 1
        reader.wait()
        writer.order(FILL)
        is_well = writer.wait() and is_well
        if not found.check(is_well, "G1", "the writer's own file has failed under it"):
            return


def _watch(reader: _Worker) -> list[Lock]:
    """The locks that one reading takes."""
    with Stepped(reader.life.pid) as stepped:
        reader.order(1)
        asked = list(stepped.locks())
    reader.wait()
    if not asked:
        raise RuntimeError("the reader took no lock: there is nowhere to hold it")
    return asked


def _look(path: Path, returned: int, found: Findings) -> None:
    """Whether everything that was returned is there, and what SQLite says of the files."""
    try:
        chunk = Reader(path).read(0, ALL)
        seqs = [stored.seq for stored in chunk.records]
        found.check(not chunk.damage, "G1", f"damage: {chunk.damage[:2]}")
        found.check(len(seqs) >= returned, "G1", f"{returned} returned, {len(seqs)} are there")
        found.worst("lost records", max(0, returned - len(seqs)))
    except SpoolError as error:
        found.check(False, "G1", f"the spool cannot be read: {error}")
    for file in sorted(path.glob("*.sqlite")):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            try:
                said = connection.execute("PRAGMA integrity_check").fetchall()
            except sqlite3.Error as error:
                said = [(str(error),)]
        found.check(said == [("ok",)], "G1", f"{file.name}: {said[:2]}")


ATTACK = Attack(
    meaning="the reader is held amid its locks, between two instructions, while one commits",
    promises=("G1",),
    trial=trial,
    trials=Trials(short=1, usual=4, long=40),
    catches=("second-checkpointer",),
    missing=missing,
)

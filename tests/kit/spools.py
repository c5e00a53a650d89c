"""Builders of spools and of the processes that write them, and one way to read everything back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from spooler import recorder, stderr
from spooler.background import BackgroundThread
from spooler.spool import codec, owner
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Damage, Reader, Stored
from spooler.spool.writer import Limits, Writer

REPOSITORY = Path(__file__).resolve().parents[2]
BELOW = ("node_0", "rank_0")
# A child that takes longer than this hangs; far above what any of them needs.
PATIENCE_SECONDS = 180.0


def spool_id(salt: int = 0) -> str:
    """A well-formed spool id that does not depend on the time; another one for another salt."""
    return fmt.spool_id("20240102T030405", os.getpid(), f"{salt:08x}")


def identity(spool: str = "", **fields: Any) -> Identity:
    """Who writes a test's spool."""
    known = {"created": 1700000000.0, "host": "node-a", **asdict(owner.this_process())}
    return Identity(spool=spool or spool_id(), **{**known, **fields})


def writer(
    root: Path,
    *,
    spool: str = "",
    who: Identity | None = None,
    **limits: Any,
) -> Writer:
    """A writer below `root`; `limits` are fields of `Limits`."""
    who = who or identity(spool)
    return Writer(
        root=root,
        below=BELOW,
        spool=who.spool,
        identity=codec.pack(who.to_map()),
        limits=Limits(**limits),
    )


def body(number: int) -> bytes:
    """A small body from which `number` can be read back."""
    return codec.pack({"n": number})


def number_of(stored: Stored) -> int:
    """The number that `body` was given."""
    number: int = codec.unpack(stored.body)["n"]
    return number


def fill(
    root: Path, count: int, *, spool: str = "", close: bool = True, **limits: Any
) -> tuple[Path, Writer]:
    """A spool of the bodies 1 … `count`, tended after each; its directory and its writer."""
    one = writer(root, spool=spool, **limits)
    for number in range(1, count + 1):
        one.append("step", body(number))
        one.maintain()
    if close:
        one.close()
    return one.directory, one


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything a reader gave from a spool, in order."""

    records: tuple[Stored, ...]
    damage: tuple[Damage, ...]
    through: int

    @property
    def seqs(self) -> list[int]:
        return [stored.seq for stored in self.records]

    @property
    def numbers(self) -> list[int]:
        return [number_of(stored) for stored in self.records]

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        """The decoded bodies of one kind."""
        return [codec.unpack(stored.body) for stored in self.records if stored.kind == kind]


def read(directory: Path, *, limit: int = 7) -> Found:
    """Read a spool from its start to its end, in chunks of `limit`."""
    reader, records, damage = Reader(directory), list[Stored](), list[Damage]()
    through, at_end = 0, False
    while not at_end:
        chunk = reader.read(through, limit)
        records += chunk.records
        damage += chunk.damage
        through, at_end = chunk.through, chunk.at_end
    return Found(records=tuple(records), damage=tuple(damage), through=through)


def read_whole(directory: Path, *, limit: int = 500) -> Found:
    """As `read`, for a spool that has to be free of damage and of gaps."""
    found = read(directory, limit=limit)
    assert found.damage == ()
    assert found.seqs == list(range(1, len(found.seqs) + 1))
    return found


def interrupt(
    module_file: str, work: Callable[[], Any], at: int, handler: Callable[[], Any]
) -> int:
    """Run `work`, calling `handler` before its `at`-th bytecode in that file; the bytecodes seen.

    Between two bytecodes is where CPython runs a signal handler.
    """
    seen = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != module_file:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if seen == at:
                handler()
            seen += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return seen


def spools_below(root: Path) -> list[Path]:
    """Every spool directory below a root, in order of their names."""
    return sorted(
        (path for path in root.glob("node_*/rank_*/*") if fmt.is_spool_id(path.name)),
        key=lambda path: path.name,
    )


def step(number: int, *, run: str = "r", **data: Any) -> dict[str, Any]:
    """The body of a step as the hook makes it."""
    made = {"run": run, "step": number, "time": time.time(), "closed": True}
    return {**made, "data": data or {"loss": number / 3}}


def python(
    code: str, *arguments: object, before: Sequence[str] = (), **environ: str | None
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, unhooked unless `environ` says so; None unsets a name.

    `before` is a command that runs the interpreter, such as `unshare -m`.
    """
    return subprocess.run(
        [*before, sys.executable, "-c", code, *map(str, arguments)],
        env=environment(**environ),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without our variables and a launcher's, then with `changes`."""
    ours = ("PRIMUS_LENS_", "DLROVER_", "WANDB_", "SLURM_", "OMPI_", "PMI_")
    names = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "WORKLOAD_UID"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) and name not in names
    }
    kept.update({name: value for name, value in changes.items() if value is not None})
    for name, value in changes.items():
        if value is None:
            kept.pop(name, None)
    return kept


def settle(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """In this process: record below `root`, try again at once after a failure, say all anew."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", str(root))
    monkeypatch.setattr(recorder, "_RETRY_SECONDS", 0.0)
    # Also on a slow machine: a thread that is left disturbs the tests that follow.
    monkeypatch.setattr(recorder, "_SHUTDOWN_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(stderr, "_reported", {})


def tend_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no background thread runs: `_maintain` is called by the test, or by nobody."""
    monkeypatch.setattr(BackgroundThread, "start", lambda _: True)


def open_files(place: Path) -> list[str]:
    """Files below `place` that this process has open, be they deleted or not."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # another thread has closed it, or this list
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if name.startswith(f"{place}/")]


def kinds(directory: Path) -> list[str]:
    """The kinds of a whole spool's records, in order."""
    return [stored.kind for stored in read_whole(directory).records]


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The last line that a child printed, as JSON; the child must have ended well."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def wait_until(holds: Callable[[], object]) -> None:
    """Ask until it holds, for what another process does and tells nobody."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "not within the time that anything takes"
        time.sleep(0.01)

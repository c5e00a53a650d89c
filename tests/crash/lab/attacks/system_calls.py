"""The Nth system call of a kind fails, for every N, once or from there on.

It does so in a log call, a rotation, a cycle of the service, a recovery and a replay. Recording
never raises: what it reported as recorded is there, what it refused is counted. Shipping may fail.
The next attempt, without a fault, must deliver everything in order. Consecutive seeds are
consecutive combinations of scene, call and error.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import shipper.cli.replay  # a fault is to strike what it does, not how it is loaded
import shipper.delivery.backoff
from shipper import cli
from shipper.discovery.layout import find_spools
from shipper.errors import ShipperError
from shipper.service import ship_once
from shipper.sinks import REGISTRY as SINKS
from spooler import recorder as module
from spooler.background import BackgroundThread
from spooler.errors import SpoolError
from spooler.recorder import Recorder
from spooler.records import step as step_record
from spooler.spool import codec, db
from spooler.spool.reader import Reader
from tests.crash.lab import tracing
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ALL, ArrivedRecords
from tests.crash.lab.tracing import CallFault, Notes
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings

for _place in SINKS.values():
    import_module(_place.partition(":")[0])  # none is to be loaded while calls fail

STEPS = 30
TAKEN, REFUSED, THROUGH = 1, 2, 3
FOR_EVER_AT = (1, 2, 3, 5, 8, 13, 21)
HANGS_SECONDS = 60.0

FILE_CALLS = (
    ("openat", "EMFILE"),
    ("openat", "EIO"),
    ("pread64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("pwrite64", "EIO"),
    ("write", "ENOSPC"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("ftruncate", "ENOSPC"),
    ("unlink", "EIO"),
    ("rename", "EIO"),
    ("mkdir", "ENOSPC"),
    ("fcntl", "ENOLCK"),
)
NET_CALLS = (
    ("socket", "EMFILE"),
    ("connect", "ECONNREFUSED"),
    ("sendto", "EPIPE"),
    ("recvfrom", "ECONNRESET"),
    ("poll", "EINTR"),
)
RECORDING = ("log", "rotation")
SHIPPING = ("ship", "recovery", "replay")
COMBINATIONS = [
    (scene, call, error, forever)
    for forever in (False, True)
    for scene in (*RECORDING, *SHIPPING)
    for call, error in (FILE_CALLS if scene in RECORDING else (*FILE_CALLS, *NET_CALLS))
    if not (scene in SHIPPING and call in {"rename", "mkdir", "write", "fcntl"})
    if not (scene in RECORDING and call == "pread64")  # nothing is read there
    # A replay waits for its receiver as long as it takes.
    if not (forever and scene == "replay" and (call, error) in NET_CALLS)
]


def _body(number: int) -> dict[str, object]:
    return step_record.encode(
        run="r", step=number, time=time.time(), closed=True, data={"loss": number / 3}
    )


def _without_thread() -> Recorder:
    """A recorder whose background work is done where `_maintain` is called."""
    mine, idle = Recorder(), BackgroundThread(lambda: None)
    mine._start_background = lambda: idle  # type: ignore[method-assign]
    return mine


def _record(notes: Notes, steps: int) -> int:
    """Record, with the background thread's work done between the calls; 0 if nothing raised."""
    module._RETRY_SECONDS = 0.0
    mine = _without_thread()
    for number in range(steps):
        taken = mine.record("step", _body(number))
        notes[number] = TAKEN if taken else REFUSED
        mine._maintain()
    notes[steps] = THROUGH
    mine.shutdown()
    return 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where faults strike: a fresh root, and a receiver that is there for all of them."""

    root: Path
    state: Path
    receiver: ReceiverProcess

    def ship(self, seconds: float) -> int:
        """One cycle of the service: 1 when records are pending, 3 when it reported an error."""
        try:
            pending = ship_once(
                settings(self.root, self.state, self.receiver.url, batch_max_steps=7),
                timeout=seconds,
            )
        except (ShipperError, SpoolError):
            return 3
        return 1 if pending else 0

    def replay(self) -> int:
        """`lens-ship replay` of everything; its exit code."""
        url = ("--processor-url", self.receiver.url)
        try:
            # Spools from elsewhere: no service ships them, and a root of its own is empty.
            own = ("--spool", str(self.state / "root"), "--state", str(self.state))
            sys.argv = ["lens-ship", "replay", str(self.root), *own, *url]
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def trial(seed: int, work: Path) -> Verdict:
    """One combination, for every N until it is not reached any more."""
    scene, call, error, forever = COMBINATIONS[seed % len(COMBINATIONS)]
    found = Findings()
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    os.environ["WORKLOAD_UID"] = "w"
    os.environ["PRIMUS_LENS_SPOOL_SEGMENT_RECORDS"] = "12"
    db.LARGE_BYTES = random.Random(seed).choice((1, 2**30))  # packed when they are sealed, or not
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    strike = _strike_recording if scene in RECORDING else _strike_shipping
    for at in FOR_EVER_AT if forever else itertools.count(1):
        fault = CallFault(call=call, error=error, at=at, forever=forever)
        here = work / f"{at}"
        here.mkdir()
        if not strike(scene, fault, here, found):
            break
        found.faults += 1
    return found.verdict()


def _strike_recording(scene: str, fault: CallFault, work: Path, found: Findings) -> bool:
    """Record with a fault; whether it struck."""
    steps = 3 if scene == "log" else STEPS
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    notes = Notes()
    ended = tracing.run(lambda: _record(notes, steps), fault, work / "trace", HANGS_SECONDS)
    where = f"{scene}, {fault}"
    found.check(ended.status is not None, "G2", f"{where}: hangs")
    found.check(ended.status in (0, None), "G2", f"{where}: died with {ended.status}")
    found.check(notes[steps] == THROUGH, "G2", f"{where}: something was raised")
    taken = [n for n in range(steps) if notes[n] == TAKEN]
    if not ended.struck and len(taken) < steps:
        raise RuntimeError(f"without a fault {len(taken)} of {steps} are recorded")
    there, gaps = _look(work / "spool", where, found)
    lost = sorted(set(taken) - set(there))
    found.worst("lost records", len(lost))
    found.check(not lost, "G1", f"{where}: taken, and not there: {lost}")
    odd = sorted(set(there) - set(taken))
    found.check(not odd, "G2", f"{where}: refused, and there: {odd}")
    found.check(there == sorted(there), "G3", f"{where}: order {there}")
    refused = steps - len(taken)
    if taken and taken[-1] == steps - 1:
        found.check(gaps == refused, "G2", f"{where}: {refused} refused, gaps tell of {gaps}")
    notes.close()
    return ended.struck


def _look(root: Path, where: str, found: Findings) -> tuple[list[int], int]:
    """The steps that are there, by spool in the order of their beginning; what gaps tell of."""
    steps: list[int] = []
    gaps = 0
    spools = find_spools(root) if root.is_dir() else []
    begun = [path for path in spools if Reader(path).segments()]
    for path in sorted(begun, key=lambda path: Reader(path).identity().created):
        try:
            chunk = Reader(path).read(0, ALL)
        except SpoolError as error:
            found.check(False, "G7", f"{where}: {error}")
            continue
        found.check(not chunk.damage, "G7", f"{where}: {chunk.damage[:2]}")
        bodies = [(stored.kind, codec.unpack(stored.body)) for stored in chunk.records]
        steps += [body["step"] for kind, body in bodies if kind == "step"]
        gaps += sum(body["count"] for kind, body in bodies if kind == "gap")
    return steps, gaps


def _strike_shipping(scene: str, fault: CallFault, work: Path, found: Findings) -> bool:
    """Ship with a fault, then without one; whether it struck."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    stage = Scene(root=work / "spool", state=work / "state", receiver=receiver)

    def fill(tell: Tell) -> None:
        _record(Notes(), STEPS)
        if scene == "recovery":
            return
        tell(0)

    if scene == "recovery":
        child = Child(lambda tell: _die_recording(tell))
        child.wait_for_first()
        child.end()
    else:
        Child(fill).end()
    steps, _gaps = _look(work / "spool", scene, found)
    if len(steps) < STEPS:
        raise RuntimeError(f"without a fault {len(steps)} of {STEPS} are recorded")
    act: Callable[[], int] = stage.replay if scene == "replay" else lambda: stage.ship(2.0)
    ended = tracing.run(act, fault, work / "trace", HANGS_SECONDS)
    where = f"{scene}, {fault}"
    found.check(ended.status is not None, "G6", f"{where}: hangs")
    code = None if ended.status is None else os.waitstatus_to_exitcode(ended.status)
    found.check(code != 99, "G6", f"{where}: ended by an unexpected exception")
    again: Callable[[Tell], None] = lambda _tell: os._exit(  # noqa: E731 - one line for one call
        stage.replay() if scene == "replay" else stage.ship(60.0)
    )
    rest = Child(again).end()
    found.check(rest == 0, "G6", f"{where}: the next try ended with {rest}")
    receiver.stop()
    aside = len(list(work.glob("spool/quarantine/*/*.sqlite")))
    found.check(not aside, "G7", f"{where}: {aside} segments were taken for damaged")
    arrivals = ArrivedRecords(receiver.store)
    arrivals.check(found, "w", steps, deaths=STEPS)
    return ended.struck


def _die_recording(tell: Tell) -> None:
    mine = _without_thread()
    for number in range(STEPS):
        mine.record("step", _body(number))
        mine._maintain()
    tell(0)
    sys.stdout.flush()
    os.kill(os.getpid(), 9)


ATTACK = Attack(
    meaning="the Nth system call of a kind fails, for every N, in a log call, a rotation, a cycle"
    " of the service, a recovery and a replay",
    promises=("G1", "G2", "G3", "G4", "G6", "G7"),
    trial=trial,
    trials=Trials(short=2, usual=len(COMBINATIONS), long=len(COMBINATIONS)),
    catches=(
        "failure-reported-as-success",
        "acknowledge-before-send",
        "read-error-taken-for-damage",
    ),
    missing=tracing.missing,
)

"""A small disk fills up, runs out of inodes, loses its permissions or its files, and recovers.

A process records all the time. No call may raise or hang. What was reported as recorded must be on
the disk, what was refused must be counted in a gap, and recording must resume by itself.
Consecutive seeds are consecutive faults.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shipper.discovery.layout import find_spools
from shipper.service import ship_once
from spooler import recorder as module
from spooler.records import step as step_record
from spooler.spool import codec, db
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ALL, ArrivedRecords
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings
from tests.kit.spools import PATIENCE_SECONDS

ROUNDS = 4
NOBODY = 65534
_CLONE_NEWNS = 0x00020000
_PROBE = ("unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k x /mnt")

Place = Path
Fault = Callable[[Place], Callable[[], None]]  # hurts the disk; what it returns makes it good


@functools.cache
def missing() -> str:
    """Why no file system can be mounted here; "" where it can."""
    if shutil.which("unshare") is None:
        return "unshare is not installed (Debian package util-linux)"
    tried = subprocess.run(_PROBE, capture_output=True, text=True, check=False)
    return f"no small disk can be mounted: {tried.stderr.strip()}" if tried.returncode else ""


def mount(*arguments: str) -> None:
    """Mount in the name space of this process, and write no file that others share."""
    subprocess.run(["mount", "-n", *arguments], check=True)


def small_disk(options: str) -> Path:
    """Mount a small disk for this process and its children alone, open to every user."""
    place = next(
        path
        for path in map(Path, ("/mnt", "/media", "/srv", "/opt"))
        if path.is_dir() and not any(path.iterdir())
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", f"{options},mode=0777", "lens-ship-crash", str(place))
    return place


def full(place: Path) -> Callable[[], None]:
    """No byte is left."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)) and file.write(bytes(512)):
            pass
    return ballast.unlink


def inodes(place: Path) -> Callable[[], None]:
    """No file can be made."""
    directory = place / "many"
    directory.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10**6):
            (directory / str(number)).touch()
    return lambda: shutil.rmtree(directory)


def read_only(place: Path) -> Callable[[], None]:
    """The disk becomes read-only for every file that is opened from now on."""
    # Elsewhere, then moved: a segment that is opened here meanwhile would keep it writable.
    view = tempfile.mkdtemp()
    mount("--bind", str(place), view)
    mount("-o", "remount,bind,ro", view)
    mount("--move", view, str(place))
    os.rmdir(view)

    def heal() -> None:
        subprocess.run(["umount", "-n", "-l", str(place)], check=True)

    return heal


def permissions(place: Path) -> Callable[[], None]:
    """Only root may read the spool root."""
    (place / "spool").chmod(0)
    return lambda: (place / "spool").chmod(0o777)


def deleted(place: Path) -> Callable[[], None]:
    """Everything is deleted under the writer."""
    shutil.rmtree(place / "spool", ignore_errors=True)
    return lambda: None


FAULTS: tuple[Fault, ...] = (full, inodes, read_only, permissions, deleted)


def record(tell: Tell, stop: Path) -> None:
    """Record until told to stop; tell 2n for step n taken, 2n + 1 for one refused.

    At the end -1 less the longest call in milliseconds.
    """
    module._RETRY_SECONDS = 0.02
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    mine, number, slowest = module.recorder(), 0, 0.0
    while not stop.exists():
        data = {"loss": number / 3, "text": "x" * 40}
        body = step_record.encode(run="r", step=number, time=time.time(), closed=True, data=data)
        began = time.monotonic()
        taken = mine.record("step", body)
        slowest = max(slowest, time.monotonic() - began)
        tell(2 * number + (not taken))
        number += 1
        time.sleep(0.0005 if taken else 0.002)
    mine.shutdown()
    tell(-1 - int(slowest * 1000))


def trial(seed: int, work: Path) -> Verdict:
    """Hurt the disk `ROUNDS` times while a process records, then account for everything."""
    rng, found = random.Random(seed), Findings()
    fault = FAULTS[seed % len(FAULTS)]
    place = small_disk(f"size={rng.choice((12, 40))}m,nr_inodes=1500")
    stop = place / "stop"
    (place / "spool").mkdir(mode=0o777)
    (place / "spool").chmod(0o777)
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(place / "spool")
    os.environ["PRIMUS_LENS_SPOOL_SEGMENT_RECORDS"] = str(rng.choice((30, 400)))
    os.environ["WORKLOAD_UID"] = "w"
    db.LARGE_BYTES = rng.choice((1, 2**30))  # segments are packed when they are sealed, or not
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    child = Child(lambda tell: record(tell, stop))
    child.wait_for_first()
    for _ in range(ROUNDS):
        child.watch(rng.uniform(0.0, 0.3))
        heal = fault(place)
        found.faults += 1
        child.watch(rng.uniform(0.05, 0.4))
        heal()
    _wait_for_recovery(child, found)
    stop.touch()
    status = child.end()
    found.check(status == 0, "G2", f"the training process died: {status}")
    if child.told and child.told[-1] < 0:
        found.worst("longest call ms", -1 - child.told.pop())
    _account(child.told, place / "spool", found, whole=fault is not deleted)
    _ship(place / "spool", work, receiver, found)
    return found.verdict()


def _wait_for_recovery(child: Child, found: Findings) -> None:
    """Once the disk has recovered, records must be taken again within some time."""
    deadline, seen = time.monotonic() + PATIENCE_SECONDS, len(child.told)
    while time.monotonic() < deadline:
        child.watch(0.05)
        later = child.told[seen:]
        if child.has_ended:
            break
        if len(later) > 200 and all(number % 2 == 0 for number in later[-100:]):
            child.watch(1.2)  # by now a writer whose files are gone has noticed
            return
    found.check(False, "G2", "recording does not resume once the disk is good again")


def _account(told: list[int], root: Path, found: Findings, *, whole: bool) -> None:
    """What was taken is there, what was refused is counted; `whole` unless files were deleted."""
    taken = {number // 2 for number in told if number % 2 == 0}
    refused = {number // 2 for number in told if number % 2}
    there: set[int] = set()
    gaps = 0
    for path in find_spools(root):
        reader = Reader(path)
        if not reader.segments():
            continue
        chunk = reader.read(0, ALL)
        # A file that is made while all others are deleted is left: those before it are missing.
        damage = [one for one in chunk.damage if whole or one.reason != "missing"]
        found.check(not damage, "G7", f"{path.name}: {damage[:2]}")
        for stored in chunk.records:
            body = codec.unpack(stored.body)
            if stored.kind == "step":
                there.add(body["step"])
            elif stored.kind == "gap":
                gaps += body["count"]
    found.worst("refused records", len(refused))
    if whole:
        lost = taken - there
        found.worst("lost records", len(lost))
        found.check(not lost, "G1", f"taken, and not there: {sorted(lost)[:9]}")
        found.check(gaps == len(refused), "G2", f"{len(refused)} refused, gaps tell of {gaps}")
    else:
        last = max(taken, default=0)
        found.check(last in there, "G2", f"after the deletion nothing was recorded; last {last}")
    found.check(there <= taken | refused, "G1", "more is there than was logged")
    found.check(not (there & refused), "G2", f"refused, yet there: {sorted(there & refused)[:9]}")


def _ship(root: Path, work: Path, receiver: ReceiverProcess, found: Findings) -> None:
    """Everything that is there arrives."""
    recorded = {
        codec.unpack(stored.body)["step"]
        for path in find_spools(root)
        for stored in Reader(path).read(0, ALL).records
        if stored.kind == "step"
    }
    pending = ship_once(settings(root, work / "state", receiver.url), timeout=120)
    receiver.stop()
    got = set(ArrivedRecords(receiver.store).steps("w"))
    found.check(not pending, "G4", f"still pending: {pending[:2]}")
    found.check(got == recorded, "G4", f"recorded {len(recorded)} steps, {len(got)} arrived")


ATTACK = Attack(
    meaning="a small disk that fills up, runs out of inodes, turns read-only or loses files",
    promises=("G1", "G2", "G4", "G7"),
    trial=trial,
    trials=Trials(short=len(FAULTS), usual=3 * len(FAULTS), long=20 * len(FAULTS)),
    catches=("failure-reported-as-success", "losses-not-recorded", "deletion-not-noticed"),
    missing=missing,
)

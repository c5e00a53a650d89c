"""Tenants that make spools to harm the service, beside one that trains and logs.

Every kind of `tests.kit.hostile` has a pod's directory of its own. While they lie there, an honest
process logs and the real service ships. Two tenants hold their files under locks and leases, as
other users where this one may. One waits until the service knows its spool, and
then puts a link in the place of its directory; one lets a file grow for as long as it can. The seed
decides whose directory comes first in the walk.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shipper.ledger.ledger import Ledger
from spooler.records import step
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.writer import Limits, Writer
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ArrivedRecords
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit import hostile
from tests.kit.holding import held, own
from tests.kit.processor import queries
from tests.kit.processor.store import Store
from tests.kit.spools import environment

STEPS = 350  # the last of them stay in the log of a segment that is not full
MARK = "honest"  # a metric of the honest tenant, which no other may have
WAIT_SECONDS = 90.0
MOST_BYTES = 768 * 2**20  # of memory, whatever lies in the spools
_GROWS = 64 * 2**20
_COMMANDS = (
    ("status",),
    ("audit",),
    ("check",),
    ("inspect", "ROOT"),
    ("inspect", "--verify", "ROOT"),
    ("tail", "ROOT"),
    ("plot",),
    ("replay", "--dry-run", "ROOT"),
)


class HostileRoot:
    """A spool root with a directory for each pod, all of them hostile but one."""

    def __init__(self, seed: int, work: Path) -> None:
        self.rng = random.Random(seed)
        self.path, self.state = work / "spool", work / "state"
        self.secret = work / "node" / "secret"
        self.secret.parent.mkdir()
        self.secret.write_text("password\n")
        self.pod = self._uid()
        spool = f"20260101T000000-1-{self.rng.getrandbits(32):08x}"
        self.victim = self.path / self.pod / "node_0" / "rank_0" / spool
        self.swap = self.victim
        self.held: dict[str, Path] = {}  # "lock" or "lease" -> the directory whose files are held
        self.log = work / "log"
        self._staging = work / "staging"

    def build(self) -> None:
        """Every kind, each in a directory that appears as a whole."""
        for name, builder in hostile.BUILDERS.items():
            if name in hostile.NEEDS_ROOT and os.geteuid() != 0:
                continue
            with self._made() as directory:
                builder(hostile.Place(folder=directory, victim=self.victim, secret=self.secret))
        for how in ("lock", "lease"):
            with self._made() as directory:
                hostile.locked(
                    hostile.Place(folder=directory, victim=self.victim, secret=self.secret)
                )
                own(directory)
            self.held[how] = self.path / directory.name
        with self._made() as directory:
            swap = directory / "node_0" / "rank_0" / self.victim.name.replace("-1-", "-2-")
            swap.mkdir(parents=True)
            who = hostile.identity(swap, workload_uid="swapper")
            hostile.segment(swap, hostile.three(), who=who)
            self.swap = self.path / directory.name / swap.relative_to(directory)

    def swap_for_link(self) -> None:
        """The directory of a spool that is known becomes a link to the honest tenant's."""
        self.swap.rename(self.swap.with_name("away"))
        self.swap.symlink_to(self.victim)

    def is_swap_refused(self) -> bool:
        """Whether the service has said that it does not read that directory any more."""
        refusal = re.compile(rf"spool cannot be shipped.* spool={self.swap.name} ")
        return refusal.search(self.log.read_text(errors="replace")) is not None

    def _uid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    @contextmanager
    def _made(self) -> Iterator[Path]:
        directory = self._staging / self._uid()
        directory.mkdir(parents=True)
        yield directory
        directory.rename(self.path / directory.name)


def log_steps(root: HostileRoot, tell: Tell) -> None:
    """The honest process: it logs, and waits until it is killed."""
    who = Identity(
        spool=root.victim.name, created=1.0, pid=1, host="h", workload_uid=MARK, pod_uid=root.pod
    )
    writer = Writer(
        root=root.path / root.pod,
        below=("node_0", "rank_0"),
        spool=root.victim.name,
        identity=codec.pack(who.to_map()),
        limits=Limits(segment_records=100),
    )
    for number in range(STEPS):
        data = {MARK: float(number)}
        body = step.encode(run="r", step=number, time=1.0, closed=True, data=data)
        writer.append("step", codec.pack(body))
        writer.maintain()
        tell(number)
        time.sleep(0.02)
    signal.pause()


def trial(seed: int, work: Path) -> Verdict:
    """Everything at once, for as long as the honest process logs."""
    with ExitStack() as holds:
        return _trial(HostileRoot(seed, work), seed, work, holds)


def _trial(root: HostileRoot, seed: int, work: Path, holds: ExitStack) -> Verdict:
    found = Findings()
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    (root.path / root.pod).mkdir(parents=True)
    honest = Child(lambda tell: log_steps(root, tell))
    honest.wait_for_first()
    found.faults = len(hostile.BUILDERS) + 4
    service = _command(root, "run", "--processor-url", receiver.url, "--flush-interval", "0.2")
    _wait(lambda: _count(receiver.store, MARK) > 0, service)
    if seed % 2:
        service.kill()
        service.wait()
    root.build()
    for how, directory in root.held.items():
        holds.enter_context(held(directory, how))
    if seed % 2:
        # A service that restarts finds all of them at once.
        service = _command(root, "run", "--processor-url", receiver.url, "--flush-interval", "0.2")
        found.faults += 1
    began = time.monotonic()
    growing = threading.Event()
    grower = threading.Thread(target=_grow, args=(root.swap.parent, growing), daemon=True)
    grower.start()
    try:
        _watch(root, receiver.store, service, found, began)
        found.check(service.poll() is None, "G15", f"the service ended: {service.poll()}")
        found.worst("memory MiB", _peak(service.pid) / 2**20)
        found.check(_peak(service.pid) < MOST_BYTES, "G15", f"{_peak(service.pid):,} bytes")
    finally:
        growing.set()
        grower.join()
        service.terminate()
        try:
            service.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()
        honest.kill()
    words = root.log.read_text(errors="replace")
    found.check(service.returncode == 0, "G15", f"ended with {service.returncode}: {words[-500:]}")
    found.check("internal error" not in words, "G15", _line(words, "internal error"))
    receiver.stop()
    _check_arrivals(root, receiver.store, found)
    for command in _COMMANDS:
        if not found.failures:  # each that hangs takes its time
            _check_command(root, command, found)
    return found.verdict()


def _watch(
    root: HostileRoot,
    store: Store,
    service: subprocess.Popen[str],
    found: Findings,
    began: float,
) -> None:
    """Wait until all of the honest tenant has arrived; swap a directory on the way.

    And until the tenant who says that he is the honest one has, so that his claim is looked at, and
    until the service has looked at the swapped directory: it refuses it, or ships what is there.
    """
    swapped, looked, took = False, False, None
    while time.monotonic() - began < WAIT_SECONDS and service.poll() is None:
        there = _rows(store)
        if not swapped and "swapper" in {row["workload_uid"] for row in there}:
            root.swap_for_link()
            swapped = True
        elif swapped and not looked:
            looked = root.is_swap_refused() or _count(store, "swapper") > len(hostile.three())
        if took is None and _count(store, MARK) >= STEPS:
            took = time.monotonic() - began
        claimed = any("stolen" in str(row["performance"]) for row in there)
        if looked and claimed and took is not None:
            break
        time.sleep(0.05)
    found.worst("seconds to all of the honest tenant", took or time.monotonic() - began)
    found.check(swapped, "G15", "a tenant's first spool was not shipped in time")
    found.check(looked or not swapped, "G15", "a link in a directory's place was not looked at")


def _wait(holds: Callable[[], bool], service: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not holds() and service.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def _count(store: Store, workload: str) -> int:
    return sum(row["workload_uid"] == workload for row in _rows(store))


def _rows(store: Store) -> list[dict[str, object]]:
    return store.select("SELECT workload_uid, pod_uuid, performance FROM training_performance")


def _grow(directory: Path, end: threading.Event) -> None:
    """A log that gets longer all the time."""
    spool = directory / "20240102T030405-7-00000001"
    spool.mkdir()
    path = hostile.segment(spool, hostile.three())
    with open(f"{path}-wal", "wb") as log:
        log.write(b"\x37\x7f\x06\x82")
        while not end.wait(0.002) and log.tell() < _GROWS:
            log.write(os.urandom(32768))
            log.flush()


def _check_arrivals(root: HostileRoot, store: Store, found: Findings) -> None:
    ArrivedRecords(store).check(found, MARK, range(STEPS), deaths=1)
    for row in _rows(store):
        is_marked = f'"{MARK}"' in str(row["performance"])
        found.check(
            not is_marked or (row["pod_uuid"] == root.pod and row["workload_uid"] == MARK),
            "G15",
            f"what {MARK} logged arrived as {row['workload_uid']} of pod {row['pod_uuid']}",
        )
        claims = "stolen" in str(row["performance"]) and row["pod_uuid"] == root.pod
        found.check(not claims, "G15", "a pod's records were delivered as another pod's")
    _check_pods(root, found)
    found.check(len(queries.requests(store)) > 0, "G15", "nothing was sent at all")
    names = sorted(path.name for path in root.secret.parent.iterdir())
    found.check(names == ["secret"], "G15", f"a link was followed: {names}")
    found.check(root.secret.read_text() == "password\n", "G15", "a link was written through")
    segments = [path for path in root.victim.iterdir() if fmt.segment_number(path.name)]
    found.check(segments, "G15", "the honest tenant's files are gone")


def _check_pods(root: HostileRoot, found: Findings) -> None:
    """A spool belongs to the pod in whose directory it lies, whatever it claims."""
    ledger = Ledger(root.state)
    try:
        taken = {row["directory"]: row["identity"]["pod_uid"] for row in ledger.spools()}
    finally:
        ledger.close()
    for directory, pod in taken.items():
        whose = Path(directory).relative_to(root.path).parts[0]
        found.check(pod == whose, "G15", f"a spool of pod {whose} was taken for one of {pod}")


def _command(root: HostileRoot, *arguments: str) -> subprocess.Popen[str]:
    code = "from shipper.cli import main; main()"
    words = [str(root.path) if word == "ROOT" else word for word in arguments]
    settings = {
        "LENS_SHIP_SPOOL": str(root.path),
        "LENS_SHIP_STATE": str(root.state),
        "LENS_SHIP_HTTP_LISTEN": "off",
        "LENS_SHIP_POD_DIRECTORIES": "true",
        "LENS_SHIP_RETENTION_SECONDS": "86400",
        "LENS_SHIP_RESCAN_INTERVAL": "1",
    }
    with root.log.open("a") as log:
        serves = words[0] == "run"
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if serves else subprocess.PIPE,
            stderr=log if serves else subprocess.PIPE,
            text=True,
            errors="replace",
        )


def _check_command(root: HostileRoot, words: tuple[str, ...], found: Findings) -> None:
    """A command of an operator ends on the same files, with the right output."""
    began = time.monotonic()
    process = _command(root, *words)
    try:
        said, complained = process.communicate(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        found.check(False, "G15", f"{words}: no end")
        return
    found.worst(f"seconds of {words[0]}", time.monotonic() - began)
    broken = "Traceback" in complained or "this check failed" in said
    found.check(
        process.returncode in (0, 1) and not broken,
        "G15",
        f"{words}: {process.returncode}: {complained[-400:]}{_line(said, 'this check failed')}",
    )
    found.check("password" not in said, "G15", f"{words}: shows what a link leads to")


def _peak(pid: int) -> int:
    """The most memory that a process has taken, bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(match[1]) * 1024 if match else 0


def _line(text: str, sign: str) -> str:
    place = text.find(sign)
    return text[max(0, place - 200) : place + 1200] if place >= 0 else ""


ATTACK = Attack(
    meaning="spools made to harm the service, of every kind at once, beside an honest one",
    promises=("G15",),
    trial=trial,
    trials=Trials(short=1, usual=2, long=10),
    catches=("links-are-followed", "reads-without-limit", "pod-of-a-spool-not-checked"),
)

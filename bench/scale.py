"""What many spools cost one service: memory with a backlog, processor time when idle, pick-up time.

For each number of spools: that many spools of ended processes are written by the real writer, the
service is a real `lens-ship run` in a process of its own, the receiver (`thin_receiver.py`) only
reads and answers. Memory is the most that the service ever held: with a receiver that is not there,
and while the backlog leaves. Then as many living spools, all delivered: what the service uses of a
core while nothing happens, and how long the first record of one more spool takes to arrive.

    python bench/scale.py [--spools 10,100,1000] [--records 10000] [--seconds 30] [--drain 20]
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aims import aim

HERE = Path(__file__).resolve().parent
_COMMAND = (sys.executable, "-c", "from shipper.cli import main; main()")
_NOWHERE = "http://127.0.0.1:9/v1"  # nobody listens on the discard port
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """One number of spools."""

    spools: int
    pending: int  # records
    waiting: float  # MiB resident at most, receiver not there
    leaving: float  # MiB resident at most, while the backlog leaves
    idle: float  # share of a core, in percent
    idle_memory: float  # MiB resident at the end of it
    files: int  # file descriptors open while idle
    pickup: float  # seconds until the first record of a new spool is acknowledged


def writer_of(root: Path, number: int, salt: str, workload: str = "") -> object:
    """A writer of the spool with this number, one workload each."""
    from spooler.spool import codec
    from spooler.spool import format as fmt
    from spooler.spool.identity import Identity
    from spooler.spool.writer import Limits, Writer

    spool = fmt.spool_id("20260101T000000", os.getpid(), f"{number:04x}{salt}")
    who = Identity(
        spool=spool,
        created=time.time(),
        pid=os.getpid(),
        host="b",
        workload_uid=workload or f"w{number}{salt}",
    )
    return Writer(
        root=root,
        below=(f"node_{number % 8}", f"rank_{number}"),
        spool=spool,
        identity=codec.pack(who.to_map()),
        limits=Limits(max_bytes=1 << 40),
    )


def write(root: Path, number: int, records: int, *, salt: str = "aaaa", end: bool = True) -> object:
    """One spool of steps with four metrics each."""
    from spooler.records import step
    from spooler.spool import codec

    writer = writer_of(root, number, salt)
    data = {f"train/metric_{index}": 0.5 + index for index in range(4)}
    for index in range(records):
        body = step.encode(run="r", step=index, time=1.7e9 + index, closed=True, data=data)
        writer.append(step.NAME, codec.pack(body))  # type: ignore[attr-defined]
        if index % 4000 == 3999:
            writer.maintain()  # type: ignore[attr-defined]
    if end:
        writer.close()  # type: ignore[attr-defined]
    return writer


def write_ended(root: Path, first: int, last: int, records: int) -> None:
    """The spools `first` to `last`, one after the other."""
    for number in range(first, last):
        write(root, number, records)


def backlog(root: Path, spools: int, records: int) -> None:
    """All of them, on both cores."""
    from spooler.config import Limits
    from spooler.spool.layout import make_directories

    make_directories(root, (), Limits())
    bounds = [*range(0, spools, max(1, spools // 8)), spools]
    with ProcessPoolExecutor(2) as pool:
        for done in [
            pool.submit(write_ended, root, first, last, records)
            for first, last in itertools.pairwise(bounds)
        ]:
            done.result()


def hold_living(root: Path, spools: int) -> None:
    """Be the living writer of so many spools until standard input ends; run as a process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = [write(root, number, 20, salt="bbbb", end=False) for number in range(spools)]
    print(len(held), flush=True)
    sys.stdin.read()
    os._exit(0)


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int, line: str = "VmHWM") -> float | None:
    """MiB of a process as its status tells them; None of one that has ended."""
    with suppress(OSError):
        for text in Path(f"/proc/{pid}/status").read_text().splitlines():
            if text.startswith(f"{line}:"):
                return int(text.split()[1]) / 1024
    return None


class Service:
    """A real `lens-ship run`, looked at through /proc."""

    def __init__(
        self, root: Path, state: Path, url: str = "", *, config: Path | None = None
    ) -> None:
        sinks = ("--config", str(config)) if config else ("--processor-url", url)
        self._process = subprocess.Popen(
            (
                *_COMMAND,
                *("run", "--spool", str(root), "--state", str(state), *sinks),
                *("--log-level", "error", "--save-local", "true"),
            ),
            stderr=subprocess.DEVNULL,
        )
        self._proc = Path(f"/proc/{self._process.pid}")

    def memory(self, line: str = "VmHWM") -> float:
        """MiB resident: `VmHWM` the most there ever was, `VmRSS` now."""
        found = memory_of(self._process.pid, line)
        if found is None:
            raise SystemExit("the service has ended")
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return cpu_of(self._process.pid)

    def files(self) -> int:
        """Open file descriptors."""
        return len(list((self._proc / "fd").iterdir()))

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def receiver() -> Iterator[str]:
    """The URL of a receiver that takes everything."""
    process = subprocess.Popen(
        (sys.executable, str(HERE / "thin_receiver.py")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    process.terminate()
    process.wait()


def settled(state: Path) -> tuple[int, int]:
    """How many positions the ledger holds, and the records delivered in all."""
    from shipper.ledger.ledger import Ledger

    if not (state / "ledger.sqlite").exists():
        return 0, 0
    ledger = Ledger(state, exclusive=False)
    try:
        rows = ledger.positions()
    finally:
        ledger.close()
    return len(rows), sum(row["delivered"] for row in rows)


def with_backlog(root: Path, work: Path, drain: float) -> tuple[float, float]:
    """Memory with nobody to send to, and while the backlog leaves, for `drain` seconds."""
    service = Service(root, work / "state-waiting", _NOWHERE)
    time.sleep(drain)
    waiting = service.memory()
    service.end()
    with receiver() as url:
        service = Service(root, work / "state-leaving", url)
        time.sleep(drain)
        leaving = service.memory()
        service.end()
    return waiting, leaving


def idle(work: Path, spools: int, seconds: float) -> tuple[float, float, int, float]:
    """Share of a core, memory and files of a service with nothing to do; then the pick-up time."""
    root, state = work / "living", work / "state-living"
    holder = subprocess.Popen(
        (sys.executable, __file__, "--hold", str(spools), "--root", str(root)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with receiver() as url:
        service = Service(root, state, url)
        while settled(state)[1] < spools * 20:
            time.sleep(0.5)
        time.sleep(12)  # two rounds of everything periodic
        before, began = service.cpu(), time.monotonic()
        time.sleep(seconds)
        share = 100 * (service.cpu() - before) / (time.monotonic() - began)
        memory, files = service.memory("VmRSS"), service.files()
        delivered = settled(state)[1]
        began = time.monotonic()
        write(root, spools, 20, salt="cccc", end=False)
        while settled(state)[1] == delivered:
            time.sleep(_LOOK_SECONDS)
        pickup = time.monotonic() - began
        service.end()
    holder.communicate("")
    return share, memory, files, pickup


def measure(spools: int, given: argparse.Namespace) -> Scaled:
    """Everything for one number of spools."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-scale-", dir=given.work) as folder:
        work = Path(folder)
        backlog(work / "ended", spools, given.records)
        waiting, leaving = with_backlog(work / "ended", work, given.drain)
        share, memory, files, pickup = idle(work, spools, given.seconds)
    return Scaled(
        spools=spools,
        pending=spools * given.records,
        waiting=waiting,
        leaving=leaving,
        idle=share,
        idle_memory=memory,
        files=files,
        pickup=pickup,
    )


def main() -> None:
    """Print one line for each number of spools."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--spools", default="10,100,1000", help="numbers of spools, with commas")
    parser.add_argument("--records", type=int, default=10_000, help="pending records of each")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it is idle")
    parser.add_argument("--drain", type=float, default=20.0, help="how long the backlog leaves")
    parser.add_argument("--work", default=None, help="folder for it all; 0.3 GiB a million records")
    parser.add_argument("--hold", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold:
        hold_living(given.root, given.hold)
    print("spools  pending      waiting  leaving  idle CPU  idle     files  pick-up", flush=True)
    for text in given.spools.split(","):
        one = measure(int(text), given)
        print(
            f"{one.spools:<7} {one.pending:<12,} {one.waiting:.0f} MiB  {one.leaving:.0f} MiB"
            f"  {one.idle:.2f} %    {one.idle_memory:.0f} MiB  {one.files:<6} {one.pickup:.2f} s",
            flush=True,
        )
        print(aim(f"idle, {one.spools} living spools", one.idle, 0.2, " % of a core"))
        print(aim("the first record of a new spool", one.pickup, 1, " s"), flush=True)


if __name__ == "__main__":
    main()

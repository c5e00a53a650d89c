"""The soak: ranks log for a long time while everything around them fails again and again.

`python -m tests.crash.soak --minutes 30` starts a receiver, the service and eight training
processes of 50 steps a second. The receiver is killed and comes back; training processes are
killed, and new ones follow; in the first quarter the service is killed, too. The root has a limit
that an outage of the receiver reaches. In the end: what was promised has arrived, in order; the
account balances; and memory, descriptors and processor time of the service and of the one rank that
was never killed are as they were (`SLOPES`).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from spooler.recorder import recorder
from spooler.records import step as step_record
from tests.crash.lab.children import Child, Tell
from tests.crash.lab.conservation import ArrivedRecords
from tests.crash.lab.laboratory import workplace
from tests.crash.lab.verdict import Findings
from tests.kit.processor.store import Store
from tests.kit.spools import environment

RANKS, RATE = 8, 50
SAMPLE_SECONDS = 1.0
# Below this the start and the faults weigh more than what grows.
FLAT_AFTER_SAMPLES = 300
ROOT_BYTES = 24 * 2**20
# From the first third of a life to its last: a factor, and what comes on top.
SLOPES = {"memory KiB": (1.1, 6144.0), "descriptors": (1.0, 4.0), "CPU ms/s": (1.5, 20.0)}
_PATIENCE_SECONDS = 180.0


@dataclass(kw_only=True)
class Track:
    """What one process took, sample by sample."""

    pid: int
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    _cpu: float | None = None
    _at: float = 0.0

    def sample(self) -> None:
        """Take one, if it is there."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            files = len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return
        memory = re.search(r"VmRSS:\s+(\d+)", status)
        cpu = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
        now = time.monotonic()
        if self._cpu is not None and memory:
            rate = (cpu - self._cpu) / (now - self._at)
            self.samples.append((float(memory[1]), float(files), rate))
        self._cpu, self._at = cpu, now

    def middles(self) -> dict[str, tuple[float, float]]:
        """Of the first and of the last third; what the start takes is left out."""
        settled = self.samples[len(self.samples) // 10 :]
        third = max(1, len(settled) // 3)
        found = {}
        for place, name in enumerate(SLOPES):
            # The clock of processor time ticks too coarsely for a median of single seconds.
            middle = statistics.fmean if name.startswith("CPU") else statistics.median
            ends = settled[:third], settled[-third:]
            first, last = (middle([one[place] for one in end]) for end in ends)
            found[name] = (first, last)
        return found


def train(tell: Tell) -> None:
    """Log `RATE` steps a second until killed; each that was taken is told."""
    begun, number = time.monotonic(), 0
    while True:
        data = {f"metric/{n}": number + n / 8 for n in range(7)} | {"loss": 1.0 / (number + 1)}
        body = step_record.encode(run="r", step=number, time=time.time(), closed=True, data=data)
        if recorder().record("step", body):
            tell(number)
        number += 1
        time.sleep(max(0.0, begun + number / RATE - time.monotonic()))


class Soak:
    """One run of it below a directory."""

    def __init__(self, work: Path, rng: random.Random) -> None:
        self.rng = rng
        self.root, self.state, self.store = work / "spool", work / "state", work / "t.sqlite"
        # While the receiver is away nobody else may take its port: an address that only it uses.
        host = f"127.{rng.randrange(1, 255)}.{os.getpid() // 256 % 256}.{os.getpid() % 256}"
        with socket.create_server((host, 0)) as free:
            self.address = f"{host}:{free.getsockname()[1]}"
        os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(self.root)
        self.told: dict[str, list[int]] = {}
        self.faults = dict.fromkeys(("receiver", "service", "training process"), 0)
        self.lives: dict[int, tuple[str, Child]] = {}
        self.count = 0
        self.receiver = self._receive()
        for rank in range(RANKS):
            self._begin(rank)
        self.service = self._serve()
        self.track = Track(pid=self.service.pid)
        self.steady = Track(pid=self.lives[0][1].pid)

    def run(self, seconds: float) -> None:
        """Faults all along."""
        begun = time.monotonic()
        due = {name: self._next(name) for name in self.faults}
        back = 0.0  # when the receiver returns
        while (passed := time.monotonic() - begun) < seconds:
            for _, life in self.lives.values():
                life.watch(0.001)
            time.sleep(SAMPLE_SECONDS / 2)
            self.track.sample()
            self.steady.sample()
            now = time.monotonic()
            if self.receiver is None and now >= back:
                self.receiver = self._receive()
            for name in [name for name, at in due.items() if now >= at]:
                due[name] = self._next(name)
                if name == "receiver" and self.receiver is not None:
                    _kill(self.receiver)
                    self.receiver, back = None, now + self.rng.uniform(1, 15)
                elif name == "training process":
                    self._replace(self.rng.randrange(1, RANKS))
                elif name == "service" and passed < seconds / 4:
                    _kill(self.service)
                    self.service = self._serve()
                    self.track = Track(pid=self.service.pid)
                else:
                    continue
                self.faults[name] += 1

    def end(self, found: Findings) -> None:
        """Everything stops; what was promised has to be there."""
        for rank in list(self.lives):
            self._end(rank)
        if self.receiver is None:
            self.receiver = self._receive()
        self.service.send_signal(signal.SIGTERM)
        found.check(
            self.service.wait(_PATIENCE_SECONDS) == 0,
            "G4",
            f"the service: {self.service.returncode}",
        )
        last = self._lens_ship("run", "--once", "--timeout", "120")
        found.check(last.returncode == 0, "G4", f"never at rest: {last.stderr[-600:]}")
        audit = self._lens_ship("audit", "--json")
        found.check(audit.returncode == 0, "G17", f"the account: {audit.stdout[-600:]}")
        accounts = json.loads(audit.stdout)
        found.check(accounts, "G17", "there is no account")
        _kill(self.receiver)
        arrivals = ArrivedRecords(Store(path=self.store))
        deaths = self.faults["service"] + self.faults["receiver"]
        for workload, steps in self.told.items():
            got = set(arrivals.steps(workload))
            lost = set(steps) - got
            found.worst("lost records", len(lost))
            found.check(not lost, "G4", f"{workload}: never arrived: {sorted(lost)[:9]}")
            # The one step under way at a kill is recorded, and was not promised.
            arrivals.check(found, workload, sorted(got), deaths=deaths)
            found.check(len(got - set(steps)) <= 1, "G1", f"{workload}: {sorted(got)[-3:]}")

    def stop(self) -> None:
        """Whatever still runs ends."""
        for rank in list(self.lives):
            self._end(rank)
        _kill(self.service)
        _kill(self.receiver)

    def _next(self, name: str) -> float:
        longest = {"receiver": 40.0, "service": 30.0, "training process": 20.0}[name]
        return time.monotonic() + self.rng.uniform(0.2, 1) * longest

    def _begin(self, rank: int) -> None:
        name = f"rank-{rank}-life-{self.count}"
        self.count += 1
        os.environ.update(WORKLOAD_UID=name, LOCAL_RANK=str(rank))
        self.lives[rank] = (name, Child(train))

    def _end(self, rank: int) -> None:
        name, life = self.lives.pop(rank)
        life.kill()
        self.told[name] = life.told

    def _replace(self, rank: int) -> None:
        self._end(rank)
        self._begin(rank)

    def _receive(self) -> subprocess.Popen[bytes] | None:
        host, _, port = self.address.partition(":")
        return _start("-m", "tests.kit.processor", host, port, str(self.store))

    def _serve(self) -> subprocess.Popen[bytes]:
        return _start(*_LENS_SHIP, "run", *self._settings())

    def _settings(self) -> list[str]:
        return [
            *("--spool", str(self.root), "--state", str(self.state)),
            *("--processor-url", f"http://{self.address}/v1", "--root-bytes", str(ROOT_BYTES)),
            *("--retention-seconds", "0", "--flush-interval", "1", "--http-listen", "off"),
        ]

    def _lens_ship(self, *words: str) -> subprocess.CompletedProcess[str]:
        places = self._settings() if words[0] == "run" else self._settings()[:4]
        return subprocess.run(
            [sys.executable, *_LENS_SHIP, *words, *places],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )


_LENS_SHIP = ("-c", "from shipper.cli import main; main()")


def _start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def flat(track: Track, who: str, found: Findings) -> None:
    """Compare the two ends of a life."""
    for name, (first, last) in track.middles().items():
        factor, more = SLOPES[name]
        found.figures[f"{who}: {name}, first third"] = first
        found.figures[f"{who}: {name}, last third"] = last
        found.check(
            last <= first * factor + more, "G15", f"{who}: {name} {first:.0f} to {last:.0f}"
        )


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--seed", type=int, default=None, help="Else random.")
def main(minutes: float, seed: int | None) -> None:
    """See the module; exit 1 if something did not hold."""
    chosen = int.from_bytes(os.urandom(3), "big") if seed is None else seed
    print(f"seed {chosen}, {minutes:g} minutes")
    found = Findings()
    with workplace() as work:
        soak = Soak(work, random.Random(chosen))
        try:
            soak.run(minutes * 60)
            soak.end(found)
        finally:
            soak.stop()
        for who, track in (("service", soak.track), ("rank 0", soak.steady)):
            if len(track.samples) >= FLAT_AFTER_SAMPLES:
                flat(track, who, found)
    steps = sum(map(len, soak.told.values()))
    print(f"{steps:,} steps in {len(soak.told)} lives; killed: {soak.faults}")
    for name, value in found.figures.items():
        print(f"  {name}: {value:,.1f}")
    for failure in found.failures:
        print(f"FAILED {failure}")
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()

"""The wall clocks of a training process and of the service jump by ten days, during SIGKILLs.

First the jumps come at random. Then the receiver is away: the clock of the process jumps during its
run, and the clock of the service goes back by twenty days between two retries. Last comes
retention. A retention of a second must not be extended by a clock that goes back. A retention of a
day must not be ended by a clock that jumps ahead.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shipper.discovery.layout import find_spools
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import ReceiverProcess
from tests.crash.lab.conservation import ArrivedRecords
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.fake_time import LIBRARIES, MISSING, FakeTime
from tests.kit.processor import Receiver
from tests.kit.spools import environment

JUMPS = 6
DAYS = 10
FLUSH_SECONDS = 0.1
# What it takes without a jump is a few of them; who waits for a clock waits for days.
MOST_INTERVALS = 300.0
SHORT, LONG = 1.0, 86400.0  # retention, seconds

_TRAIN = """
import itertools, select, time
from spooler.recorder import recorder
from spooler.records import step
for number in itertools.count():
    data = {"loss": number / 3}
    body = step.encode(run="r", step=number, time=time.time(), closed=True, data=data)
    if recorder().record("step", body):
        print(number, flush=True)
    select.select([], [], [], 0.005)  # libfaketime fails a sleep in which the clock jumps
"""
_SERVE = """
import sys
import shipper.delivery.backoff, shipper.retention.cleaner
from shipper.app import App
shipper.delivery.backoff.FIRST_SECONDS, shipper.retention.cleaner.CLEAN_SECONDS = 0.05, 0.2
tidy, looks = App.clean, open(sys.argv.pop(), "a", buffering=1)
def and_tell(service):
    tidy(service)
    looks.write("\\n")
App.clean = and_tell
from shipper.cli import main
main()
"""


class ClockNode:
    """A receiver, a service, a training process, and the clocks of the latter two."""

    def __init__(self, work: Path, retain: float) -> None:
        self.root, self.looks = work / "spool", work / "looks"
        self.training, self.shipping = FakeTime(work, "training"), FakeTime(work, "shipping")
        self.receiver = ReceiverProcess(work / "telemetry.sqlite")
        self.store, self.url = self.receiver.store, self.receiver.url
        self.told: dict[str, list[int]] = {}
        self._command = [
            *("run", "--spool", str(self.root), "--state", str(work / "state")),
            *("--processor-url", self.url, "--flush-interval", str(FLUSH_SECONDS)),
            *("--retention-seconds", str(retain), "--http-listen", "off"),
            *("--batch-max-steps", "20"),
        ]
        self.service = self._serve()
        self.trainer = self._train()

    def replace_service(self) -> None:
        """SIGKILL, and a new one."""
        self.service.kill()
        self.service.wait()
        self.service = self._serve()

    def replace_trainer(self) -> None:
        """SIGKILL, and a new one."""
        self.end_trainer()
        self.trainer = self._train()

    def end_trainer(self) -> None:
        """SIGKILL."""
        self.trainer.kill()
        said = self.trainer.communicate()[0]
        self.told[f"child-{len(self.told)}"] = [int(line) for line in said.split()]

    def come_back(self) -> None:
        """The receiver, which was stopped."""
        port = int(self.url.split(":")[2].split("/")[0])
        self.receiver = ReceiverProcess(self.store.path, partial(Receiver, port=port))

    def last(self) -> int:
        """The last step of the present process that has arrived."""
        return max(ArrivedRecords(self.store).steps(f"child-{len(self.told)}"), default=-1)

    def look(self, found: Findings) -> None:
        """Let the service look twice at what may be deleted."""
        before = self._looked()
        found.check(_wait(lambda: self._looked() >= before + 2), "G14", "nothing is tidied up")

    def _looked(self) -> int:
        return self.looks.stat().st_size if self.looks.exists() else 0

    def _serve(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _SERVE, *self._command, str(self.looks)]
        return subprocess.Popen(command, env=environment(**self.shipping.environ), text=True)

    def _train(self) -> subprocess.Popen[str]:
        whose = {
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(self.root),
            "PRIMUS_LENS_SPOOL_SEGMENT_RECORDS": "30",
            "WORKLOAD_UID": f"child-{len(self.told)}",
        }
        return subprocess.Popen(
            [sys.executable, "-c", _TRAIN],
            env=environment(**whose, **self.training.environ),
            stdout=subprocess.PIPE,
            text=True,
        )


def trial(seed: int, work: Path) -> Verdict:
    """See the module."""
    rng, found = random.Random(seed), Findings()
    retain = (SHORT, LONG)[seed % 2]
    node = ClockNode(work, retain)
    try:
        found.check(_wait(lambda: node.last() >= 0), "G14", "nothing arrived")
        _jump_about(node, rng, retain, found)
        _hold_up_retry(node, rng, retain, found)
        node.end_trainer()
        _check_arrivals(node, found)
        _check_retention(node, retain, found)
    finally:
        node.service.kill()
        node.trainer.kill()
        node.service.wait()
        node.trainer.wait()
        node.receiver.kill()
    return found.verdict()


def _jump_about(node: ClockNode, rng: random.Random, retain: float, found: Findings) -> None:
    """Jumps of both clocks and kills of both processes, in any order."""
    # A service that starts after a jump ahead takes what is delivered for older: see the README.
    ahead = DAYS if retain == SHORT else 0
    events: list[Callable[[], None]] = [
        *(partial(node.training.jump, rng.choice((-DAYS, 0, DAYS))) for _ in range(JUMPS // 2)),
        *(partial(node.shipping.jump, rng.choice((-DAYS, 0, ahead))) for _ in range(JUMPS // 2)),
        node.replace_service,
        node.replace_trainer,
    ]
    rng.shuffle(events)
    for event in events:
        time.sleep(rng.uniform(0, 0.15))
        event()
        found.faults += 1


def _hold_up_retry(node: ClockNode, rng: random.Random, retain: float, found: Findings) -> None:
    """Both clocks go back while the receiver is away; when it is back, everything arrives."""
    found.check(_wait(lambda: node.last() >= 0), "G14", "nothing arrived after the jumps")
    node.training.jump(DAYS)
    node.shipping.jump(DAYS if retain == SHORT else 0)
    node.receiver.stop()
    time.sleep(rng.uniform(0.2, 0.4))
    node.training.jump(-DAYS)
    node.shipping.jump(-DAYS)
    time.sleep(rng.uniform(0.1, 0.3))
    before, began = node.last(), time.monotonic()
    node.come_back()
    found.faults += 3
    arrives = _wait(lambda: node.last() > before)
    intervals = (time.monotonic() - began) / FLUSH_SECONDS
    found.worst("flush intervals until it went on", intervals)
    found.check(arrives, "G14", f"nothing more is sent {intervals:.0f} intervals after the jump")


def _check_arrivals(node: ClockNode, found: Findings) -> None:
    """All told records have arrived, in order."""
    # As long as records arrive, the machine is only slow.
    while (missing := _missing(node)) and _wait(partial(_is_less, node, missing)):
        pass
    arrivals = ArrivedRecords(node.store)
    for workload, told in node.told.items():
        got = sorted(arrivals.steps(workload))
        lost = set(told) - set(got)
        found.worst("lost records", len(lost))
        found.check(not lost, "G14", f"{workload}: never arrived: {sorted(lost)[:9]}")
        # The one step under way at a kill is recorded, and was not promised.
        found.check(len(got) <= len(told) + 1, "G14", f"{workload}: {len(got)} of {len(told)}")
        arrivals.check(found, workload, got, deaths=2)


def _missing(node: ClockNode) -> int:
    """How many of the records that were told have not arrived."""
    arrivals = ArrivedRecords(node.store)
    return sum(len(set(told) - set(arrivals.steps(name))) for name, told in node.told.items())


def _is_less(node: ClockNode, missing: int) -> bool:
    return _missing(node) < missing


def _check_retention(node: ClockNode, retain: float, found: Findings) -> None:
    """What is delivered goes when it is old enough, and not before."""
    if retain == SHORT:
        gone = _wait(lambda: not list(find_spools(node.root)))
        found.check(gone, "G14", f"what is {SHORT:.0f} s old is kept: {_kept(node)}")
        return
    node.look(found)
    before = _kept(node)
    node.shipping.jump(DAYS)
    node.look(found)
    found.check(before and _kept(node) == before, "G14", f"gone before a day: {_kept(node)}")


def _kept(node: ClockNode) -> list[str]:
    return sorted(f"{s.name}/{path.name}" for s in find_spools(node.root) for path in s.iterdir())


def _wait(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + MOST_INTERVALS * FLUSH_SECONDS
    while not (there := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return there


ATTACK = Attack(
    meaning="wall clocks of training processes and of the service jump by 10 days, during SIGKILLs",
    promises=("G3", "G4", "G14"),
    trial=trial,
    trials=Trials(short=1, usual=4, long=30),
    catches=("retry-by-wall-clock", "retention-by-wall-clock", "order-by-wall-clock"),
    missing=lambda: "" if LIBRARIES else MISSING,
)

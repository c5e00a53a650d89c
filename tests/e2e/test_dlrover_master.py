"""Training, service and DLRover's own local master are killed: no line of the log is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipper.demo.processes import DemoFiles, DemoProcess, ProcessGroup, training_environment
from shipper.demo.run import script
from shipper.discovery.layout import find_spools
from spooler.spool import codec
from spooler.spool.reader import Reader
from tests.kit.collected import STACKS, Collected, log_lines, stacks, unclean_exits
from tests.kit.master import Master, needs_master, running
from tests.kit.processor import Receiver
from tests.kit.spools import PATIENCE_SECONDS

STACK_SIGNAL = signal.SIGUSR2
# The script of the demo: to it, and to nothing else, its time is over when the test says so.
_TRAIN = f"""
import os, runpy, sys, time
done, real = sys.argv.pop(1), time.monotonic
def monotonic():
    is_script = sys._getframe(1).f_globals["__name__"] == "__main__"
    return real() + 7200 * (is_script and os.path.exists(done))
time.monotonic = monotonic
runpy.run_path({str(script())!r}, run_name="__main__")
"""


@dataclass
class Job:
    """A training that logs into a file, and the service beside it."""

    group: ProcessGroup
    master: Master
    receiver: Receiver

    @property
    def done(self) -> Path:
        """The file at which a training ends."""
        return self.group.files.training / "done"

    @property
    def log(self) -> Path:
        return self.group.files.training / "training.log"

    def train(self, name: str) -> DemoProcess:
        """A training that ends when there is the file `done`."""
        environ = {
            **training_environment(self.group.files),
            "DLROVER_MASTER_ADDR": self.master.address,
            "DLROVER_MASTER_SERVICE_TYPE": self.master.service,
            "TRAINING_LOG_FILE": str(self.log),
            "PRIMUS_LENS_COLLECTORS": "log,stack",
            "PRIMUS_LENS_LOG_SECONDS": "1",
            "PRIMUS_LENS_STACK_SECONDS": "0",
            "PRIMUS_LENS_STACK_SIGNAL": STACK_SIGNAL.name,
        }
        checkpoint = self.group.files.training / "spiral.npz"
        arguments = ["--seconds", "3600", "--log", str(self.log), "--checkpoint"]
        return self.group.start(
            name, ["-c", _TRAIN, str(self.done), *arguments, str(checkpoint)], environ
        )

    def serve(self, *more: str) -> DemoProcess:
        files = self.group.files
        places = ("--spool", str(files.spool), "--state", str(files.state))
        settings = ("--flush-interval", "1", "--http-listen", "off")
        url = ("--processor-url", self.receiver.url)
        return self.group.lens_ship("service", "run", *places, *settings, *url, *more)

    def lines(self) -> list[str]:
        """Every line of the log and of what was rotated away (`.1` is the youngest), in order."""
        older = sorted(
            self.log.parent.glob("training.log.*"), key=lambda path: -int(path.suffix[1:])
        )
        return [line for path in (*older, self.log) for line in path.read_text().splitlines()]

    def recorded(self) -> list[list[dict[str, str]]]:
        """The reports of every process."""
        return [
            [
                codec.unpack(stored.body)
                for stored in Reader(path).read(0, 1_000_000).records
                if stored.kind == "report"
            ]
            for path in sorted(find_spools(self.group.files.spool), key=lambda path: path.name)
        ]

    def audited(self) -> dict[str, int]:
        """What `lens-ship audit` says of the way to the master."""
        files = self.group.files
        places = ("--spool", str(files.spool), "--state", str(files.state))
        assert self.group.lens_ship("audit", "audit", "--json", *places).wait(PATIENCE_SECONDS) == 0
        accounts = json.loads((files.logs / "audit.log").read_text())["accounts"]
        return {account["spool"]: account["pending"] for account in accounts}


def until(fact: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def has_stacks(recorded: list[list[dict[str, str]]]) -> bool:
    return any(report["data_type"] == STACKS for process in recorded for report in process)


def play(job: Job) -> None:
    """Kill the first training, then master and service while the second one trains."""
    service = job.serve()
    first = job.train("training 1")
    until(lambda: job.master.stored(), "no report of the first training arrives")
    assert first.kill() == -signal.SIGKILL
    second = job.train("training 2")
    until(lambda: catches(second.pid, STACK_SIGNAL), "no handler for the stack signal")
    os.kill(second.pid, STACK_SIGNAL)
    until(lambda: has_stacks(job.recorded()), "no stacks are recorded")
    job.master.kill()
    assert service.kill() == -signal.SIGKILL
    job.master.start()
    service = job.serve()
    until(lambda: job.master.stored(), "no report arrives at the second master")
    job.done.touch()
    assert second.wait(PATIENCE_SECONDS) == 0
    service.stop()
    assert job.serve("--once", "--timeout", "60").wait(PATIENCE_SECONDS) == 0


def found(job: Job) -> Collected:
    return Collected(
        lines=job.lines(), stacks_asked=1, recorded=job.recorded(), stored=job.master.stored()
    )


@needs_master
@pytest.mark.promise("G18")
@pytest.mark.promise("G20")
@pytest.mark.parametrize("service", ["grpc", "http"])
def test_a_master_that_was_killed_has_every_line_again(tmp_path: Path, service: str) -> None:
    files = DemoFiles(tmp_path / "job", tmp_path)
    for folder in (files.spool, files.training, files.logs):
        folder.mkdir(parents=True)
    with (
        running(tmp_path / "master", service) as master,
        Receiver(path=tmp_path / "received.sqlite") as receiver,
        ProcessGroup(files) as group,
    ):
        job = Job(group, master, receiver)
        play(job)
        assert set(job.audited().values()) == {0}
        for counts in (log_lines(found(job)), stacks(found(job))):
            assert counts.written == counts.recorded == counts.delivered > 0
            assert counts.lost == counts.changed == counts.disordered == 0
        assert master.lives == 2
        assert master.stored(1), "the first master had kept reports, and forgot them"
        assert unclean_exits(master.stored(1) + master.stored(2)) == 1

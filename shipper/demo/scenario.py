"""What starts, what is killed and when, and what has to be true in between.

The seed gives the times between events. What is waited for is a fact (a port that answers, a step
that was printed), never an estimate of how long something takes.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shipper.demo.count import LogCall
from shipper.demo.processes import (
    DemoProcess,
    ProcessGroup,
    accepts_connections,
    free_port,
    training_environment,
)
from shipper.demo.terminal import Terminal
from shipper.errors import DemoFailed

_READY_SECONDS = 60.0
_DRAIN_SECONDS = 30
_POLL_SECONDS = 0.05


class Training:
    """One training process, and the line that it prints after each `wandb.log`."""

    def __init__(self, process: DemoProcess, output: Path) -> None:
        self.process = process
        self.calls: list[LogCall] = []
        self._output = output
        self._offset = 0

    def last_call(self) -> LogCall | None:
        """Read what is new. A line without an end was cut off by the kill and does not count."""
        with self._output.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in map(json.loads, whole.splitlines()):
            self.calls.append(LogCall(step=line["step"], data=line["data"]))
        return self.calls[-1] if self.calls else None

    @property
    def last_step(self) -> int:
        call = self.last_call()
        return call.step if call else 0


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """What the report needs."""

    first: Training
    second: Training
    restart: int  # the first step of the second training
    drained: bool


class Scenario:
    """One demo from the start of the receiver to the audit."""

    def __init__(
        self, group: ProcessGroup, terminal: Terminal, script: Path, seed: int, seconds: float
    ) -> None:
        self._group = group
        self._files = group.files
        self._terminal = terminal
        self._show = terminal.event
        self._script = script
        self._draw = random.Random(seed).uniform
        self._seconds = seconds  # of training, both processes together
        self._port = free_port()
        self._admin_port = free_port()
        self._required: dict[str, DemoProcess] = {}  # those that must run now, by name
        self._training: Training | None = None

    def play(self) -> ScenarioResult:
        """Play it to its end.

        Raises:
            DemoFailed: a process did not do its part.
        """
        self._start_receiver("started, counts")
        self._start_service("started, status page")
        first = self._train("training 1", self._seconds * 10)
        self._show("training 1", f"started, pid {first.process.pid}")
        until_killed = self._seconds * self._draw(0.2, 0.32)
        self._wait(until_killed)
        self._kill("training 1")
        self._show("training 1", f"killed (SIGKILL) after step {first.last_step:,}", "red")
        second = self._train("training 2", self._seconds - until_killed)
        restart = second.calls[0].step
        self._show("training 2", f"started, resumes from the checkpoint of step {restart:,}")
        self._wait(self._seconds * self._draw(0.06, 0.1))
        self._break_receiver_and_service()
        self._finish(second)
        drained = self._drain()
        self._audit()
        return ScenarioResult(first=first, second=second, restart=restart, drained=drained)

    def _break_receiver_and_service(self) -> None:
        outage = max(2.0, self._seconds * 0.2)
        self._kill("receiver")
        killed_at = self._terminal.seconds
        self._show("receiver", "killed (SIGKILL), the training continues", "red")
        self._wait(outage * self._draw(0.2, 0.4))
        self._kill("service")
        self._show("service", "killed (SIGKILL), the training continues", "red")
        self._wait(outage * self._draw(0.2, 0.3))
        self._start_service("restarted,")
        self._wait(outage * 0.3)
        self._start_receiver(f"restarted after {self._terminal.seconds - killed_at:.1f} s,")

    def _start_receiver(self, event: str) -> None:
        listen = f"127.0.0.1:{self._port}"
        data = str(self._files.received)
        process = self._group.lens_ship(
            "receiver", "dev-server", "--listen", listen, "--data", data
        )
        self._required["receiver"] = process
        self._until(lambda: accepts_connections(self._port), "the receiver does not answer")
        self._show("receiver", f"{event} http://{listen}", "green")

    def _start_service(self, event: str) -> None:
        self._required["service"] = self._group.lens_ship("service", *self._service_arguments())
        ready = accepts_connections
        self._until(lambda: ready(self._admin_port), "the service does not open its HTTP port")
        self._show("service", f"{event} http://127.0.0.1:{self._admin_port}", "green")

    def _service_arguments(self) -> list[str]:
        settings = {
            "--spool": self._files.spool,
            "--state": self._files.state,
            "--http-listen": f"127.0.0.1:{self._admin_port}",
            "--processor-url": f"http://127.0.0.1:{self._port}/v1",
            "--flush-interval": 1,
        }
        return ["run", *(str(part) for pair in settings.items() for part in pair)]

    def _train(self, name: str, seconds: float) -> Training:
        out = f"{name.replace(' ', '-')}.jsonl"
        arguments = [str(self._script), "--json", "--seconds", f"{seconds:.2f}"]
        arguments += ["--checkpoint", str(self._files.training / "spiral.npz")]
        process = self._group.start(name, arguments, training_environment(self._files), out=out)
        training = Training(process, self._files.logs / out)
        self._required[name] = process
        self._training = training
        self._until(lambda: training.last_call() is not None, f"{name} logs nothing")
        return training

    def _finish(self, training: Training) -> None:
        process = self._required.pop(training.process.name)
        self._until(lambda: process.exit_code is not None, "training 2 does not end")
        if process.exit_code != 0:
            raise DemoFailed(f"training 2 ended with exit code {process.exit_code}")
        self._training = None
        self._terminal.progress("waiting for the service to send the rest")
        self._show("training 2", f"finished after step {training.last_step:,}")

    def _drain(self) -> bool:
        """Stop the service, and let `lens-ship run --once` send the rest."""
        self._required.pop("service").stop()
        once = ("--once", "--timeout", str(_DRAIN_SECONDS))
        process = self._group.lens_ship("service", *self._service_arguments(), *once)
        if process.wait(_DRAIN_SECONDS + 15) != 0:
            self._show("service", "could not send everything, its log says why", "red")
            return False
        self._show("service", "stopped, `lens-ship run --once` has sent the rest", "green")
        return True

    def _audit(self) -> None:
        places = ("--spool", str(self._files.spool), "--state", str(self._files.state))
        if self._group.lens_ship("audit", "audit", *places).wait(_READY_SECONDS) != 0:
            raise DemoFailed("`lens-ship audit` finds records that are not accounted for")
        self._show("audit", "`lens-ship audit` accounts for every record", "green")

    def _kill(self, name: str) -> None:
        code = self._required.pop(name).kill()
        if code != -9:
            raise DemoFailed(f"{name} ended by itself with exit code {code}")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= until, "the clock does not advance")

    def _until(self, fact: Callable[[], bool], otherwise: str) -> None:
        """Wait for a fact while every required process runs."""
        deadline = time.monotonic() + _READY_SECONDS + self._seconds
        while not fact():
            for name, process in self._required.items():
                if process.exit_code is not None:
                    raise DemoFailed(f"{name} ended with exit code {process.exit_code}")
            if time.monotonic() > deadline:
                raise DemoFailed(otherwise)
            self._show_progress()
            time.sleep(_POLL_SECONDS)

    def _show_progress(self) -> None:
        last = self._training.last_call() if self._training else None
        if self._training and last is not None and "loss" in last.data:
            name = self._training.process.name
            self._terminal.progress(f"{name}: step {last.step:,}, loss {last.data['loss']:.4f}")

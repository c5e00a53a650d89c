"""The sequence of events: what starts, what dies, when, and what has to be true in between.

Rules: moments are drawn from the seed before anything starts; what is waited for is a fact (a port
that answers, a step that was reported), never a guess of how long something takes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shipper.demo.gather import Report
from shipper.demo.master import Master
from shipper.demo.processes import (
    STACK_SIGNAL,
    Child,
    DemoFailed,
    Place,
    Stage,
    answers,
    free_port,
    training_environment,
)
from shipper.demo.screen import Screen

_READY_SECONDS = 60.0
_DRAIN_SECONDS = 30
_TICK = 0.05
_BAD, _GOOD = "red", "green"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Seconds between the events."""

    until_kill: float  # of training before it is killed
    until_cut: float  # of training again before the receiver goes
    until_shipper_dies: float  # from there on
    until_shipper_returns: float
    until_receiver_returns: float
    second_training: float

    @classmethod
    def drawn(cls, seed: int, seconds: float) -> Plan:
        """Draw the moments for so many seconds of training."""
        draw = random.Random(seed).uniform
        until_kill = seconds * draw(0.2, 0.32)
        away = max(2.0, seconds * 0.2)
        return cls(
            until_kill=until_kill,
            until_cut=seconds * draw(0.06, 0.1),
            until_shipper_dies=away * draw(0.2, 0.4),
            until_shipper_returns=away * draw(0.2, 0.3),
            until_receiver_returns=away * 0.3,
            second_training=seconds - until_kill,
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training process and what it reports."""

    child: Child
    report: Report


@dataclass(frozen=True, kw_only=True)
class Told:
    """What happened."""

    first: Training
    second: Training
    restart: int  # the step at which the second one went on
    drained: bool
    stacks_asked: int
    master_lives: int  # 0: none took part
    audited: Path  # what `lens-ship audit --json` said at the end


class Story:
    """One performance; without a master it plays on, and reports have nowhere to go."""

    def __init__(
        self, *, stage: Stage, screen: Screen, plan: Plan, script: Path, master: Master | None
    ) -> None:
        self._stage = stage
        self._screen = screen
        self._plan = plan
        self._script = script
        self._place: Place = stage.place
        self._master = master
        self._port = free_port()
        self._page = free_port()
        self._needed: list[Child] = []  # whoever must be alive at present
        self._training: Training | None = None

    def play(self) -> Told:
        """Play it to its end.

        Raises:
            DemoFailed: a process did not do its part.
        """
        self._start_receiver("up")
        self._start_master()
        self._start_shipper(f"up: http://127.0.0.1:{self._page} shows what it does")
        first = self._train("training 1", self._plan.second_training * 10)
        self._say("training 1", f"up: process {first.child.pid}; its first step is logged")
        self._rest(self._plan.until_kill)
        self._kill_training(first)
        second = self._train("training 2", self._plan.second_training)
        restart = second.report.calls[0].step
        self._say("training 2", f"up: goes on from the checkpoint of step {restart:,}")
        self._take_stacks(second)
        self._rest(self._plan.until_cut)
        self._cut()
        self._finish_training(second)
        return Told(
            first=first,
            second=second,
            restart=restart,
            drained=self._drain(),
            stacks_asked=1,
            master_lives=self._master.lives if self._master else 0,
            audited=self._audit(),
        )

    # --- the acts ---------------------------------------------------------------------------------

    def _start_receiver(self, word: str) -> None:
        listen = f"127.0.0.1:{self._port}"
        child = self._stage.lens_ship(
            "receiver", "dev-server", "--listen", listen, "--data", str(self._place.received)
        )
        self._needed.append(child)
        self._until(lambda: answers(self._port), "the receiver does not answer")
        self._say("receiver", f"{word} at http://{listen}/v1", _GOOD)

    def _start_shipper(self, word: str) -> None:
        child = self._stage.lens_ship("shipper", *self._run_arguments())
        self._needed.append(child)
        ledger = self._place.state / "ledger.sqlite"
        self._until(ledger.exists, "the shipper does not start")
        self._say("shipper", word, _GOOD)

    def _start_master(self) -> None:
        if self._master is None:
            return
        self._needed.append(self._master.start())
        self._until(self._master.answers, "the training master does not answer")
        self._say("master", f"up at {self._master.address}: DLRover's own", _GOOD)

    def _train(self, name: str, seconds: float) -> Training:
        out = f"{name.replace(' ', '-')}.jsonl"
        arguments = [str(self._script), "--json", "--seconds", f"{seconds:.2f}"]
        arguments += ["--checkpoint", str(self._place.training / "spiral.npz")]
        arguments += ["--log", str(self._place.training_log)]
        environ = {
            **training_environment(self._place),
            **(self._master.environ if self._master else {}),
        }
        child = self._stage.start(name, arguments, environ, out=out)
        training = Training(child=child, report=Report(self._place.logs / out))
        self._needed.append(child)
        self._training = training
        self._until(lambda: training.report.follow() is not None, f"{name} logs nothing")
        return training

    def _kill_training(self, training: Training) -> None:
        self._kill(training.child)
        last = training.report.follow()
        step = last.step if last else 0
        self._say("training 1", f"SIGKILL in mid-run, after step {step:,}", _BAD)

    def _take_stacks(self, training: Training) -> None:
        child = training.child
        self._until(lambda: child.catches(STACK_SIGNAL), f"nobody waits for {STACK_SIGNAL.name}")
        child.signal(STACK_SIGNAL)
        self._say(child.name, f"{STACK_SIGNAL.name}: the stacks of its threads are taken")

    def _cut(self) -> None:
        receiver = self._needed_one("receiver")
        self._kill(receiver)
        gone = self._screen.seconds
        self._say("receiver", "SIGKILL; the training goes on", _BAD)
        if self._master is not None:
            self._kill(self._needed_one("master"))
            self._say("master", "SIGKILL; what it kept was in its memory", _BAD)
            self._needed.append(self._master.start())
        self._rest(self._plan.until_shipper_dies)
        self._kill(self._needed_one("shipper"))
        self._say("shipper", "SIGKILL; the training goes on", _BAD)
        self._rest(self._plan.until_shipper_returns)
        self._start_shipper("up again, at the same address")
        self._rest(self._plan.until_receiver_returns)
        self._start_receiver(f"back after {self._screen.seconds - gone:.1f} s,")

    def _finish_training(self, training: Training) -> None:
        self._needed.remove(training.child)
        if self._master is not None:
            self._until(self._master.answers, "the training master does not come back")
            self._say("master", "back, with an empty memory", _GOOD)
        self._until(lambda: training.child.ended is not None, "training 2 does not end")
        if training.child.ended != 0:
            raise DemoFailed(f"training 2 ended with exit code {training.child.ended}")
        last = training.report.follow()
        step = last.step if last else 0
        self._training = None
        self._say("training 2", f"done, after step {step:,}")

    def _drain(self) -> bool:
        shipper = self._needed_one("shipper")
        self._needed.remove(shipper)
        shipper.stop()
        once = self._stage.lens_ship(
            "shipper", *self._run_arguments(), "--once", "--timeout", str(_DRAIN_SECONDS)
        )
        drained = once.wait(_DRAIN_SECONDS + 15) == 0
        self._say(
            "shipper",
            "stopped; `lens-ship run --once` has sent the rest"
            if drained
            else "could not send everything; its log says why",
            _GOOD if drained else _BAD,
        )
        return drained

    def _audit(self) -> Path:
        places = ["--spool", str(self._place.spool), "--state", str(self._place.state)]
        said = "audit.json"
        child = self._stage.lens_ship("audit", "audit", "--json", *places, out=said)
        if child.wait(_READY_SECONDS) != 0:
            raise DemoFailed("`lens-ship audit` finds that an account does not balance")
        return self._place.logs / said

    def _run_arguments(self) -> list[str]:
        settings = {
            "--spool": self._place.spool,
            "--state": self._place.state,
            "--http-listen": f"127.0.0.1:{self._page}",
            "--processor-url": f"http://127.0.0.1:{self._port}/v1",
            "--flush-interval": 1,
        }
        return ["run", *(str(part) for pair in settings.items() for part in pair)]

    # --- waiting ----------------------------------------------------------------------------------

    def _needed_one(self, name: str) -> Child:
        return next(child for child in self._needed if child.name == name)

    def _kill(self, child: Child) -> None:
        self._needed.remove(child)
        code = child.kill()
        if code != -9:
            raise DemoFailed(f"{child.name} ended by itself with exit code {code}")

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= until, "the clock stands still")

    def _until(self, fact: Callable[[], bool], otherwise: str) -> None:
        """Wait for a fact, as long as everyone needed is alive."""
        deadline = time.monotonic() + _READY_SECONDS + self._plan.second_training
        while not fact():
            for child in self._needed:
                if child.ended is not None:
                    raise DemoFailed(f"{child.name} ended with exit code {child.ended}")
            if time.monotonic() > deadline:
                raise DemoFailed(otherwise)
            self._show_progress()
            time.sleep(_TICK)

    def _show_progress(self) -> None:
        if self._training is None:
            return
        last = self._training.report.follow()
        if last is not None and "loss" in last.data:
            name, loss = self._training.child.name, last.data["loss"]
            self._screen.progress(f"{name}: step {last.step:,}, loss {loss:.4f}")

    def _say(self, who: str, what: str, style: str = "") -> None:
        self._screen.tell(who, what, style)

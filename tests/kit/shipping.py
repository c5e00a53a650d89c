"""What the service's tests are built from: records, spools, scripts, a clock to drive."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shipper.config.load import Config, load
from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.http_client.client import HttpClient
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.options import from_settings
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.client import ProcessorClient
from shipper.sinks.processor.metrics import MetricsSink
from shipper.steps import Step
from spooler.spool import codec, owner
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader, Stored
from spooler.spool.writer import Writer
from tests.kit import spools

T0 = 1700000000.0
ALIVE = owner.Liveness(alive=True)
KILLED = owner.Liveness(alive=False, certain=True, unclean=True)
DELIVERED = Outcome(disposition=Disposition.DELIVERED, reason="delivered")
OK_BODY = b'{"meta":{"code":2000,"message":"OK"},"data":{},"tracing":null}'
NOT_FOUND = Answer(status=404, headers={}, body=b"404 page not found")

Record = tuple[str, dict[str, Any]]  # kind and body


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def step(number: int, *, run: str = "r", closed: bool = True, **data: Any) -> Record:
    """A part of a step, or a whole one; without data, one number that tells the step."""
    body = {"run": run, "step": number, "time": T0 + number, "closed": closed}
    return "step", {**body, "data": data or {"loss": number + 0.5}}


def finish(run: str = "r") -> Record:
    return "finish", {"run": run, "time": T0, "step": None, "exit_code": 0}


def goodbye() -> Record:
    return "exit", {"time": T0, "steps": {}}


def detection(run: str = "r") -> Record:
    evidence = {"wandb": {"project": "p"}}
    return "detection", {"run": run, "time": T0, "look": 1, "evidence": evidence, "hints": {}}


def stored(*records: Record, first: int = 1) -> list[Stored]:
    """Records as a reader gives them, numbered from `first`."""
    return [
        Stored(seq=seq, kind=kind, body=codec.pack(body))
        for seq, (kind, body) in enumerate(records, first)
    ]


def config(folder: Path, **more: Any) -> Config:
    """A service's settings with everything below `folder`."""
    return load(
        {"spool": folder / "spool", "state": folder / "state", "http_listen": "off", **more}, {}
    )


def spool(
    root: Path,
    records: Iterable[Record],
    *,
    who: Identity | None = None,
    close: bool = True,
    **limits: Any,
) -> tuple[Path, Writer]:
    """A spool of these records; its directory and its writer, closed unless told otherwise."""
    root.mkdir(parents=True, exist_ok=True)
    writer = spools.writer(root, who=who or spools.identity(workload_uid="w"), **limits)
    append(writer, records)
    if close:
        writer.close()
    return writer.directory, writer


def killed(root: Path, records: Iterable[Record], name: str = "", **who: Any) -> Path:
    """The spool of a process that was killed after these records; its directory."""
    child = os.fork()
    if child == 0:
        known = spools.identity(name, **who) if name or who else None
        spool(root, records, close=False, who=known)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return spools.spools_below(root)[-1]


def append(writer: Writer, records: Iterable[Record]) -> None:
    for kind, body in records:
        writer.append(kind, codec.pack(body))
        writer.maintain()


class OwnedReader(Reader):
    """A reader that is told whether the writer lives; one that does not was killed."""

    def __init__(self, directory: Path, *, owned: bool = True) -> None:
        super().__init__(directory)
        self.owned = owned

    def liveness(self, folder: os.stat_result | None = None) -> owner.Liveness:
        return ALIVE if self.owned else KILLED


class NoNetwork(HttpClient):
    """Answers by script: a status, an answer, or a failure for each URL and turn."""

    def __init__(self, judge: Callable[[str, int], Answer | Unreachable]) -> None:
        super().__init__(user_agent="test", connect_seconds=10.0, read_seconds=10.0)
        self.urls: list[str] = []
        self.waits: list[float | None] = []  # seconds granted to each answer
        self._judge = judge

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        read_seconds: float | None = None,
    ) -> Answer:
        self.urls.append(url)
        self.waits.append(read_seconds)
        answer = self._judge(url, len(self.urls))
        if isinstance(answer, Unreachable):
            raise answer
        return answer


Judge = Callable[[Batch, int], Outcome]


class ScriptedSink(MetricsSink):
    """The real planning with an answer by script; remembers every batch that was sent."""

    def __init__(self, settings: Config, judge: Judge | None = None) -> None:
        nowhere = NoNetwork(lambda url, turn: NOT_FOUND)
        options = from_settings(MetricsSink.Options, settings)
        client = ProcessorClient("http://127.0.0.1:9/v1", nowhere)
        super().__init__("processor", options, {(ProcessorClient, options.http()): client})
        self.judge: Judge = judge or (lambda batch, tries: DELIVERED)
        self.sent: list[Batch] = []
        self.tries: list[int] = []
        self.plans: list[PlanInput] = []

    @property
    def steps(self) -> list[list[int]]:
        """The step numbers of every request so far."""
        return [[step.step for step in batch.payload.steps] for batch in self.sent]

    def plan(self, chunk: PlanInput) -> Plan:
        self.plans.append(chunk)
        return super().plan(chunk)

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """Nothing, so that what is sent is what was logged; `test_cut_off` has the real one."""
        return ()

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        self.sent.append(batch)
        self.tries.append(attempt)
        return self.judge(batch, attempt)


def retry(reason: str = "busy", *, scope: str = "workload", alarm: bool = False) -> Outcome:
    return Outcome(disposition=Disposition.RETRY, reason=reason, scope=scope, needs_operator=alarm)


def script(*outcomes: Outcome, then: Outcome = DELIVERED) -> Judge:
    """Give these outcomes one after the other, whatever is sent."""
    left: Sequence[Outcome] = list(outcomes)

    def judge(batch: Batch, tries: int) -> Outcome:
        nonlocal left
        if not left:
            return then
        outcome, left = left[0], left[1:]
        return outcome

    return judge

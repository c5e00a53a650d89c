"""One node in one process, driven by hand: the real service, sinks and receiver, without threads.

Time passes only when a test says so, monotonic and wall apart; requests go to the real receiver's
own handlers, and faults of every class are put in their way. A writer is alive as long as its
directory is in `Node.living`: POSIX locks cannot be asked for in the process that holds them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from shipper import app as app_module
from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.http_client.client import HttpClient
from shipper.ledger.ledger import Ledger
from shipper.retention.deletable import DeletableCache
from shipper.service import Service
from shipper.sinks import DEFAULT
from shipper.sinks.options import HttpOptions
from shipper.sinks.processor import client as client_module
from shipper.sinks.processor.client import ProcessorClient
from spooler.spool import owner
from spooler.spool.segments import Segments
from tests.kit.processor import Receiver
from tests.kit.processor.routes import Call
from tests.kit.shipping import ALIVE, KILLED, Clock

URL = "http://receiver/v1"
REQUEST_SECONDS = 0.2
_TURNS = 2000


class Killed(BaseException):
    """The service died at this point."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request: processed or not, then an answer, no answer, or death."""

    name: str
    answer: Answer | Unreachable | None  # None: the service dies
    processed: bool = False


def _envelope(code: int, message: str) -> bytes:
    return json.dumps({"meta": {"code": code, "message": message}, "data": {}}).encode()


def _answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body=body)


_FORMAT = _envelope(400, "invalid request format")
_AMBIGUOUS: dict[str, Answer | Unreachable | None] = {
    "timeout": Unreachable("timeout", "slow", sent=True),
    "connection lost": Unreachable("connection-lost", "gone", sent=True),
    "bad gateway": _answer(502),
    "gateway timeout": _answer(504),
    "cut short": _answer(200, b'{"meta":{"co'),
    "killed": None,
}
FAULTS = [
    *(
        Fault(name=name, answer=answer, processed=processed)
        for name, answer in _AMBIGUOUS.items()
        for processed in (False, True)
    ),
    Fault(name="refused", answer=Unreachable("refused", "nobody there", sent=False)),
    Fault(name="busy", answer=_answer(503)),
    Fault(name="too many", answer=_answer(429, **{"retry-after": "7"})),
    Fault(name="server error", answer=_answer(500, _envelope(500, "Internal Server Error"))),
    Fault(name="panic", answer=_answer(500)),
    Fault(name="not allowed", answer=_answer(401)),
    Fault(name="forbidden", answer=_answer(403)),
    Fault(name="wrong address", answer=_answer(404, b"404 page not found")),
    Fault(name="wrong method", answer=_answer(405)),
    Fault(name="redirect", answer=_answer(307, location="/elsewhere")),
    Fault(name="bad format", answer=_answer(400, _FORMAT)),
    Fault(name="unknown workload", answer=_answer(400, _envelope(400, "no valid workload found"))),
    Fault(name="another 400", answer=_answer(400, b"go away")),
    Fault(name="too large", answer=_answer(413)),
    Fault(name="other code", answer=_answer(200, _envelope(5000, "Unknown error"))),
    Fault(name="a page", answer=_answer(200, b"<html>It works!</html>")),
]


class Wire(HttpClient):
    """Carries requests to the receiver's handlers, through the faults that are next."""

    def __init__(self, receiver: Receiver, clock: Clock) -> None:
        super().__init__(user_agent="model", connect_seconds=10.0, read_seconds=10.0)
        self.faults: deque[Fault] = deque()
        self.acknowledged: Callable[[str, Any], None] = lambda path, body: None
        self._receiver = receiver
        self._clock = clock

    def post(self, url: str, body: bytes, headers: Mapping[str, str], **_: Any) -> Answer:
        self._clock.pass_by(REQUEST_SECONDS)
        fault = self.faults.popleft() if self.faults else None
        answer = None
        if fault is None or fault.processed:
            answer = self._process(url, body, headers)
        if fault is None:
            assert answer is not None
            if answer.status == 200:
                self.acknowledged(url.removeprefix(URL), json.loads(body))
            return answer
        if fault.answer is None:
            raise Killed
        if isinstance(fault.answer, Unreachable):
            raise Unreachable(fault.answer.reason, fault.answer.detail, sent=fault.answer.sent)
        return fault.answer

    def get(self, url: str) -> Answer:
        return _answer(404)

    def _process(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        reply = self._receiver.answer(
            Call(
                method="POST",
                target=url.removeprefix("http://receiver"),
                headers={name.lower(): value for name, value in headers.items()},
                body=body,
                received_at=0.0,
            )
        )
        content = reply.body
        return Answer(status=reply.status, headers={}, body=content)


class Node:
    """A root, a state directory, a receiver, and a service that lives or does not."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.clock = Clock()
        self.wall = [1.7e9]
        self.living: set[Path] = set()
        self.receiver = Receiver(path=folder / "receiver.sqlite")
        self.receiver.store.open()
        self.wire = Wire(self.receiver, self.clock)
        self.service: Service | None = None

    @contextmanager
    def _patched(self) -> Iterator[None]:
        times = SimpleNamespace(monotonic=self.clock, time=lambda: self.wall[0])
        with (
            mock.patch.object(app_module, "time", times),
            mock.patch.object(client_module, "time", times),
            mock.patch.object(ProcessorClient, "of", self._client),
            mock.patch.object(Segments, "liveness", self._verdict()),
        ):
            yield

    def _verdict(self) -> Callable[..., owner.Liveness]:
        def verdict(reader: Segments, folder: object = None) -> owner.Liveness:
            unseen = not reader.place.exists()
            return ALIVE if unseen or reader.directory in self.living else KILLED

        return verdict

    def _client(self, options: HttpOptions) -> ProcessorClient:
        return ProcessorClient(URL, self.wire)

    def start(self) -> None:
        """Start the service, if it does not run."""
        if self.service is None:
            with self._patched():
                self.service = Service(self.config)
                self.service.app.cleaner._deletable = DeletableCache(
                    self.clock, lambda: self.wall[0]
                )

    def kill(self) -> None:
        """The service is gone; what it had in its head is lost."""
        if self.service is not None:
            self.service.app.ledger.close()
            self.service = None

    def stop(self) -> None:
        """The service ends when told to."""
        if self.service is not None:
            with self._patched():
                self.service.app.cleaner.stop()
            self.kill()

    def close(self) -> None:
        """Everything goes away."""
        self.kill()
        self.receiver.store.close()

    def tidy(self) -> None:
        """One round of tidying up."""
        self.start()
        assert self.service is not None
        with self._patched():
            self.service.app.clean()

    def look(self) -> None:
        """One walk of the root and one beat of the pulse."""
        assert self.service is not None
        self.service.scan()
        self.service.app.scanner.scan_if_due()
        self.service.app.poller.poll()

    def turns(self, count: int) -> None:
        """Give so many turns to the lanes that are due, in time; death ends it."""
        self.start()
        with self._patched():
            try:
                for _ in range(count):
                    self.look()
                    if not self._turn():
                        break
            except Killed:
                self.kill()

    def drain(self) -> None:
        """Let time pass until everything is delivered or given up; it must come to that."""
        self.wire.faults.clear()
        self.start()
        assert self.service is not None
        self.clock.pass_by(2 * self.config.flush_interval)  # what is new is felt by then
        with self._patched():
            for _ in range(_TURNS):
                self.look()
                lanes = self.service.app.queues.values()
                if all(lane.caught_up() for lane in lanes):
                    self.service.app.clean()
                    self.service.app.clean()
                    return
                due = min(lane.due() for lane in lanes if not lane.caught_up())
                self.clock.pass_by(max(0.0, due - self.clock.now) + 0.001)
                self._turn()
        raise AssertionError(f"never at rest: {self.service.app.pending()}")

    def accounts(self) -> list[Account]:
        """What `lens-ship audit` says now."""
        with self._patched():
            ledger = Ledger(self.config.state, exclusive=False, create=True)
            try:
                return run_audit(ledger, self.config.spool, DEFAULT)
            finally:
                ledger.close()

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, as commands open it beside the service, and their view of the node."""
        with self._patched():
            ledger = Ledger(self.config.state, exclusive=False, create=True)
            try:
                yield ledger
            finally:
                ledger.close()

    def _turn(self) -> bool:
        assert self.service is not None
        lanes = self.service.app.queues
        due = [key for key in lanes if lanes[key].due() <= self.clock.now]
        for key in sorted(due, key=lambda key: lanes[key].due()):
            # Not `app.turn`: it would swallow an internal error.
            lanes[key].turn()
            self.service.app.cleaner.mark_dirty(key)
        return bool(due)

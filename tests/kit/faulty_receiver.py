"""The real receiver, failing on cue.

Rules:

* A script holds one behaviour per POST, in the order the requests arrive; when it is used up
  every POST gets ``otherwise``, by default the true answer. GETs are always answered truly.
* ``processed`` says whether the request was stored before things went wrong: that is what makes
  an outcome ambiguous for the client.
* ``seen`` grows when a POST has been read. Its ``processed`` turns true after the commit; its
  ``status`` is filled in right before an answer is sent, and stays None when none ever is (or
  only a broken one).
* Nothing here sleeps or polls: ``wait_for`` waits on a condition, and whatever hangs ends when
  it is released or the receiver goes away.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tests.kit.ports import give_back, reserved_port
from tests.kit.processor import Receiver
from tests.kit.processor.answers import JSON, Reply, enveloped
from tests.kit.processor.listener import Exchange
from tests.kit.processor.routes import Call
from tests.kit.spools import PATIENCE_SECONDS


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One POST; ``body`` is the parsed JSON, or None when it is not JSON."""

    path: str
    headers: Mapping[str, str]
    body: Any
    raw: bytes
    processed: bool = False
    status: int | None = None
    answered: bool = False  # the whole answer is on its way


class Turn:
    """One POST in the hands of a behaviour."""

    def __init__(
        self, *, receiver: FaultyReceiver, exchange: Exchange, call: Call, index: int
    ) -> None:
        self._receiver = receiver
        self._exchange = exchange
        self._call = call
        self._index = index

    @property
    def headers(self) -> Mapping[str, str]:
        """What it came with; names in lower case."""
        return self._call.headers

    def process(self) -> Reply:
        """Process the request and return the true answer."""
        reply = self._receiver.answer(self._call)
        self._receiver.note(self._index, processed=True)
        return reply

    def process_if(self, wanted: bool) -> Reply:
        """Return the true answer, or when nothing is to be processed one made up."""
        return self.process() if wanted else enveloped(status=200, code=2000, message="OK", data={})

    def answer(self, reply: Reply) -> None:
        """Answer the client."""
        self.answering(reply)
        self._exchange.send(reply)
        self._receiver.note(self._index, answered=True)

    def answering(self, reply: Reply) -> None:
        """Remember the status of an answer that is about to be sent."""
        self._receiver.note(self._index, status=reply.status)

    def rendered(self, reply: Reply) -> bytes:
        """Return an answer as bytes, ending the connection after it."""
        self._exchange.close_connection = True
        return self._exchange.rendered(reply)

    def write(self, data: bytes) -> None:
        """Put bytes on the wire."""
        self._exchange.wfile.write(data)

    def close(self) -> None:
        """End the connection in an orderly way once the behaviour returns."""
        self._exchange.close_connection = True

    def reset(self) -> None:
        """Tear the connection down with RST, now."""
        self.close()
        lingering = struct.pack("ii", 1, 0)
        self._exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        self._exchange.rfile.close()  # it holds the socket open
        self._exchange.connection.close()

    def wait(self, seconds: float | None, until: threading.Event | None = None) -> None:
        """Wait until released, or until the seconds are over."""
        self._receiver.hold(until or threading.Event(), seconds, self._index)


class Behaviour(Protocol):
    """What is done with one POST."""

    def play(self, turn: Turn) -> None:
        """Do it."""


@dataclass(frozen=True, kw_only=True)
class Normal:
    """Process and answer truly."""

    def play(self, turn: Turn) -> None:
        turn.answer(turn.process())


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer something, with or without having processed the request.

    A body that is neither text nor bytes is sent as JSON.
    """

    status: int
    body: Any = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON
    processed: bool = False

    def play(self, turn: Turn) -> None:
        if self.processed:
            turn.process()
        body = self.body if isinstance(self.body, (bytes, str)) else json.dumps(self.body)
        turn.answer(
            Reply(
                status=self.status,
                body=body.encode() if isinstance(body, str) else body,
                content_type=self.content_type,
                headers=self.headers,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Hang:
    """Keep the client waiting: for some seconds, or until released.

    A processed request was stored before the wait and is answered truly after it; another one
    ends with a closed connection. ``until`` is also set when the receiver goes away.
    """

    seconds: float | None = None
    until: threading.Event | None = None
    processed: bool = False

    def play(self, turn: Turn) -> None:
        reply = turn.process() if self.processed else None
        turn.wait(self.seconds, self.until)
        if reply is None:
            turn.close()
        else:
            turn.answer(reply)


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Reset the connection instead of answering."""

    processed: bool = False

    def play(self, turn: Turn) -> None:
        if self.processed:
            turn.process()
        turn.reset()


@dataclass(frozen=True, kw_only=True)
class Eof:
    """Close the connection instead of answering."""

    processed: bool = False

    def play(self, turn: Turn) -> None:
        if self.processed:
            turn.process()
        turn.close()


@dataclass(frozen=True, kw_only=True)
class HalfAnswer:
    """Announce the whole answer, send half of its body, and close."""

    processed: bool = True

    def play(self, turn: Turn) -> None:
        reply = turn.process_if(self.processed)
        turn.write(turn.rendered(reply)[: -(len(reply.body) // 2 + 1)])


@dataclass(frozen=True, kw_only=True)
class SlowBody:
    """Send the head at once and the body in pieces, with a pause before each."""

    pause: float
    pieces: int = 4
    processed: bool = True

    def play(self, turn: Turn) -> None:
        reply = turn.process_if(self.processed)
        turn.answering(reply)
        data = turn.rendered(reply)
        start = len(data) - len(reply.body)
        turn.write(data[:start])
        size = max(1, -(-len(reply.body) // self.pieces))
        for offset in range(start, len(data), size):
            turn.wait(self.pause)
            turn.write(data[offset : offset + size])


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Send bytes that are no HTTP, and close."""

    data: bytes = b"\x00\xff this is not HTTP\r\n\r\n"
    processed: bool = False

    def play(self, turn: Turn) -> None:
        if self.processed:
            turn.process()
        turn.write(self.data)
        turn.close()


def other_code(code: int, *, processed: bool = False) -> Answer:
    """Answer 200 with an envelope that says something else than 2000."""
    envelope = {"meta": {"code": code, "message": "Unknown error"}, "data": None, "tracing": None}
    return Answer(status=200, body=envelope, processed=processed)


def not_json(*, processed: bool = False) -> Answer:
    """Answer 200 with a page for people."""
    page = "<html><body>It works!</body></html>"
    return Answer(status=200, body=page, content_type="text/html", processed=processed)


def redirect(location: str) -> Answer:
    """Answer 307."""
    return Answer(status=307, headers=(("Location", location),))


class FaultyReceiver(Receiver):
    """A Receiver with a script of behaviours, and a memory of what it was sent."""

    def __init__(
        self,
        *,
        path: Path,
        script: Sequence[Behaviour] = (),
        otherwise: Behaviour | None = None,
        port: int = 0,
        prefix: str = "/v1",
        pods: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        super().__init__(path=path, port=port or reserved_port(), prefix=prefix, pods=pods)
        self.otherwise: Behaviour = otherwise or Normal()
        self._script = deque(script)
        self._changed = threading.Condition()
        self._seen: list[Seen] = []
        self._held: list[threading.Event] = []
        self._released = 0  # how many POSTs had arrived at the last release
        self._away = False

    @property
    def seen(self) -> list[Seen]:
        """Every POST so far, in the order they arrived."""
        with self._changed:
            return list(self._seen)

    def then(self, *behaviours: Behaviour) -> None:
        """Add behaviours to the end of the script."""
        with self._changed:
            self._script.extend(behaviours)

    def wait_for(
        self, predicate: Callable[[list[Seen]], object], timeout: float = PATIENCE_SECONDS
    ) -> list[Seen]:
        """Wait until the predicate holds for ``seen`` and return that; fail after ``timeout``."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(list(self._seen)), timeout):
                statuses = [(post.path, post.status) for post in self._seen]
                raise AssertionError(f"not within {timeout} s; seen so far: {statuses}")
            return list(self._seen)

    def release(self) -> None:
        """Let everything that has arrived go on, also what does not hang yet."""
        with self._changed:
            self._released = len(self._seen)
            for event in self._held:
                event.set()

    def go_away(self) -> None:
        """Refuse connections, and drop those that are open."""
        self.stop()

    def come_back(self) -> None:
        """Accept connections again, on the same port and over the same store."""
        self.start()

    def start(self) -> None:
        """Serve, and hang again where the script says so."""
        with self._changed:
            self._away = False
        super().start()

    def stop(self) -> None:
        """Release what hangs, and go away."""
        with self._changed:
            self._away = True
            self.release()
        super().stop()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        give_back(self.port)

    def conclude(self, exchange: Exchange, call: Call) -> None:
        """Do with a POST what the script says."""
        if call.method != "POST":
            super().conclude(exchange, call)
            return
        behaviour, index = self.arrived(call)
        behaviour.play(Turn(receiver=self, exchange=exchange, call=call, index=index))

    def note(self, index: int, **became: Any) -> None:
        """Remember what became of a POST."""
        with self._changed:
            self._seen[index] = replace(self._seen[index], **became)
            self._changed.notify_all()

    def hold(self, event: threading.Event, seconds: float | None, index: int | None = None) -> None:
        """Wait for the event, for the seconds, or until released, whichever is first.

        `index`: the number of a POST that has arrived.
        """
        with self._changed:
            if self._away or (index is not None and index < self._released):
                event.set()
            self._held.append(event)
        event.wait(seconds)
        with self._changed:
            self._held.remove(event)

    def arrived(self, call: Call) -> tuple[Behaviour, int]:
        """Remember a POST; what is to be done with it, and its number."""
        seen = Seen(
            path=call.path,
            headers=call.headers,
            body=_parsed(call.body),
            raw=call.body,
        )
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()
            behaviour = self._script.popleft() if self._script else self.otherwise
            return behaviour, len(self._seen) - 1


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None

"""A proxy between the service and a receiver, that does with an answer what a bad network does.

Rules:

- It understands as much HTTP as the two sides speak: a head, then as many bytes as it announces.
- `plan` is asked once for each POST, with its body; None: the answer passes as it came.
- Nothing sleeps but `SlowAnswer`, by the pieces it is told to; whoever hangs is let go by `close`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_PATIENCE_SECONDS = 60.0


class Gone(Exception):
    """The connection is over."""


class Fault(Protocol):
    """What happens to one answer."""

    processed: bool  # whether the request reaches the receiver at all

    def play(self, wire: Wire, answer: bytes) -> None:
        """Do it; the connection ends afterwards unless it returns without having closed it."""


class Wire:
    """The client's side of one connection."""

    def __init__(self, client: socket.socket, over: threading.Event) -> None:
        self._client = client
        self._over = over

    def write(self, data: bytes) -> None:
        """Send, if the client still listens."""
        with contextlib.suppress(OSError):
            self._client.sendall(data)

    def finish(self) -> None:
        """End the connection in an orderly way."""
        raise Gone

    def reset(self) -> None:
        """End it with a RST."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def hang(self) -> None:
        """Say nothing more, until the client gives up."""
        self._client.settimeout(_PATIENCE_SECONDS)
        with contextlib.suppress(OSError):
            while self._client.recv(4096):
                pass
        raise Gone

    def pause(self, seconds: float) -> None:
        """Let time pass, unless the proxy is closed."""
        self._over.wait(seconds)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The first `at` bytes, and then the end; `how` it comes: close, reset or hang."""

    at: int
    how: str = "close"
    processed: bool = True

    def play(self, wire: Wire, answer: bytes) -> None:
        wire.write(answer[: self.at])
        {"close": wire.finish, "reset": wire.reset, "hang": wire.hang}[self.how]()


@dataclass(frozen=True, kw_only=True)
class SlowAnswer:
    """The first `at` bytes at once, the others one by one."""

    at: int
    seconds: float = 0.002
    processed: bool = True

    def play(self, wire: Wire, answer: bytes) -> None:
        wire.write(answer[: self.at])
        for place in range(self.at, len(answer)):
            wire.pause(self.seconds)
            wire.write(answer[place : place + 1])


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """The first `at` bytes, and then something else in the place of the others."""

    at: int
    rest: bytes
    processed: bool = True

    def play(self, wire: Wire, answer: bytes) -> None:
        wire.write(answer[: self.at] + self.rest)
        wire.finish()


@dataclass(frozen=True, kw_only=True)
class Twice:
    """The whole answer, and `at` bytes of it once more on the same connection."""

    at: int
    processed: bool = True

    def play(self, wire: Wire, answer: bytes) -> None:
        wire.write(answer + answer[: self.at])


Plan = Callable[[bytes], Fault | None]


class Proxy:
    """Listens on a port of its own and passes everything on to `upstream`, by `plan`.

    `answer` is the last whole one that came by: it stands in for those of requests that are not
    passed on.
    """

    def __init__(self, upstream: tuple[str, int], plan: Plan) -> None:
        self._upstream = upstream
        self._plan = plan
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.answer = b""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients go, with the receiver's path."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def close(self) -> None:
        """End everything that is open."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with (
            client,
            contextlib.suppress(Gone, OSError),  # also where the receiver has ended by now
            socket.create_connection(self._upstream) as server,
        ):
            with self._lock:
                self._open |= {client, server}
            try:
                wire = Wire(client, self._over)
                while not self._over.is_set():
                    self._exchange(_Stream(client), wire, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _exchange(self, stream: _Stream, wire: Wire, server: socket.socket) -> None:
        head, body = stream.message()
        fault = self._plan(body) if head.startswith(b"POST") else None
        answer = self.answer
        if fault is None or fault.processed:
            server.sendall(head + body)
            answer = b"".join(_Stream(server).message())
            if fault is None and head.startswith(b"POST"):
                self.answer = answer
        if fault is None:
            wire.write(answer)
        else:
            fault.play(wire, answer)


class _Stream:
    """Whole messages from a socket; neither side sends the next before it has had an answer."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._read = b""

    def message(self) -> tuple[bytes, bytes]:
        """The next head and body.

        Raises:
            Gone: there is none.
        """
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, rest = self._read.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        while len(rest) < length:
            before = len(self._read)
            self._more()
            rest += self._read[before:]
        self._read = rest[length:]
        return head + b"\r\n\r\n", rest[:length]

    def _more(self) -> None:
        piece = self._source.recv(65536)
        if not piece:
            raise Gone
        self._read += piece

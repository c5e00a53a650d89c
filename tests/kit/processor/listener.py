"""HTTP/1.1 on a socket: one thread per connection, kept alive, and gone when told to go.

Rules:

* What is answered is not decided here: every request that could be read is given to
  ``conclude`` together with its exchange.
* An answer leaves in one write, without Nagle's delay, so that a client on a kept connection
  never waits for the rest of it.
* ``leave`` closes the listening socket and every open connection, and returns when their
  threads have ended.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from tests.kit.processor import answers
from tests.kit.processor.answers import Reply
from tests.kit.processor.bodies import read_body
from tests.kit.processor.errors import BadFraming
from tests.kit.processor.routes import Call

_log = logging.getLogger(__name__)
_PATIENCE = 60.0  # seconds for a thread to end after its connection was shut down


class Exchange(BaseHTTPRequestHandler):
    """One connection and the request that is being answered on it."""

    server: Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answer requests until one side closes the connection."""
        with suppress(ConnectionError):  # the client is gone: there is nobody to tell
            super().handle()

    def send(self, reply: Reply) -> None:
        """Send a whole answer."""
        self.wfile.write(self.rendered(reply))

    def rendered(self, reply: Reply) -> bytes:
        """Return an answer as the bytes on the wire."""
        phrase = _phrase(reply.status)
        head = [
            f"HTTP/1.1 {reply.status} {phrase}",
            f"Date: {self.date_time_string()}",
            f"Content-Length: {len(reply.body)}",
        ]
        if reply.content_type:
            head.append(f"Content-Type: {reply.content_type}")
        if self.close_connection:
            head.append("Connection: close")
        head.extend(f"{name}: {value}" for name, value in reply.headers)
        body = b"" if self.command == "HEAD" else reply.body
        return "\r\n".join([*head, "", ""]).encode("latin-1") + body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what could not be read as a request, in plain text, and close."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:  # a method that exists nowhere
            self.send(answers.not_found())
        else:
            self.send(answers.plain(code, f"{int(code)} {message or _phrase(code)}"))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Log instead of writing to stderr."""
        _log.debug("%s " + format, self.client_address[0], *args)

    def _exchange(self) -> None:
        try:
            body = read_body(self.rfile, self.headers)
        except BadFraming as complaint:
            self.send_error(HTTPStatus.BAD_REQUEST, str(complaint))
            return
        if not body.whole:
            self.close_connection = True
        call = Call(
            method=self.command,
            target=self.requestline.split()[1],
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body.data,
            received_at=time.time(),
        )
        self.server.conclude(self, call)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _exchange  # noqa: N815


class Listener(ThreadingHTTPServer):
    """The listening socket, and the connections that came from it."""

    request_queue_size = 128

    def __init__(
        self, *, address: tuple[str, int], conclude: Callable[[Exchange, Call], None]
    ) -> None:
        self.conclude = conclude
        self._guard = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, Exchange)

    def server_bind(self) -> None:
        """Bind without asking the resolver for this machine's name, which can take seconds."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection in a thread of its own."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="receiver-connection",
            daemon=True,
        )
        with self._guard:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection whose thread is done with it."""
        super().shutdown_request(request)
        with self._guard:
            self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong on a connection; the others go on."""
        _log.exception("a connection from %s failed", client_address)

    def leave(self) -> None:
        """Close everything; a request in flight may still be stored, but not answered."""
        with suppress(OSError):  # wakes the accepting thread at once
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        with self._guard:
            remaining = list(self._open.items())
        for connection, _thread in remaining:
            with suppress(OSError):  # it may just have been closed
                connection.shutdown(socket.SHUT_RDWR)
        for _connection, thread in remaining:
            thread.join(_PATIENCE)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"

"""HTTP on a socket with bounds: so many connections, so long each, one request a connection.

When all places are taken the connection that has lasted longest gives way to the new one, so that
nobody who holds connections open can keep a probe out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from shipper.admin import Reply
from shipper.logs import about

log = logging.getLogger(__name__)

CONNECTIONS = 16
SECONDS = 10.0  # for a connection as a whole
_READ_SECONDS = 5.0
_LINE_BYTES = 8192
_ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Exchange(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Listener
    raw_requestline: bytes  # read by what is inherited
    protocol_version = "HTTP/1.1"
    timeout = _READ_SECONDS
    server_version = "lens-ship"
    sys_version = ""

    def handle(self) -> None:
        """Answer one request; a client that has gone is nobody's trouble."""
        with contextlib.suppress(OSError):
            self.handle_one_request()

    def parse_request(self) -> bool:
        """As inherited, with a shorter limit for the request's line."""
        if len(self.raw_requestline) > _LINE_BYTES:
            self.send_error(414)
            return False
        return super().parse_request()

    def do_GET(self) -> None:
        """Answer, if the question came to us by a name that is ours."""
        if not self.server.is_ours(self.headers.get("Host", "")):
            self._send(Reply(status=403, body=b"this name is not known here; use the address\n"))
            return
        self._send(self.server.answer(urlsplit(self.path).path))

    do_HEAD = do_GET  # noqa: N815 - the name is inherited

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say in plain text what is wrong with a request; every other method is not allowed."""
        code = 405 if code == 501 else code
        allow = (("Allow", "GET, HEAD"),) if code == 405 else ()
        text = self.responses.get(code, ("error", ""))[0]
        self._send(Reply(status=code, body=f"{code} {text}\n".encode(), headers=allow))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Not a line for each request."""

    def _send(self, reply: Reply) -> None:
        self.close_connection = True
        # An unreadable request has neither a method nor a version yet.
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = "HTTP/1.1"
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Connection", "close")
        for name, value in (*_ALWAYS, *reply.headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)


class Listener(ThreadingHTTPServer):
    """Listens at once; `close` ends it.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, answer: Callable[[str], Reply]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._host = host
        self.answer = answer
        super().__init__((host, port), Exchange)
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 1.0}, name="page", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is found."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.server_address[1]}"

    def is_ours(self, host: str) -> bool:
        """Whether a request's Host may be answered.

        On the loopback only its own names: a page of somebody else, whose name was made to point
        here, must not read this one through the browser.
        """
        if not _is_loopback(self._host):
            return True
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or _is_loopback(name)

    def close(self) -> None:
        """Stop listening, and end what is open."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            for request in self._open:
                _cut(request)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection in, in place of the one that has lasted longest if there is no room."""
        with self._lock:
            if len(self._open) >= CONNECTIONS:
                _cut(min(self._open, key=self._open.__getitem__))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection has ended."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Once a second: end what has lasted too long."""
        late = time.monotonic() - SECONDS
        with self._lock:
            for request in [one for one, since in self._open.items() if since < late]:
                _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A fault of ours in an answer must not be silent, nor end the server."""
        log.exception(
            "a request to the page could not be answered", extra=about(reason="page-fault")
        )


def _cut(request: socket.socket) -> None:
    """Wake up whoever reads from it or writes to it; its thread then closes it."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""An HTTP server with bounds, for the admin port of the service and for the dev server.

Connections, the seconds of each and the bytes of a body are limited. A connection carries one
request. When all connections are in use, the oldest is closed, so a client that holds connections
open cannot keep others out. Probes need none of them: the listening thread answers them at once.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from shipper.log import fields

log = logging.getLogger(__name__)

_READ_SECONDS = 5.0
_HEAD_BYTES = 4096  # in which the head of a probe fits
_HEAD_SECONDS = 0.002  # it is sent right after the connection is made
_SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@dataclass(frozen=True)
class HttpRequest:
    """One request; `path` keeps its percent escapes."""

    method: str
    path: str
    headers: Message
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """The answer to one request."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Bounds of a server; `seconds` is for a whole connection; without `body_bytes` no POST."""

    connections: int = 16
    seconds: float = 10.0
    body_bytes: int = 0


class _Connection(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    timeout = _READ_SECONDS
    wbufsize = -1  # a response leaves in one write
    server_version = "lens-ship"
    sys_version = ""

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has closed the connection
            self.handle_one_request()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        limit = self.server.limits.body_bytes
        length = self.headers.get("Content-Length", "")
        if not limit:
            self.send_error(405)
        elif not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self.send_error(411)
        elif len(length) > 18 or int(length) > limit:
            self.send_error(413)
        else:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.send_error(400)
            else:
                self._answer(body)

    def _answer(self, body: bytes = b"") -> None:
        try:
            is_own = self.server.is_own_name(self.headers.get("Host", ""))
            path = urlsplit(self.path).path
        except ValueError:  # brackets that are not an IPv6 address
            self.send_error(400)
            return
        if is_own:
            request = HttpRequest(self.command, path, self.headers, body)
            self._send(self.server.answer(request))
        else:
            self._send(HttpResponse(status=403, body=b"403 unknown host name, use the address\n"))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        code = 405 if code == 501 else code
        methods = "GET, HEAD, POST" if self.server.limits.body_bytes else "GET, HEAD"
        allow = (("Allow", methods),) if code == 405 else ()
        text = self.responses.get(code, ("error", ""))[0]
        self._send(HttpResponse(status=code, body=f"{code} {text}\n".encode(), headers=allow))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited name
        """Requests are not logged."""

    def _send(self, response: HttpResponse) -> None:
        self.close_connection = True
        # A request that could not be parsed has neither a method nor a version.
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = "HTTP/1.1"
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Connection", "close")
        for name, value in (*_SECURITY_HEADERS, *response.headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


class HttpServer(ThreadingTCPServer):
    """Listens as soon as it is made, until `close`.

    Raises:
        OSError: the address is in use or does not belong to this host.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[HttpRequest], HttpResponse],
        limits: ServerLimits | None = None,
        at_once: str = "",
    ) -> None:
        """`at_once`: paths that begin so are answered by the listening thread, if any do."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer = answer
        self.limits = limits or ServerLimits()
        self._opened: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._host = host
        methods = ("GET", "HEAD") if at_once else ()
        self._at_once = tuple(f"{method} {at_once}".encode() for method in methods)
        super().__init__((host, port), _Connection)
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 1.0}, name="http", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.server_address[1]}"

    def is_own_name(self, host: str) -> bool:
        """Whether a request with this Host header is answered.

        On the loopback interface only loopback names are. Otherwise a website could read this
        server through a browser, with a host name that resolves to 127.0.0.1 (DNS rebinding).
        """
        if not _is_loopback(self._host):
            return True
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or _is_loopback(name)

    def close(self) -> None:
        """Stop listening and close every connection."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            for request in self._opened:
                _disconnect(request)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Accept a connection; close the oldest one when there are too many."""
        if self._at_once and self._is_whole(request):
            TCPServer.process_request(self, request, client_address)
            return
        with self._lock:
            if len(self._opened) >= self.limits.connections:
                oldest = min(self._opened, key=self._opened.__getitem__)
                del self._opened[oldest]
                _disconnect(oldest)
            self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def _is_whole(self, request: socket.socket) -> bool:
        """Whether all of a request to be answered at once is here: reading it is no wait."""
        head = b""
        with contextlib.suppress(OSError):
            poll = select.poll()
            poll.register(request, select.POLLIN)
            if poll.poll(_HEAD_SECONDS * 1000):
                head = request.recv(_HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return head.startswith(self._at_once) and b"\r\n\r\n" in head

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._opened.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that are too old. Called once a second."""
        oldest = time.monotonic() - self.limits.seconds
        with self._lock:
            for request in [one for one, since in self._opened.items() if since < oldest]:
                _disconnect(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # the client has closed the connection
            log.exception(
                "HTTP request failed, the server goes on", extra=fields(reason="http-fault")
            )


def _disconnect(request: socket.socket) -> None:
    """Wake the thread that reads from or writes to the socket; it then closes it."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

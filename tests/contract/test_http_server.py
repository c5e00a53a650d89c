"""The HTTP server keeps its bounds, whatever a client does."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from shipper import http_server
from shipper.http_server import HttpRequest, HttpResponse, HttpServer, ServerLimits
from tests.kit import spools

GET = b"GET /here HTTP/1.1\r\nHost: localhost\r\n\r\n"
PROBE = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /here HTTP/1.1\r\nHost: localhost\r\n"


def answer(server: HttpServer, asked: bytes) -> bytes:
    """Send bytes and read until the server closes the connection."""
    with socket.create_connection(server.server_address[:2], spools.PATIENCE_SECONDS) as one:
        one.sendall(asked)
        return b"".join(iter(lambda: one.recv(65536), b""))


def echo(seconds: float = spools.PATIENCE_SECONDS, body_bytes: int = 0) -> HttpServer:
    """A server that answers with the path, for three connections at once."""
    return HttpServer(
        "127.0.0.1",
        0,
        lambda request: HttpResponse(status=200, body=request.path.encode() + request.body),
        ServerLimits(connections=3, seconds=seconds, body_bytes=body_bytes),
        at_once="/-/",
    )


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """A server that waits for what a client has still to send, however busy this machine is."""
    monkeypatch.setattr(http_server, "_HEAD_SECONDS", spools.PATIENCE_SECONDS)
    monkeypatch.setattr(http_server._Connection, "timeout", spools.PATIENCE_SECONDS)
    with closing(echo()) as one:
        yield one


def connect(one: HttpServer) -> socket.socket:
    made = socket.create_connection(one.server_address[:2], timeout=spools.PATIENCE_SECONDS)
    made.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")  # and never the end of it
    return made


def test_connections_that_are_held_open_keep_nobody_out(bounded: HttpServer) -> None:
    held = [connect(bounded) for _ in range(8)]
    assert answer(bounded, GET)[-5:] == b"/here"
    assert held[0].recv(1) == b"", "the oldest gave way"
    for one in held:
        one.close()


def test_a_probe_needs_none_of_the_connections(bounded: HttpServer) -> None:
    """A flood of them would push it out before it is answered."""
    held = [connect(bounded) for _ in range(3)]
    wait_for_connections(bounded, 3)
    for _ in range(5):
        assert answer(bounded, PROBE)[-10:] == b"/-/healthy"
    held[0].settimeout(0.1)
    with pytest.raises(TimeoutError):
        held[0].recv(1)
    assert answer(bounded, GET)[-5:] == b"/here"
    held[0].settimeout(spools.PATIENCE_SECONDS)
    assert held[0].recv(1) == b"", "any other request pushes out the oldest"
    for one in held:
        one.close()


def test_a_probe_that_comes_in_pieces_is_read_like_any_other_request(bounded: HttpServer) -> None:
    with closing(
        socket.create_connection(bounded.server_address[:2], timeout=spools.PATIENCE_SECONDS)
    ) as slow:
        slow.sendall(PROBE[:9])
        wait_for_connections(bounded, 1)
        assert answer(bounded, PROBE)[-10:] == b"/-/healthy", "nothing waits for the rest"
        slow.sendall(PROBE[9:])
        slow.settimeout(spools.PATIENCE_SECONDS)
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")


def test_clients_that_go_before_their_answer_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A flood of them would fill the log with tracebacks."""
    gone = threading.Event()

    def handler(request: HttpRequest) -> HttpResponse:
        gone.wait(spools.PATIENCE_SECONDS)
        return HttpResponse(status=200, body=bytes(10_000_000))

    with closing(HttpServer("127.0.0.1", 0, handler)) as server:
        client = socket.create_connection(server.server_address[:2], spools.PATIENCE_SECONDS)
        client.sendall(GET)
        wait_for_connections(server, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with a reset
        gone.set()
        deadline = time.monotonic() + spools.PATIENCE_SECONDS
        while server._opened:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [one for one in caplog.records if one.name == http_server.__name__] == []


def wait_for_connections(server: HttpServer, count: int) -> None:
    deadline = time.monotonic() + spools.PATIENCE_SECONDS
    while len(server._opened) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_connection_that_lasts_too_long_is_ended() -> None:
    with closing(echo(seconds=0.0)) as server, closing(connect(server)) as slow:
        assert slow.recv(1) == b""


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", b"400"),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    ],
    ids=[
        "long line",
        "many headers",
        "long header",
        "no request",
        "bytes",
        "bad host",
        "bad target",
    ],
)
def test_what_is_no_fair_request_is_refused(
    bounded: HttpServer, asked: bytes, status: bytes
) -> None:
    with closing(
        socket.create_connection(bounded.server_address[:2], timeout=spools.PATIENCE_SECONDS)
    ) as one:
        with suppress(ConnectionError):  # it is refused before all of it is read
            one.sendall(asked)
        assert one.recv(100).split()[1] == status


def test_a_body_is_read_up_to_the_limit() -> None:
    with closing(echo(body_bytes=4)) as server:
        got = answer(server, POST + b"Content-Length: 4\r\n\r\nbody")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.endswith(b"\r\n\r\n/herebody")
        got = answer(server, POST + b"Content-Length: 5\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 413 ")


def test_without_a_limit_for_bodies_no_post_is_allowed(bounded: HttpServer) -> None:
    got = answer(bounded, POST + b"Content-Length: 0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, HEAD\r\n" in got


def test_a_connection_carries_one_request(bounded: HttpServer) -> None:
    got = answer(bounded, GET + GET)
    assert got.count(b"HTTP/1.1 200 ") == 1
    assert b"\r\nConnection: close\r\n" in got


def test_a_failure_of_a_handler_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(request: HttpRequest) -> HttpResponse:
        if request.path == "/here":
            raise RuntimeError("broken")
        return HttpResponse(status=200, body=b"well")

    with (
        closing(HttpServer("127.0.0.1", 0, handler)) as server,
        caplog.at_level(logging.ERROR, "shipper"),
    ):
        assert answer(server, GET) == b""
        assert answer(server, GET.replace(b"/here", b"/")).endswith(b"well")
    assert "broken" in caplog.text

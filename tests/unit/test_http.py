"""A post comes back as a whole answer or as one named failure that says whether it was sent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import pytest

from shipper.errors import Unreachable
from shipper.http_client import Answer as HttpAnswer
from shipper.http_client.client import ANSWER_LIMIT, HttpClient
from tests.kit.faulty_receiver import (
    Answer,
    Behaviour,
    Eof,
    FaultyReceiver,
    Garbage,
    HalfAnswer,
    Hang,
    Reset,
    SlowBody,
    redirect,
)

BODY = b'{"workload_uid":"w","metrics":[{"name":"loss","value":1,"step":1}]}'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


@pytest.fixture
def poster() -> HttpClient:
    return HttpClient(user_agent="lens-ship/test", connect_seconds=60.0, read_seconds=60.0)


@pytest.fixture
def hasty() -> HttpClient:
    return HttpClient(user_agent="lens-ship/test", connect_seconds=0.2, read_seconds=0.2)


def metrics(receiver: FaultyReceiver) -> str:
    return receiver.url + "/wandb/metrics"


def failure(poster: HttpClient, url: str) -> Unreachable:
    with pytest.raises(Unreachable) as raised:
        poster.post(url, BODY, {})
    return raised.value


def test_an_answer_is_read_whole_and_its_header_names_are_lower_case(
    receiver: FaultyReceiver, poster: HttpClient
) -> None:
    receiver.then(Answer(status=418, body="short", headers=(("Retry-After", "7"),)))
    answer = poster.post(metrics(receiver), BODY, {})
    assert (answer.status, answer.body) == (418, b"short")
    assert answer.headers["retry-after"] == "7"


def test_what_is_posted_arrives_with_its_headers(
    receiver: FaultyReceiver, poster: HttpClient
) -> None:
    poster.post(metrics(receiver), BODY, {"Lens-Ship-Records": "s/processor/1-1"})
    (seen,) = receiver.seen
    assert seen.raw == BODY
    headers = {name.lower(): value for name, value in seen.headers.items()}
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "lens-ship/test"
    assert headers["lens-ship-records"] == "s/processor/1-1"


def test_a_slow_answer_is_waited_for(receiver: FaultyReceiver, poster: HttpClient) -> None:
    receiver.then(SlowBody(pause=0.01))
    assert b'"code":2000' in poster.post(metrics(receiver), BODY, {}).body.replace(b" ", b"")


def test_a_strangers_endless_page_is_not_read_to_its_end(
    receiver: FaultyReceiver, poster: HttpClient
) -> None:
    receiver.then(Answer(status=200, body=b"x" * (2 * ANSWER_LIMIT)))
    assert len(poster.post(metrics(receiver), BODY, {}).body) == ANSWER_LIMIT
    assert poster.post(metrics(receiver), BODY, {}).status == 200


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Reset(), "connection-lost"),
        (Reset(processed=True), "connection-lost"),
        (Eof(), "connection-lost"),
        (Eof(processed=True), "connection-lost"),
        (HalfAnswer(), "connection-lost"),
        (Garbage(), "connection-lost"),
    ],
)
def test_an_exchange_that_breaks_off_may_have_been_processed(
    receiver: FaultyReceiver, poster: HttpClient, behaviour: Behaviour, reason: str
) -> None:
    receiver.then(behaviour)
    lost = failure(poster, metrics(receiver))
    assert (lost.reason, lost.sent) == (reason, True)
    assert f"127.0.0.1:{receiver.port}" in lost.detail
    assert len(receiver.seen) == 1
    assert poster.post(metrics(receiver), BODY, {}).status == 200


@pytest.mark.parametrize("behaviour", [Hang(), SlowBody(pause=30.0)])
def test_an_answer_that_does_not_come_is_a_timeout_after_sending(
    receiver: FaultyReceiver, hasty: HttpClient, behaviour: Behaviour
) -> None:
    receiver.then(behaviour)
    late = failure(hasty, metrics(receiver))
    assert (late.reason, late.sent) == ("timeout", True)


def test_nobody_listening_is_a_refusal_before_sending(poster: HttpClient) -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        refused = failure(poster, f"http://127.0.0.1:{port}/v1")
    assert (refused.reason, refused.sent) == ("refused", False)
    assert "refused" in refused.detail


def test_a_host_that_does_not_take_the_connection_is_a_timeout_before_sending(
    hasty: HttpClient,
) -> None:
    with ExitStack() as stack:
        full = stack.enter_context(closing(socket.socket()))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the queue of a socket that nobody accepts from
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        late = failure(hasty, f"http://127.0.0.1:{full.getsockname()[1]}/v1")
    assert (late.reason, late.sent) == ("connect-timeout", False)


def test_a_name_that_does_not_resolve_is_known_before_sending(
    poster: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    unknown = failure(poster, "http://processor.invalid/v1")
    assert (unknown.reason, unknown.sent) == ("no-connection", False)
    assert "onnection" not in unknown.detail  # no object of a library is named
    assert "processor.invalid" in unknown.detail


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "host:8989/v1", "http://", "/v1", "http://host:99999999/v1", "x"]
)
def test_a_url_that_is_none_is_known_before_sending(poster: HttpClient, url: str) -> None:
    bad = failure(poster, url)
    assert (bad.reason, bad.sent) == ("bad-url", False)
    assert url in bad.detail


@pytest.mark.parametrize("value", ["secret\nx", "secret☃"])
def test_a_header_that_cannot_be_sent_is_a_failure_and_not_shown(
    receiver: FaultyReceiver, poster: HttpClient, value: str
) -> None:
    with pytest.raises(Unreachable) as caught:
        poster.post(metrics(receiver), b"", {"Authorization": value})
    assert (caught.value.reason, caught.value.sent) == ("bad-header", False)
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "\u00f6" * 70, "[::1", "a b"])
def test_an_impossible_host_name_is_a_failure_like_any_other(poster: HttpClient, host: str) -> None:
    failure(poster, f"http://{host}/v1")


def test_a_server_without_encryption_is_not_sent_anything_in_the_clear(
    receiver: FaultyReceiver, poster: HttpClient
) -> None:
    plain = failure(poster, metrics(receiver).replace("http:", "https:"))
    assert (plain.reason, plain.sent) == ("tls", False)
    assert receiver.seen == []


def test_a_redirect_is_an_answer_and_is_not_followed(
    receiver: FaultyReceiver, poster: HttpClient
) -> None:
    receiver.then(redirect(metrics(receiver)))
    answer = poster.post(metrics(receiver) + "/", BODY, {})
    assert answer.status == 307
    assert answer.headers["location"] == metrics(receiver)
    assert len(receiver.seen) == 1


def test_no_password_is_taken_from_a_netrc(
    receiver: FaultyReceiver,
    poster: HttpClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("machine 127.0.0.1 login me password secret\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    poster.post(metrics(receiver), BODY, {})
    assert "authorization" not in {name.lower() for name in receiver.seen[0].headers}


class Raw:
    """Plays one script of bytes and pauses for each connection, whatever is asked."""

    def __init__(self, *scripts: Sequence[bytes | float], reads: bool = True) -> None:
        self._scripts = list(scripts)
        self._reads = reads
        self.connections = 0
        self._left = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open = [self._socket]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> Raw:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for one in list(self._open):  # wakes the thread; closed, its number could be another's
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in self._open:
            one.close()

    def _serve(self) -> None:
        for script in self._scripts:
            with suppress(OSError):
                connection, _ = self._socket.accept()
                self._open.append(connection)
                self.connections += 1
                while self._reads and not self._left.is_set() and connection.recv(65536):
                    self._play(connection, script)
                if not self._reads:
                    self._left.wait()
                connection.shutdown(socket.SHUT_RDWR)

    def _play(self, connection: socket.socket, script: Sequence[bytes | float]) -> None:
        for act in script:
            if isinstance(act, float):
                self._left.wait(act)
            else:
                connection.sendall(act)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
DRIPPING = {
    "head": [b"HTTP/1.1 200 OK\r\nX: ", *[one for _ in range(600) for one in (b"x", 0.1)]],
    "body": [
        b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n",
        *[one for _ in range(600) for one in (b"x", 0.1)],
    ],
    "interim": [one for _ in range(600) for one in (b"HTTP/1.1 102 Processing\r\n\r\n", 0.1)],
    "chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[one for _ in range(600) for one in (b"1\r\nx\r\n", 0.1)],
    ],
}


@pytest.mark.promise("G15")
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("part", DRIPPING)
def test_an_answer_that_drips_ends_at_the_deadline_of_the_whole_exchange(
    part: str, method: str
) -> None:
    hasty = HttpClient(user_agent="lens-ship/test", connect_seconds=10.0, read_seconds=0.5)
    ask = hasty.get if method == "GET" else partial(hasty.post, body=b"", headers={})
    begun = time.monotonic()
    with Raw(DRIPPING[part]) as raw, pytest.raises(Unreachable) as raised:
        ask(raw.url)
    assert (raised.value.reason, raised.value.sent) == ("timeout", True)
    assert time.monotonic() - begun >= 0.5


def test_a_receiver_that_does_not_read_ends_at_the_deadline(hasty: HttpClient) -> None:
    with Raw([], reads=False) as raw, pytest.raises(Unreachable) as raised:
        hasty.post(raw.url, b"x" * 32 * 1024 * 1024, {})
    assert (raised.value.reason, raised.value.sent) == ("timeout", True)


@pytest.mark.parametrize("interim", [100, 102, 103])
def test_an_interim_answer_is_not_the_final_one(poster: HttpClient, interim: int) -> None:
    early = f"HTTP/1.1 {interim} Early\r\nLink: </style.css>\r\n\r\n".encode()
    with Raw([early, early, OK]) as raw:
        for _ in range(2):
            assert poster.post(raw.url, b"", {}) == HttpAnswer(
                status=200, headers={"content-length": "2"}, body=b"{}"
            )
        assert raw.connections == 1


@pytest.mark.promise("G4")
@pytest.mark.parametrize("status", [404, 429, 503, 307, 400])
def test_a_connection_that_refuses_is_left_for_another_one(poster: HttpClient, status: int) -> None:
    """As a balancer of connections spreads them: the next one may reach a replica that is well."""
    bad = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    with Raw([bad], [OK]) as raw:
        assert [poster.post(raw.url, b"", {}).status for _ in range(3)] == [status, 200, 200]


def test_one_thread_keeps_one_connection(poster: HttpClient) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        counted: list[int] = []

        def serve() -> None:
            connection, _ = server.accept()
            with closing(connection):
                for number in range(3):
                    connection.recv(65536)
                    counted.append(number)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        # The server accepts once, so a second connection would never be answered.
        assert [poster.post(url, b"", {}).body for _ in range(3)] == [b"{}"] * 3
        serving.join()
        assert counted == [0, 1, 2]


NGINX = b"""<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r
<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.25</center>\r\n</body></html>"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "502"),
        (b"502 Bad Gateway", "502 Bad Gateway"),
        (b"5020 rows\nare  too many\n", "502 5020 rows are too many"),
        (b'{"error": "a < b"}', '502 {"error": "a < b"}'),
        (NGINX, "502 Bad Gateway nginx/1.25"),
        (
            b"<!DOCTYPE html><style>p {color: red}</style><p class='a'>No way<br>here",
            "502 No way here",
        ),
        (b"<html><head><style>" + b"x" * 5000, "502"),
        (b"\xff\x00" * 4, "502 " + "\ufffd\x00" * 4),
        (b"long " * 999, ("502 " + "long " * 50).rstrip()),
    ],
)
def test_what_an_answer_says_is_one_line_of_text(body: bytes, said: str) -> None:
    shown = HttpAnswer(status=502, headers={}, body=body).said()
    assert shown == said

"""The receiver speaks HTTP as the telemetry-processor does, and comes and goes when told to."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.kit.plain_client import Client, metric
from tests.kit.ports import reserved_port
from tests.kit.processor import Receiver, queries
from tests.kit.processor.errors import CannotListen, StoreFailed
from tests.kit.processor.server import serve
from tests.kit.spools import PATIENCE_SECONDS

BAD_FORMAT = "invalid request format"
TOO_LONG = "w" * 257


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(path=tmp_path / "received.db", port=reserved_port()) as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    client = Client(receiver.port)
    with closing(client.connection):
        yield client


# --- transport and envelope


def test_success_is_200_and_code_2000_in_an_envelope(client: Client) -> None:
    got = client.metrics(metric())
    assert (got.status, got.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert got.json == {
        "meta": {"code": 2000, "message": "OK"},
        "data": {
            "message": "metrics reported successfully",
            "count": 1,
            "workloads_count": 1,
            "success_count": 1,
        },
        "tracing": None,
    }


def test_a_400_repeats_its_status_and_has_null_data(client: Client) -> None:
    got = client.ask("POST", "/v1/wandb/metrics", b"{")
    assert got.status == 400
    assert got.json == {
        "meta": {"code": 400, "message": BAD_FORMAT},
        "data": None,
        "tracing": None,
    }


def test_a_500_repeats_its_status_and_has_an_empty_object(client: Client) -> None:
    got = client.metrics(metric(), workload_uid=TOO_LONG)
    assert got.status == 500
    assert got.json == {
        "meta": {"code": 500, "message": "failed to process metrics"},
        "data": {},
        "tracing": None,
    }


NOT_FOUND = {
    "another prefix": ("POST", "/api/v1/wandb/metrics"),
    "no prefix": ("POST", "/wandb/metrics"),
    "capitals": ("POST", "/v1/wandb/Metrics"),
    "doubled slash": ("POST", "/v1//wandb/metrics"),
    "doubled slash in front": ("POST", "//v1/wandb/metrics"),
    "unknown part": ("POST", "/v1/wandb/traces"),
    "only the prefix": ("GET", "/v1"),
    "GET of a POST route": ("GET", "/v1/wandb/metrics"),
    "PUT": ("PUT", "/v1/wandb/metrics"),
    "PATCH": ("PATCH", "/v1/wandb/metrics"),
    "DELETE": ("DELETE", "/v1/wandb/metrics"),
    "OPTIONS": ("OPTIONS", "/v1/wandb/metrics"),
    "an invented method": ("BREW", "/v1/wandb/metrics"),
    "POST of a GET route": ("POST", "/v1/pods/workload/cache"),
    "a workload without a name": ("GET", "/v1/workloads//rows"),
}


@pytest.mark.parametrize(("method", "path"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_other_paths_and_methods_are_a_plain_404(client: Client, method: str, path: str) -> None:
    got = client.ask(method, path)
    assert (got.status, got.body) == (404, b"404 page not found")
    assert got.headers["content-type"].startswith("text/plain")
    assert "access-control-allow-origin" not in got.headers


def test_a_trailing_slash_is_a_307_and_nothing_is_stored(client: Client) -> None:
    got = client.ask("POST", "/v1/wandb/metrics/?a=b", json.dumps({"workload_uid": "w"}))
    assert (got.status, got.headers["location"]) == (307, "/v1/wandb/metrics?a=b")
    assert client.get("/workloads") == []


def test_query_strings_and_percent_escapes_play_no_part(client: Client) -> None:
    body = json.dumps({"workload_uid": "w", "metrics": [metric()]})
    assert client.ask("POST", "/v1/wandb/metrics?dry=1", body).status == 200
    assert client.ask("POST", "/v1/wandb/%6detrics", body).status == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content_Type": "text/plain"}, {"Content_Encoding": "gzip"}],
    ids=["none", "text", "plain JSON labelled gzip"],
)
def test_content_type_and_encoding_are_not_looked_at(
    client: Client, headers: dict[str, str]
) -> None:
    body = json.dumps({"workload_uid": "w", "metrics": [metric()]})
    assert client.ask("POST", "/v1/wandb/metrics", body, **headers).status == 200


def test_a_gzip_body_is_refused(client: Client) -> None:
    body = gzip.compress(b'{"workload_uid":"w"}')
    got = client.ask("POST", "/v1/wandb/metrics", body, Content_Encoding="gzip")
    assert (got.status, got.meta) == (400, (400, BAD_FORMAT))


def test_a_chunked_body_is_read(client: Client) -> None:
    pieces = [b'{"workload_uid":"w",', b'"metrics":[{"name":"loss","value":2}]}']
    client.connection.request(
        "POST",
        "/v1/wandb/metrics",
        body=iter(pieces),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    answer = client.connection.getresponse()
    assert (answer.status, json.loads(answer.read())["data"]["count"]) == (200, 1)
    assert client.document()["loss"] == 2.0


def test_the_connection_is_kept_after_refusals(client: Client) -> None:
    client.ask("POST", "/v1/wandb/metrics", b"{")
    first = client.connection.sock
    client.ask("POST", "/v1/nowhere", b"{}")
    client.metrics(metric())
    assert first is not None
    assert client.connection.sock is first


def connected(receiver: Receiver) -> socket.socket:
    return socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE_SECONDS)


def raw(receiver: Receiver, *pieces: bytes) -> bytes:
    """Send bytes as they are, and return everything until the connection ends."""
    with connected(receiver) as connection:
        for piece in pieces:
            connection.sendall(piece)
        with suppress(OSError):  # the other side may have torn the connection down by now
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


POST = b"POST /v1/wandb/metrics HTTP/1.1\r\nHost: x\r\n"


def test_without_a_length_the_body_is_empty_and_that_is_400(receiver: Receiver) -> None:
    answer = raw(receiver, POST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert BAD_FORMAT.encode() in answer


def test_head_is_a_404_without_a_body(receiver: Receiver) -> None:
    answer = raw(receiver, b"HEAD /v1/wandb/metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\n")


def test_expect_100_continue_is_answered_before_the_body(receiver: Receiver) -> None:
    body = b'{"workload_uid":"w"}'
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connected(receiver) as connection:
        connection.sendall(head)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


BROKEN = {
    "not HTTP": (b"\x00\xff\x13\x37\r\n\r\n", b"400"),
    "a length that is no number": (POST + b"Content-Length: ten\r\n\r\n", b"400"),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", b"400"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", b"400"),
    "an unknown transfer encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", b"400"),
    "an endless request line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
    "an endless header": (POST + b"X: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
    "too many headers": (POST + b"X: y\r\n" * 200 + b"\r\n", b"431"),
    "a chunk size that is no number": (
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"400",
    ),
    "a body shorter than its length": (POST + b"Content-Length: 99999999\r\n\r\n{", b"400"),
    "a length that fills no memory": (POST + b"Content-Length: 9999999999999\r\n\r\n{", b"400"),
}


@pytest.mark.parametrize(("sent", "status"), BROKEN.values(), ids=BROKEN)
def test_broken_requests_are_refused_and_the_receiver_goes_on(
    receiver: Receiver, client: Client, sent: bytes, status: bytes
) -> None:
    try:
        answer = raw(receiver, sent)
    except ConnectionError:
        answer = b""  # it answered and closed while the rest was still on its way
    if answer:
        assert answer.startswith(b"HTTP/1.1 %s " % status)
        assert b"\r\nConnection: close\r\n" in answer
    assert client.metrics(metric()).status == 200


def test_an_answer_leaves_in_one_piece(receiver: Receiver) -> None:
    body = b'{"workload_uid":"w"}'
    with connected(receiver) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head, _, rest = connection.recv(65536).partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(rest) == length > 0


# --- life of the receiver


def test_a_stopped_receiver_is_away_and_comes_back_with_its_rows(
    receiver: Receiver, client: Client
) -> None:
    client.metrics(metric())
    port = receiver.port
    receiver.stop()
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        client.metrics(metric(step=1))
    client.connection.close()
    with pytest.raises(ConnectionRefusedError):
        client.metrics(metric(step=1))
    client.connection.close()
    assert len(queries.rows(receiver.store, "w")) == 1
    receiver.start()
    assert receiver.port == port
    client.metrics(metric(step=2))
    assert [row["iteration"] for row in client.rows()] == [0, 2]


def test_starting_and_stopping_twice_is_harmless(tmp_path: Path) -> None:
    receiver = Receiver(path=tmp_path / "received.db")
    receiver.stop()
    receiver.start()
    first = receiver.port
    receiver.start()
    assert receiver.port == first
    receiver.stop()
    receiver.stop()


@pytest.mark.parametrize(
    ("prefix", "base"), [("/v1", "/v1"), ("api/v1/", "/api/v1"), ("", ""), ("/", "")]
)
def test_the_prefix_is_free(tmp_path: Path, prefix: str, base: str) -> None:
    with Receiver(path=tmp_path / "received.db", prefix=prefix) as receiver:
        client = Client(receiver.port)
        with closing(client.connection):
            assert receiver.url == f"http://127.0.0.1:{receiver.port}{base}"
            got = client.ask("POST", f"{base}/wandb/metrics", b'{"workload_uid":"w"}')
            assert got.status == 200
            assert client.ask("GET", "/").status == 200


class Interrupted(threading.Event):
    """An event whose wait is interrupted from the terminal."""

    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


def test_serve_runs_until_it_is_told_or_interrupted(tmp_path: Path) -> None:
    told = threading.Event()
    port = reserved_port()

    def ready(receiver: Receiver) -> None:
        client = Client(receiver.port)
        with closing(client.connection):
            assert client.ask("GET", "/").status == 200
        told.set()

    for until in (told, Interrupted()):
        serve("127.0.0.1", port, tmp_path / "received.db", ready=ready, until=until)
        assert told.is_set()
        told.clear()
        with pytest.raises(ConnectionRefusedError):
            Client(port).ask("GET", "/")


def test_a_taken_port_is_named_with_the_way_out(receiver: Receiver, tmp_path: Path) -> None:
    second = Receiver(path=tmp_path / "second.db", port=receiver.port)
    with pytest.raises(CannotListen, match=f":{receiver.port}: .*choose a free port"):
        second.start()


OPENING: dict[str, Callable[[Path], Path]] = {
    "a directory that is not there": lambda tmp: tmp / "missing" / "received.db",
    "a file that is no database": lambda tmp: tmp / "text.db",
}


@pytest.mark.parametrize("place", OPENING.values(), ids=OPENING)
def test_a_store_that_cannot_be_opened_is_named_with_the_way_out(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    (tmp_path / "text.db").write_text("this is no database" * 100)
    path = place(tmp_path)
    with pytest.raises(StoreFailed, match=rf"{path}.*give another path"):
        Receiver(path=path).start()


def test_a_store_that_fails_is_a_500_and_the_receiver_goes_on(
    receiver: Receiver, client: Client
) -> None:
    with closing(sqlite3.connect(receiver.store.path)) as other:
        other.execute("ALTER TABLE training_performance RENAME TO elsewhere")
        assert client.metrics(metric()).meta == (500, "failed to process metrics")
        assert client.ask("GET", "/v1/workloads").status == 500
        other.execute("ALTER TABLE elsewhere RENAME TO training_performance")
    assert client.metrics(metric()).status == 200


def test_many_connections_are_stored_one_after_another(receiver: Receiver) -> None:
    def ship(step: int) -> int:
        client = Client(receiver.port)
        with closing(client.connection):
            return client.metrics(metric(step=step % 4)).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ship, range(32))) == {200}
    found = queries.rows(receiver.store, "w")
    assert [len(row["performance"]["history"]) for row in found] == [7, 7, 7, 7]

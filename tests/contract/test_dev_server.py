"""`lens-ship dev-server`: what it stores, shows and rejects, and that it survives bad clients."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.kit import shipping, spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.plain_client import Client, Got
from tests.kit.shipping import spool, step


class Server:
    """A dev server as a process of its own; `ask` uses a new connection each time."""

    def __init__(self, data: Path, *more: str) -> None:
        self.process: subprocess.Popen[str] = start_lens_ship(
            "dev-server", "--listen", "127.0.0.1:0", "--data", str(data), *more
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)(\S*)\. ", said)
        assert found is not None, said
        self.port, self.prefix = int(found[1]), found[2]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Got:
        client = Client(self.port)
        with closing(client.connection):
            return client.ask(method, path, body, **headers)

    def post(self, part: str, **fields: Any) -> Got:
        return self.ask("POST", f"{self.prefix}/wandb/{part}", json.dumps(fields))

    def show(self, path: str) -> Any:
        got = self.ask("GET", self.prefix + path)
        assert got.status == 200
        return got.json

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_without_a_file_it_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = start_lens_ship("dev-server", "--listen", "127.0.0.1:0", TMPDIR=str(tmp_path))
    assert server.stderr is not None
    assert str(tmp_path) in server.stderr.readline()
    server.terminate()
    server.communicate(timeout=spools.PATIENCE_SECONDS)
    assert server.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "telemetry.sqlite")
    yield running
    running.end()


def point(step: int, value: float, name: str = "loss") -> dict[str, Any]:
    return {"name": name, "value": value, "step": step, "timestamp": 1.5}


def test_metrics_and_logs_become_the_steps_of_a_workload(server: Server) -> None:
    got = server.post(
        "metrics", workload_uid="w", run_id="r", metrics=[point(3, 0.5), point(3, 1e300, "acc")]
    )
    assert got.meta == (2000, "OK")
    assert (got.data["count"], got.data["workloads_count"], got.data["success_count"]) == (2, 1, 1)
    entry = {"step": 4, "timestamp": 2, "data": {"text": "ü", "n": [1, None]}}
    assert server.post("logs", workload_uid="w", run_id="r", logs=[entry]).data["count"] == 1
    assert server.show("/workloads/w/rows") == [
        {"step": 3, "run_id": "r", "timestamp": 1.5, "data": {"loss": 0.5, "acc": 1e300}},
        {"step": 4, "run_id": "r", "timestamp": 2.0, "data": {"text": "ü", "n": [1, None]}},
    ]
    assert server.show("/workloads") == [
        {"workload_uid": "w", "steps": 2, "first_step": 3, "last_step": 4, "runs": 1}
    ]


def test_the_last_arrival_of_a_name_counts(server: Server) -> None:
    server.post("metrics", workload_uid="w", metrics=[point(1, 1.0), point(1, 5.0, "acc")])
    server.post("metrics", workload_uid="w", metrics=[point(1, 2.0)])
    (row,) = server.show("/workloads/w/rows")
    assert row["data"] == {"loss": 2.0, "acc": 5.0}


def test_a_detection_and_every_part_of_a_batch_are_stored(server: Server) -> None:
    server.post("detection", workload_uid="w", evidence={"a": 1})
    got = server.post(
        "batch",
        detection={"workload_uid": "v"},
        metrics={"workload_uid": "v", "metrics": [point(1, 1.0)]},
        logs=None,
    )
    assert (got.status, len(got.data["results"])) == (200, 2)
    found = server.show("/detections")
    assert [one["workload_uid"] for one in found] == ["w", "v"]
    assert found[0]["document"] == {"workload_uid": "w", "evidence": {"a": 1}}
    assert len(server.show("/workloads/v/rows")) == 1


def test_without_a_workload_the_pod_counts_and_without_both_it_is_rejected(server: Server) -> None:
    assert server.post("metrics", pod_name="p", metrics=[point(1, 1.0)]).status == 200
    assert [one["workload_uid"] for one in server.show("/workloads")] == ["p"]
    got = server.post("metrics", metrics=[])
    assert got.meta == (400, "either workload_uid or pod_name is required")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"workload_uid":"w"}',
        b'{"workload_uid":1,"metrics":[]}',
        b'{"workload_uid":"\\ud800","metrics":[]}',
        b'{"workload_uid":"w","metrics":[{"name":"a","step":"x","value":1,"timestamp":1}]}',
        b'{"workload_uid":"w","metrics":[{"name":"a","step":1e99,"value":1,"timestamp":1}]}',
        b'{"workload_uid":"w","metrics":[{"name":"a","step":1,"value":NaN,"timestamp":1}]}',
        b'{"workload_uid":"w","metrics":[{"name":"a","step":1,"value":1e999,"timestamp":1}]}',
        b'{"workload_uid":"w","metrics":[{"name":[],"step":1,"value":1,"timestamp":1}]}',
    ],
)
def test_a_malformed_body_is_rejected_whole_and_kept_in_the_list(
    server: Server, body: bytes
) -> None:
    got = server.ask("POST", "/v1/wandb/metrics", body)
    assert got.json == {
        "meta": {"code": 400, "message": "invalid request format"},
        "data": None,
        "tracing": None,
    }
    assert server.show("/workloads") == []
    (request,) = server.show("/requests")
    assert (request["status"], request["body_bytes"]) == (400, len(body))
    assert request["error"]


def test_every_post_is_listed_with_the_records_it_brought(server: Server) -> None:
    body = json.dumps({"workload_uid": "w", "run_id": "r", "metrics": [point(1, 1.0)]})
    server.ask("POST", "/v1/wandb/metrics", body, Lens_Ship_Records="s/processor/3-9")
    server.ask("POST", "/v1/nowhere", b"{}")
    accepted, unknown = server.show("/requests")
    assert isinstance(accepted.pop("received_at"), float)
    assert accepted == {
        "id": 1,
        "path": "/v1/wandb/metrics",
        "status": 200,
        "workload_uid": "w",
        "run_id": "r",
        "items": 1,
        "body_bytes": len(body),
        "lens_ship_records": "s/processor/3-9",
        "error": "",
    }
    assert (unknown["status"], unknown["error"]) == (404, "unknown path")


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/wandb/metrics", "/api/v1/workloads", "/v1/wandb/metrics", "/v1//x"]
)
def test_other_paths_are_not_found(server: Server, path: str) -> None:
    assert server.ask("GET", path).status == 404


def test_the_start_page_shows_counts(server: Server) -> None:
    server.post("metrics", workload_uid="w", metrics=[point(n, 1.0) for n in range(5, 8)])
    server.post("metrics", metrics=[])
    text = server.ask("GET", "/").body.decode()
    assert "Not for production" in text
    assert "Requests: 2, rejected: 1\n" in text
    assert "Workload w: steps 5 to 7 (3 in total), runs: 1\n" in text


@pytest.mark.parametrize(("prefix", "base"), [("api/v1/", "/api/v1"), ("", ""), ("/", "")])
def test_the_prefix_can_be_chosen(tmp_path: Path, prefix: str, base: str) -> None:
    running = Server(tmp_path / "telemetry.sqlite", "--prefix", prefix)
    try:
        assert running.prefix == base
        assert running.post("metrics", workload_uid="w", metrics=[]).status == 200
        assert running.show("/workloads") == []
        assert running.ask("GET", "/").status == 200
    finally:
        running.end()


def test_what_was_answered_survives_sigkill(tmp_path: Path) -> None:
    first = Server(tmp_path / "telemetry.sqlite")
    first.post("metrics", workload_uid="w", metrics=[point(1, 1.0)])
    first.end()
    second = Server(tmp_path / "telemetry.sqlite")
    try:
        assert len(second.show("/workloads/w/rows")) == 1
    finally:
        second.end()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"POST /v1/wandb/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"411"),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"411",
        ),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 99, b"413"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"400"),
        (b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n", b"403"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_a_bad_request_is_rejected_and_the_server_goes_on(
    server: Server, asked: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), spools.PATIENCE_SECONDS) as one:
        one.sendall(asked if asked.endswith((b"\r\n\r\n", b"{")) else asked + b"\r\n\r\n")
        one.shutdown(socket.SHUT_WR)
        assert one.recv(100).split()[1] == status
    assert server.post("metrics", workload_uid="w", metrics=[]).status == 200


def test_other_methods_are_not_allowed(server: Server) -> None:
    got = server.ask("DELETE", "/v1/workloads")
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD, POST")


def test_the_service_delivers_to_it(server: Server, tmp_path: Path) -> None:
    who = spools.identity(workload_uid="w", rank=0, pid=1)
    spool(tmp_path / "spool", [step(n, loss=n / 2) for n in range(50)], who=who)
    done = lens_ship(
        *("run", "--once", "--processor-url", server.url),
        *("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")),
    )
    assert done.code == 0, done.err
    rows = server.show("/workloads/w/rows")
    assert [(row["step"], row["data"]["loss"]) for row in rows] == [(n, n / 2) for n in range(50)]
    assert rows[0]["timestamp"] >= shipping.T0


def test_a_file_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    done = lens_ship("dev-server", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "text"))
    assert done.code == 2
    assert f"{tmp_path / 'text'}: file is not a database. Check that" in done.err


def test_an_address_in_use_is_named(server: Server, tmp_path: Path) -> None:
    listen = f"127.0.0.1:{server.port}"
    done = lens_ship("dev-server", "--listen", listen, "--data", str(tmp_path / "other.sqlite"))
    assert done.code == 2
    assert re.search(rf"{listen}: .*Address already in use", done.err)

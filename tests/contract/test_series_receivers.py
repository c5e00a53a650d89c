"""Series at real receivers: what they return is what was logged."""

from __future__ import annotations

import gzip
import json
import math
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from shipper import protobuf
from shipper.config.load import load
from shipper.config.schema import Config
from shipper.delivery import backoff
from shipper.importers import open_imports
from shipper.ledger.ledger import Ledger
from shipper.service import Service, ship_once
from shipper.sinks import build_sinks, enabled_sinks, table_problems
from shipper.steps import collect_steps
from spooler.records import REGISTRY, report
from tests.kit import spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.engines import (
    Engine,
    Found,
    Prometheus,
    Rotel,
    VictoriaMetrics,
    needs_prometheus,
    needs_prometheus_otlp,
    needs_rotel,
    needs_victoria,
)
from tests.kit.master import wait_for
from tests.kit.running import failing, ship_until
from tests.kit.shipping import Record, finish, goodbye, spool

NAMES = {
    "loss": 0.5,
    "train/loss": -1.25,
    "lm loss": 2.0,
    "train.loss": 3.0,
    "步": 4.0,
    "step": 9.0,
}
PAIRS = [
    pytest.param(VictoriaMetrics, "otlp", "/opentelemetry", marks=needs_victoria),
    pytest.param(VictoriaMetrics, "prometheus", "/api/v1/write", marks=needs_victoria),
    pytest.param(Prometheus, "prometheus", "/api/v1/write", marks=needs_prometheus),
    pytest.param(Prometheus, "otlp", "/api/v1/otlp", marks=needs_prometheus_otlp),
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started: list[Engine] = []

    def begin(make: type[Engine], *more: str, **options: Any) -> Any:
        engine = make(folder=tmp_path / f"engine-{len(started)}", **options)
        started.append(engine)
        engine.start(*more)
        return engine

    yield begin
    for engine in started:
        engine.kill()


def logged(number: int, when: float, run: str = "r") -> Record:
    data = {name: value + number for name, value in NAMES.items()}
    body = {"run": run, "step": number, "time": round(when, 3), "closed": True, "data": data}
    return "step", body


def finished(when: float) -> Record:
    return "finish", {**finish()[1], "time": when}


def settings(folder: Path, kind: str, url: str, *more: str) -> Config:
    file = folder / "lens.toml"
    file.write_text("\n".join([f'[sinks.one]\ntype = "{kind}"\nurl = "{url}"', *more]))
    given = {"spool": folder / "spool", "state": folder / "state", "http_listen": "off"}
    return load(given, {}, file, sends=True, check_sinks=table_problems)


def write(folder: Path, begun: float, count: int = 200, ranks: int = 2, pace: float = 0.05) -> None:
    for rank in range(ranks):
        steps = (logged(number, begun + number * pace) for number in range(count))
        who = spools.identity(spools.spool_id(rank), workload_uid="w", rank=rank)
        end = finished(begun + count * pace)
        spool(folder / "spool", [*steps, end, goodbye()], who=who)


def expected(begun: float, count: int = 200, ranks: int = 2, pace: float = 0.05) -> dict[Any, Any]:
    """Name as logged, and rank -> its points."""
    times = [round(round(begun + number * pace, 3) * 1000) for number in range(count)]
    return {
        (name, str(rank)): [(at, value + number) for number, at in enumerate(times)]
        for name, value in {**NAMES, "": 0.0}.items()
        for rank in range(ranks)
    }


def returned(found: Found) -> dict[Any, Any]:
    """The same of what a receiver has; "" is the step."""
    answer = {}
    for labels, samples in found.items():
        known = dict(labels)
        name = known["__name__"].replace(".", "_")
        if name.endswith("run_status") or "late" in name:
            continue
        own = known.get("lens.name") or known.get("lens_name")
        plain = "" if name == "training_step" else name.removeprefix("training_")
        answer[own or plain, known.get("rank", "")] = sorted(set(samples))
    return answer


def dead(folder: Path) -> dict[str, int]:
    with closing(Ledger(folder / "state", exclusive=False)) as ledger:
        reasons = [row["reason"] for row in ledger.dead_letters()]
    return {reason: reasons.count(reason) for reason in reasons}


@pytest.mark.parametrize(("make", "kind", "path"), PAIRS)
def test_a_receiver_returns_what_was_logged(
    tmp_path: Path, start: Callable[..., Any], make: type[Engine], kind: str, path: str
) -> None:
    engine, begun = start(make), time.time() - 60
    write(tmp_path, begun)
    assert ship_once(settings(tmp_path, kind, engine.url + path), timeout=60) == []
    assert returned(engine.found()) == expected(begun)
    assert all(len(samples) == len(set(samples)) for samples in engine.found().values())


@pytest.mark.promise("G4")
@pytest.mark.parametrize(("make", "kind", "path"), PAIRS)
def test_a_receiver_that_is_killed_has_everything_in_the_end(
    tmp_path: Path, start: Callable[..., Any], make: type[Engine], kind: str, path: str
) -> None:
    engine, begun = start(make), time.time() - 60
    write(tmp_path, begun)
    service = Service(settings(tmp_path, kind, engine.url + path, "batch_max_points = 21"))
    thread = threading.Thread(target=service.run)
    engine.kill()
    thread.start()
    try:
        for _ in range(3):
            engine.start()
            engine.kill(signal.SIGTERM)  # on SIGKILL an engine loses what it has acknowledged
        engine.start()
        wait_for(lambda: returned(engine.found()) == expected(begun), "not everything is there")
    finally:
        service.stop()
        thread.join(60)
    assert dead(tmp_path) == {}


@pytest.mark.promise("G4")
@pytest.mark.parametrize(("make", "kind", "path"), PAIRS)
def test_a_service_that_is_killed_delivers_everything(
    tmp_path: Path, start: Callable[..., Any], make: type[Engine], kind: str, path: str
) -> None:
    engine, begun = start(make), time.time() - 60
    write(tmp_path, begun)
    settings(tmp_path, kind, engine.url + path, "batch_max_points = 21")
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    words = ("run", "--once", "--config", str(tmp_path / "lens.toml"), *places)
    for _ in range(5):
        before = sum(map(len, engine.found().values()))
        process = start_lens_ship(*words, stderr=-3)
        wait_for(
            lambda old=before, one=process: (
                one.poll() is not None or sum(map(len, engine.found().values())) > old
            ),
            "nothing arrives",
        )
        process.kill()
        process.wait(60)
    assert lens_ship(*words).code == 0
    # VictoriaMetrics answers a question that was asked before without the newest series at first.
    wait_for(lambda: returned(engine.found()) == expected(begun), "not everything is there")
    assert dead(tmp_path) == {}


@needs_victoria
def test_a_receiver_that_is_full_is_waited_for(tmp_path: Path, start: Callable[..., Any]) -> None:
    engine, begun = start(VictoriaMetrics), time.time() - 60
    engine.kill(signal.SIGTERM)
    engine.start("-storage.minFreeDiskSpaceBytes=1000TiB")
    write(tmp_path, begun, count=20)
    config = settings(tmp_path, "otlp", f"{engine.url}/opentelemetry")
    left = ship_until(config, failing)
    assert left
    assert dead(tmp_path) == {}
    engine.kill(signal.SIGTERM)
    engine.start()
    assert ship_once(config, timeout=60) == []
    assert returned(engine.found()) == expected(begun, count=20)


@pytest.mark.parametrize(("make", "kind", "path"), PAIRS)
def test_what_a_receiver_lost_is_sent_again(
    tmp_path: Path, start: Callable[..., Any], make: type[Engine], kind: str, path: str
) -> None:
    """VictoriaMetrics acknowledges what it has not written yet."""
    engine, begun = start(make), time.time() - 60
    write(tmp_path, begun, count=50)
    assert ship_once(settings(tmp_path, kind, engine.url + path), timeout=60) == []
    engine.kill()
    engine.start()
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    file = ("--config", str(tmp_path / "lens.toml"))
    done = lens_ship("replay", "--resend-delivered", "--sink", "one", *file, *places)
    assert done.code == 0, done
    assert returned(engine.found()) == expected(begun, count=50)


@needs_victoria
@pytest.mark.parametrize("version", ["0.16.0", "0.31.0"])
def test_a_run_that_wandb_wrote_offline_is_one_command_away(
    tmp_path: Path, start: Callable[..., Any], version: str
) -> None:
    engine = start(VictoriaMetrics)
    run = spools.REPOSITORY / f"tests/golden/wandb-run/run-{version}.wandb"
    sink = ("--sink", f"otlp={engine.url}/opentelemetry")
    done = lens_ship("replay", str(run), *sink, "--state", str(tmp_path / "state"))
    assert done.code == 0, done
    (source,) = open_imports(run)
    steps = collect_steps(source.read(0, 1000).records).complete
    every = [
        (name, float(value))
        for one in steps
        for name, value in one.data.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    found = returned(engine.found())
    own = {key: one for key, one in found.items() if not key[0].endswith("nonfinite")}
    sent = [step for step in steps if any(isinstance(v, int | float) for v in step.data.values())]
    assert [value for _, value in own.pop(("", ""))] == [float(step.step) for step in sent]
    values = sorted((name, value) for (name, _), one in own.items() for _, value in one)
    assert values == [(name, pytest.approx(value, rel=1e-11)) for name, value in sorted(every)]


# --- late data ------------------------------------------------------------------------------------


def fresh(folder: Path, kind: str, url: str) -> None:
    """A point of now, from another node: what lies far before it is late from here on."""
    other = folder / "other"
    other.mkdir()
    who = spools.identity(spools.spool_id(99), workload_uid="other", rank=9)
    spool(other / "spool", [logged(0, time.time()), goodbye()], who=who)
    assert ship_once(settings(other, kind, url), timeout=60) == []


@needs_prometheus
@pytest.mark.parametrize(("window", "arrives"), [("", False), ("24h", True), ("1h", False)])
def test_an_outage_of_hours(
    tmp_path: Path, start: Callable[..., Any], window: str, arrives: bool
) -> None:
    engine = start(Prometheus, window=window)
    url = f"{engine.url}/api/v1/write"
    fresh(tmp_path, "prometheus", url)
    begun = time.time() - 3 * 3600
    write(tmp_path, begun, ranks=1)
    assert ship_once(settings(tmp_path, "prometheus", url), timeout=60) == []
    mine = {key: one for key, one in returned(engine.found()).items() if len(one) > 1}
    assert mine == (expected(begun, ranks=1) if arrives else {})
    assert dead(tmp_path).get("too-old", 0) >= (0 if arrives else 200)
    assert requests_of(engine) < 20, "not two for each record"


def requests_of(engine: Engine) -> int:
    """Requests of remote write that a Prometheus has answered."""
    lines = engine.get("/metrics").decode().splitlines()
    mine = [one for one in lines if one.startswith("prometheus_http_requests_total{")]
    return sum(int(float(one.split()[-1])) for one in mine if '"/api/v1/write"' in one)


@pytest.mark.parametrize(("make", "kind", "path"), PAIRS)
def test_a_record_of_a_clock_that_went_back_takes_no_other_with_it(
    tmp_path: Path, start: Callable[..., Any], make: type[Engine], kind: str, path: str
) -> None:
    engine, begun = start(make), time.time() - 60
    back = 10
    times = [begun + (number - 9.5 if number == back else number) for number in range(20)]
    records = [logged(number, when) for number, when in enumerate(times)]
    who = spools.identity(workload_uid="w", rank=0)
    spool(tmp_path / "spool", [*records, finished(begun + 20), goodbye()], who=who)
    config = settings(tmp_path, kind, engine.url + path, "batch_max_points = 21")
    assert ship_once(config, timeout=60) == []
    steps = [round(value) for _, value in returned(engine.found())["", "0"]]
    everything = set(range(20))
    assert set(steps) == (everything - {back} if make is Prometheus else everything)
    assert dead(tmp_path) == {}


@needs_prometheus
def test_what_is_not_too_late_arrives(tmp_path: Path, start: Callable[..., Any]) -> None:
    engine = start(Prometheus)
    url = f"{engine.url}/api/v1/write"
    fresh(tmp_path, "prometheus", url)
    begun, pace = time.time() - 2 * 3600, 36.0  # 100 steps before the border of an hour
    write(tmp_path, begun, ranks=1, pace=pace)
    assert ship_once(settings(tmp_path, "prometheus", url), timeout=60) == []
    found = returned(engine.found())
    every = expected(begun, ranks=1, pace=pace)
    late = dead(tmp_path)["too-old"]
    assert 95 <= late <= 105
    for key in every:
        assert every[key][-len(found[key]) :] == found[key], key
        assert len(found[key]) >= 200 - late


@needs_prometheus
def test_what_was_too_late_arrives_once_the_window_is_wider(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    engine = start(Prometheus)
    url = f"{engine.url}/api/v1/write"
    fresh(tmp_path, "prometheus", url)
    begun = time.time() - 3 * 3600
    write(tmp_path, begun, count=40, ranks=1)
    assert ship_once(settings(tmp_path, "prometheus", url), timeout=60) == []
    assert dead(tmp_path)["too-old"] >= 40
    engine.kill(signal.SIGTERM)
    engine.window = "24h"
    engine.start()
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    file = ("--config", str(tmp_path / "lens.toml"))
    done = lens_ship("dead-letter", "retry", *file, *places)
    assert done.code == 0, done
    mine = {key: one for key, one in returned(engine.found()).items() if len(one) > 1}
    assert mine == expected(begun, count=40, ranks=1)


@needs_victoria
def test_victoria_metrics_takes_any_order(tmp_path: Path, start: Callable[..., Any]) -> None:
    engine = start(VictoriaMetrics)
    url = f"{engine.url}/opentelemetry"
    fresh(tmp_path, "otlp", url)
    begun = time.time() - 20 * 86400
    write(tmp_path, begun)
    assert ship_once(settings(tmp_path, "otlp", url), timeout=60) == []
    mine = {key: one for key, one in returned(engine.found()).items() if len(one) > 1}
    assert mine == expected(begun)


@needs_prometheus
def test_a_clock_that_is_ahead_stops_no_other_node(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    engine = start(Prometheus)
    url = f"{engine.url}/api/v1/write"
    write(tmp_path, time.time() + 3 * 3600, count=5, ranks=1)
    left = ship_until(settings(tmp_path, "prometheus", url), failing)
    assert any("clock-ahead" in line for line in left)
    assert dead(tmp_path) == {}
    fresh(tmp_path, "prometheus", url)
    assert returned(engine.found())["loss", "9"][0][1] == NAMES["loss"]


@needs_prometheus
@pytest.mark.parametrize("window", ["", "1h"])
def test_a_repetition_changes_nothing(
    tmp_path: Path, start: Callable[..., Any], window: str
) -> None:
    engine, begun = start(Prometheus, window=window), time.time() - 60
    write(tmp_path, begun, count=30)
    config = settings(tmp_path, "prometheus", f"{engine.url}/api/v1/write")
    assert ship_once(config, timeout=60) == []
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    file = ("--config", str(tmp_path / "lens.toml"))
    done = lens_ship("replay", "--resend-delivered", "--sink", "one", *file, *places)
    assert done.code == 0, done
    assert returned(engine.found()) == expected(begun, count=30)
    assert dead(tmp_path) == {}


# --- a collector ----------------------------------------------------------------------------------


class Behind(BaseHTTPRequestHandler):
    """What a collector hands on, decoded."""

    metrics: list[Any]
    logs: list[Any]
    answer = b""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("metrics"):
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        else:
            self.logs.append(ExportLogsServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def behind() -> Iterator[tuple[type[Behind], str]]:
    found = type("Found", (Behind,), {"metrics": [], "logs": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), found)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@needs_rotel
def test_a_collector_hands_on_metrics_and_logs(
    tmp_path: Path, start: Callable[..., Any], behind: tuple[type[Behind], str]
) -> None:
    found, target = behind
    engine, begun = start(Rotel, target=target), time.time() - 60
    lines = {**report.EXAMPLE, "data_content": "one\ntwo\n", "time": begun}
    who = spools.identity(workload_uid="w", rank=0)
    steps = [logged(number, begun + number) for number in range(50)]
    spool(tmp_path / "spool", [*steps, ("report", lines), finished(begun), goodbye()], who=who)
    assert ship_once(settings(tmp_path, "otlp", engine.url, "logs = true"), timeout=60) == []

    def values() -> dict[str, set[tuple[int, float]]]:
        """Of each name, however many requests the collector makes of them."""
        every = defaultdict[str, set[tuple[int, float]]](set)
        for request in found.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in metric.gauge.data_points:
                            own = {pair.key: pair.value.string_value for pair in point.attributes}
                            value = point.as_double or float(point.as_int)
                            at = point.time_unix_nano // 10**6
                            every[metric.name + own.get("lens.name", "")].add((at, value))
        return every

    def bodies() -> list[str]:
        return [
            record.body.string_value
            for request in found.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    some = ("training.loss", "training.lm_losslm loss")
    wait_for(lambda: all(len(values()[name]) >= 50 for name in some), "metrics not handed on")
    wait_for(lambda: len(bodies()) >= 53 and {"one", "two"} <= set(bodies()), "logs not handed on")
    times = [round(round(begun + number, 3) * 1000) for number in range(50)]
    assert values()["training.loss"] == {(at, n + 0.5) for n, at in enumerate(times)}
    assert values()["training.lm_losslm loss"] == {(at, n + 2.0) for n, at in enumerate(times)}


@needs_rotel
def test_a_collector_hands_on_a_log_record_of_every_kind(
    tmp_path: Path, start: Callable[..., Any], behind: tuple[type[Behind], str]
) -> None:
    found, target = behind
    engine = start(Rotel, target=target)
    last = ("gap", "exit")  # no step reports the gap, as none follows
    kinds = [*(kind for kind in REGISTRY if kind not in last), *last]
    spool(tmp_path / "spool", [(one, import_module(REGISTRY[one]).EXAMPLE) for one in kinds])
    assert ship_once(settings(tmp_path, "otlp", engine.url, "logs = true"), timeout=60) == []

    def events() -> set[str]:
        return {
            record.event_name or record.body.string_value
            for request in found.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        }

    told = {f"training.{kind}" for kind in kinds if kind != "report"} | {"step 99 loss 0.31"}
    wait_for(lambda: events() == told, "not handed on")


def test_an_operator_sees_points_that_a_receiver_rejects_in_requests_that_it_takes(
    tmp_path: Path, behind: tuple[type[Behind], str]
) -> None:
    found, target = behind
    found.answer = protobuf.field(1, protobuf.field(1, 2) + protobuf.field(2, b"too many labels"))
    write(tmp_path, time.time() - 60, count=5, ranks=1)
    assert ship_once(settings(tmp_path, "otlp", target), timeout=60) == []
    assert dead(tmp_path) == {}
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    words = ("status", *places, "--config", str(tmp_path / "lens.toml"))
    assert "one: 2 values rejected within requests that were accepted" in lens_ship(*words).out
    (sink,) = json.loads(lens_ship(*words, "--json").out)["sinks"]
    assert (sink["rejected_values"], sink["delivered"]) == (2, 6)


# --- the check ------------------------------------------------------------------------------------


def findings(config: Config) -> list[tuple[str, str]]:
    (sink,) = build_sinks(enabled_sinks(config)).values()
    probe: Any = sink
    return [(one.level, re.sub(r"http://[\d.:]+", "", one.text)) for one in probe.probe(())]


@needs_victoria
def test_the_check_asks_each_signal(tmp_path: Path, start: Callable[..., Any]) -> None:
    engine = start(VictoriaMetrics)
    (good,) = findings(settings(tmp_path, "otlp", f"{engine.url}/opentelemetry"))
    assert good == ("ok", "/opentelemetry/v1/metrics takes metrics")
    both = findings(settings(tmp_path, "otlp", f"{engine.url}/opentelemetry", "logs = true"))
    assert [level for level, _ in both] == ["ok", "fail"]
    assert "unsupported path" in both[1][1]
    (wrong,) = findings(settings(tmp_path, "prometheus", f"{engine.url}/nowhere"))
    assert wrong[0] == "fail"
    engine.kill()
    (gone,) = findings(settings(tmp_path, "otlp", f"{engine.url}/opentelemetry"))
    assert gone[0] == "fail"
    assert "refused" in gone[1]


@needs_prometheus
def test_a_prometheus_that_takes_no_otlp_keeps_everything(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    engine = start(Prometheus)
    write(tmp_path, time.time() - 60, count=5, ranks=1)
    config = settings(tmp_path, "otlp", f"{engine.url}/api/v1/otlp")
    left = ship_until(config, failing)
    assert any("wrong-address" in line and "otlp-receiver" in line for line in left)
    assert dead(tmp_path) == {}

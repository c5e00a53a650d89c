"""The port of a real service: probes, metrics, page; and that nobody hurts shipping through it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.kit import shipping, spools
from tests.kit.browser import browse, needs_chromium
from tests.kit.command import start_lens_ship
from tests.kit.faulty_receiver import Answer, FaultyReceiver
from tests.kit.shipping import spool, step

ROOT = Path(__file__).parents[2]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool here: apt-get install prometheus"
)


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of an answer."""
    request = urllib.request.Request(url, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=spools.PATIENCE_SECONDS) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


class Running:
    """A service with its port open, and a live spool that it ships."""

    def __init__(self, url: str, receiver: FaultyReceiver) -> None:
        self.url = url
        self.receiver = receiver

    def api(self, name: str) -> dict[str, Any]:
        """What the page is given."""
        answered: dict[str, Any] = json.loads(get(f"{self.url}/api/{name}")[1])
        return answered


def start(folder: Path, receiver: FaultyReceiver, listen: str) -> subprocess.Popen[str]:
    return start_lens_ship(
        "run",
        "--processor-url",
        receiver.url,
        "--flush-interval",
        "0.1",
        LENS_SHIP_SPOOL=str(folder / "spool"),
        LENS_SHIP_STATE=str(folder / "state"),
        LENS_SHIP_HTTP_LISTEN=listen,
    )


_DRAINS: dict[int, threading.Thread] = {}


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.pid in _DRAINS:
        _DRAINS.pop(process.pid).join()
    assert process.stderr is not None
    process.stderr.close()


def said(process: subprocess.Popen[str], pattern: str) -> str:
    """The first match in what a service logs; its end, or the patience's, is a failure."""
    assert process.stderr is not None
    patience = threading.Timer(spools.PATIENCE_SECONDS, process.kill)
    patience.start()
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            found = re.search(pattern, line)
            if found:
                # What comes later has nobody to read it; a full pipe would stop the service.
                _DRAINS[process.pid] = threading.Thread(target=process.stderr.read)
                _DRAINS[process.pid].start()
                return found[1]
    finally:
        patience.cancel()
    raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    # Nobody can take the first one.
    records = [step(n, **{"train/loss": 5.0 / (n + 1)}) for n in range(300)]
    who = spools.identity(workload_uid="llama <b>&", rank=0, pid=1)
    _, writer = spool(
        folder / "spool", [step(-1, **{"train/loss": 9.0}), *records], who=who, close=False
    )
    with FaultyReceiver(path=folder / "telemetry.sqlite") as receiver:
        process = start(folder, receiver, "127.0.0.1:0")
        try:
            running = Running(said(process, r"HTTP port opened address=(http://\S+)"), receiver)
            spools.wait_until(lambda: has_told_all(running.api("status")))
            spools.wait_until(lambda: get(f"{running.url}/-/ready")[0] == 200)
            yield running
        finally:
            end(process)
            writer.close()


def has_told_all(told: dict[str, Any]) -> bool:
    """Whether the page has what the service has done with its spool, and a moment of it."""
    # One status has what is pending and what is delivered from two moments, in this order.
    return bool(
        told["status"]
        and (told["sinks"][0]["delivered"], told["sinks"][0]["pending"]) == (300, 0)
        and told["heartbeat"]
        and told["history"]["time"]
    )


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready", "/", "/metrics", "/api/status"])
def test_every_path_answers_get_and_head_and_nothing_else(service: Running, path: str) -> None:
    status, body, headers = get(service.url + path)
    assert (status, bool(body)) == (200, True)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    status, body, headers = get(service.url + path, "HEAD")
    assert (status, body) == (200, "")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, _, headers = get(service.url + path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_other_paths_are_not_found(service: Running) -> None:
    assert get(service.url + "/etc/passwd")[0] == 404
    assert get(service.url + "/../../etc/passwd")[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:9", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_on_the_loopback_only_its_own_names_are_answered(
    service: Running, host: str, status: int
) -> None:
    assert get(service.url + "/api/status", Host=host)[0] == status


def test_the_page_may_run_and_load_only_what_stands_in_it(service: Running) -> None:
    _, body, headers = get(service.url + "/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"(?:src|href)=\"(?!data:|/metrics)", body) == []
    assert "http://" not in body.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in body
    assert " style=" not in body, "the policy would not let it"


def test_the_api_tells_what_status_tells(service: Running) -> None:
    told = service.api("status")
    assert told["status"]["level"] == "action_required"
    assert told["status"]["headline"].startswith("1 dead letter: ")
    sink = told["sinks"][0]
    assert (sink["delivered"], sink["dead_letters"], sink["pending"]) == (300, {"unsendable": 1}, 0)
    assert told["spools"][0]["workload"] == "llama <b>&"
    assert len(told["history"]["time"]) == len(told["history"]["lag"]) > 0


def test_the_curve_is_that_of_the_run(service: Running) -> None:
    (curve,) = service.api("curves")["curves"]
    assert (curve["metric"], curve["run"], curve["rank"]) == ("train/loss", "r", 0)
    points = dict(map(tuple, curve["points"]))
    assert points[-1] == 9.0
    assert all(points[number] == 5.0 / (number + 1) for number in points if number >= 0)
    assert 50 < len(points) <= 160


@needs_chromium
@pytest.mark.parametrize("dark", [True, False])
def test_in_a_browser_the_page_shows_it(service: Running, dark: bool) -> None:
    shown = browse(service.url, f"--blink-settings=preferredColorScheme={int(not dark)}")
    assert ":CONSOLE" not in shown, "no error, and nothing that the policy has stopped"
    assert "1 dead letter: see lens-ship dead-letter list" in shown
    assert "llama &lt;b&gt;&amp;" in shown, "names are text, whatever they hold"
    assert "unsendable" in shown
    assert shown.count('class="curve"') >= 1
    assert "train/loss" in shown
    assert "NaN" not in shown.split("<script>")[0]
    assert "undefined" not in shown.split("<script>")[0]


# --- metrics --------------------------------------------------------------------------------------


@needs_promtool
def test_the_metrics_please_promtool(service: Running) -> None:
    assert PROMTOOL is not None
    scraped = get(service.url + "/metrics")[1]
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=scraped, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def values(scraped: str) -> dict[str, float]:
    pairs = (line.rpartition(" ") for line in scraped.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_the_metrics_tell_what_happened(service: Running) -> None:
    told = values(get(service.url + "/metrics")[1])
    sink = '{sink="processor"}'
    assert told[f"lens_ship_sink_delivered_records_total{sink}"] == 300
    assert told[f"lens_ship_sink_delivered_values_total{sink}"] == 300
    assert told[f"lens_ship_sink_rejected_values_total{sink}"] == 0
    assert told[f"lens_ship_sink_backlog_records{sink}"] == 0
    dead = 'lens_ship_sink_dead_letter_records_total{reason="unsendable",sink="processor"}'
    assert told.get(dead, told.get(_swapped(dead))) == 1
    ended = 'lens_ship_sink_requests_total{outcome="delivered",sink="processor"}'
    assert told.get(ended, told.get(_swapped(ended), 0)) > 0
    requests = [name for name in told if name.startswith("lens_ship_sink_requests_total")]
    # Of any outcome: a busy receiver may have been asked again.
    assert told[f"lens_ship_sink_request_duration_seconds_count{sink}"] == sum(
        told[name] for name in requests if 'sink="processor"' in name
    )
    assert told['lens_ship_spools{state="writing"}'] + told['lens_ship_spools{state="ended"}'] == 1
    assert (
        told[f"lens_ship_sink_highest_delivered_timestamp_seconds{sink}"]
        == told[f"lens_ship_sink_highest_seen_timestamp_seconds{sink}"]
        > shipping.T0
    )


def _swapped(name: str) -> str:
    return re.sub(r'\{(\w+="[^"]*"),(\w+="[^"]*")\}', r"{\2,\1}", name)


def test_no_label_tells_a_job_a_run_or_a_spool(service: Running) -> None:
    scraped = get(service.url + "/metrics")[1]
    labels = set(re.findall(r"[{,](\w+)=", scraped))
    assert labels <= {"sink", "reason", "outcome", "state", "le", "version"}


def names_in(text: str) -> set[str]:
    found = set(re.findall(r"lens_ship_[a-z_]+[a-z]", text))
    return {name for name in found if not name.endswith("lens_ship")}


def scraped_names(service: Running) -> set[str]:
    text = get(service.url + "/metrics")[1]
    kinds = re.findall(r"# TYPE (lens_ship_\S+) (\S+)", text)
    suffixes = {"histogram": ("", "_bucket", "_count", "_sum")}
    return {name + suffix for name, kind in kinds for suffix in suffixes.get(kind, ("",))}


# The setting is off in the service that is scraped here.
ONLY_WITH_A_LIMIT = {"lens_ship_root_limit_bytes"}


@pytest.mark.parametrize(
    "path", ["deploy/grafana/lens-ship.json", "deploy/prometheus/alerts.yaml", "docs/monitoring.md"]
)
def test_every_metric_that_is_named_is_there(service: Running, path: str) -> None:
    named = names_in((ROOT / path).read_text(encoding="utf-8"))
    assert named
    assert named - ONLY_WITH_A_LIMIT <= scraped_names(service)


def test_every_metric_that_is_there_is_documented(service: Running) -> None:
    text = get(service.url + "/metrics")[1]
    there = set(re.findall(r"# TYPE (lens_ship_\S+) ", text))
    assert there <= names_in((ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8"))


@needs_promtool
@pytest.mark.parametrize(
    "words", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")]
)
def test_the_alerts_do_what_they_say(words: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *words],
        cwd=ROOT / "deploy" / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["alerts", "training-alerts"])
def test_every_alert_leads_to_a_heading_and_has_a_test(name: str) -> None:
    rules = (ROOT / "deploy" / "prometheus" / f"{name}.yaml").read_text(encoding="utf-8")
    tests = (ROOT / "deploy" / "prometheus" / f"{name}_test.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == rules.count("runbook:") > 3
    for alert in alerts:
        assert f"runbook: lens-ship docs monitoring#{alert.lower()}\n" in rules
        assert f"\n### {alert}\n" in page
        assert f"alertname: {alert}\n" in tests


@pytest.mark.parametrize("name", ["lens-ship", "lens-ship-training"])
def test_the_dashboard_is_one_that_grafana_takes(name: str) -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / f"{name}.json").read_text("utf-8"))
    assert {"title", "uid", "schemaVersion", "templating", "panels"} <= board.keys()
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        grid = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert grid["x"] + grid["w"] <= 24
        assert not mine & places, "no panel lies on another"
        places |= mine
        assert all(target["expr"] for target in panel["targets"])
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


# --- what cannot hurt -----------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_and_shipping_goes_on(tmp_path: Path) -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver,
    ):
        spool(tmp_path / "spool", [step(1)])
        process = start(tmp_path, receiver, f"127.0.0.1:{taken.getsockname()[1]}")
        try:
            told = said(process, r"(HTTP port not opened.*)")
            assert "Address already in use" in told
            assert "delivery continues" in told
            receiver.wait_for(lambda seen: len(seen) > 0, timeout=spools.PATIENCE_SECONDS)
        finally:
            end(process)


def test_liveness_does_not_depend_on_the_receiver(tmp_path: Path) -> None:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        receiver.otherwise = Answer(status=401)
        spool(tmp_path / "spool", [step(1)])
        process = start(tmp_path, receiver, "127.0.0.1:0")
        try:
            url = said(process, r"HTTP port opened address=(http://\S+)")
            receiver.wait_for(lambda seen: len(seen) > 0, timeout=spools.PATIENCE_SECONDS)
            assert get(url + "/-/healthy")[:2] == (200, "healthy\n")
        finally:
            end(process)


def test_the_page_is_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["spooler", "shipper"]' in text, "hatch takes every file below"
    assert (ROOT / "shipper" / "admin" / "page.html").is_file()

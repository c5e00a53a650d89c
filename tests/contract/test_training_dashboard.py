"""The dashboard and the alerts about training: every query finds what real receivers were sent."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shipper.config.load import load
from shipper.service import ship_once
from shipper.sinks import table_problems
from spooler.records import gap
from tests.kit import spools
from tests.kit.engines import (
    Engine,
    Prometheus,
    VictoriaMetrics,
    needs_prometheus,
    needs_victoria,
)
from tests.kit.shipping import Record, goodbye, killed, spool

DEPLOY = spools.REPOSITORY / "deploy"
BOARD = json.loads((DEPLOY / "grafana/lens-ship-training.json").read_text("utf-8"))
EXPRESSIONS = {
    panel["title"]: target["expr"] for panel in BOARD["panels"] for target in panel["targets"]
}
RULES = yaml.safe_load((DEPLOY / "prometheus/training-alerts.yaml").read_text("utf-8"))
NAMED = "-opentelemetry.usePrometheusNaming"
VICTORIA = (VictoriaMetrics, "otlp", "/opentelemetry")
WRITE = (Prometheus, "prometheus", "/api/v1/write")
RECEIVERS = [
    pytest.param((*VICTORIA, ()), marks=needs_victoria, id="names of OTLP"),
    pytest.param((*VICTORIA, (NAMED,)), marks=needs_victoria, id="names of Prometheus"),
    pytest.param((*WRITE, ()), marks=needs_prometheus, id="remote write"),
]


@pytest.fixture(scope="module", params=RECEIVERS)
def receiver(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One that has runs of every kind, as the service has sent them."""
    make, kind, path, more = request.param
    folder: Path = tmp_path_factory.mktemp("dashboard")
    engine = make(folder=folder / "engine")
    engine.start(*more)
    train(folder / "spool")
    file = folder / "lens.toml"
    file.write_text(f'[sinks.one]\ntype = "{kind}"\nurl = "{engine.url}{path}"\n')
    given = {"spool": folder / "spool", "state": folder / "state", "http_listen": "off"}
    config = load(given, {}, file, sends=True, check_sinks=table_problems)
    assert ship_once(config, timeout=60) == []
    assert engine.found()  # which makes VictoriaMetrics show what it has
    yield engine
    engine.kill()


def train(root: Path) -> None:
    now = time.time()
    names = ("loss", "eval/loss", "lm loss", "grad-norm", "throughput/tokens_per_sec")

    def steps(run: str, begun: float, **more: float) -> list[Record]:
        begin = {"run": run, "time": begun, "project": "p"}
        logged = (
            {
                "run": run,
                "step": number,
                "time": begun + number,
                "closed": True,
                "data": {**dict.fromkeys(names, number / 7), **(more if number == 50 else {})},
            }
            for number in range(100)
        )
        return [("run", begin), *(("step", body) for body in logged)]

    def end(run: str, code: int) -> list[Record]:
        when = now - 38  # VictoriaMetrics does not show the last 30 s
        finish = {"run": run, "time": when, "step": 99, "exit_code": code}
        return [("finish", finish), ("exit", {"time": when, "steps": {}})]

    lost = ("gap", gap.encode(time=now - 90, reason="disk-full", count=3))
    runs = {
        "finished": [*steps("finished", now - 140), *end("finished", 0)],
        "failed": [*steps("failed", now - 140), *end("failed", 1)],
        "goes-on": [lost, *steps("goes-on", now - 110, loss=math.nan), goodbye()],
        "stuck": [*steps("stuck", now - 1800), goodbye()],
    }
    for rank, records in enumerate(runs.values()):
        spool(root, records, who=spools.identity(spools.spool_id(rank), workload_uid="w", rank=0))
    killed(root, steps("killed", now - 140), spools.spool_id(9), workload_uid="w", rank=0)


def filled(expression: str) -> str:
    """With the values that the variables of the dashboard begin with."""
    values = {"__range": "1h", "__rate_interval": "1m", "__interval": "15s", "run": ".+"}
    for one in BOARD["templating"]["list"]:
        if one["type"] == "textbox":
            values[one["name"]] = one["query"]
    text = re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], expression)
    assert "$" not in text
    return text


def found(receiver: Engine, expression: str, path: str = "query_range") -> list[dict[str, Any]]:
    now = time.time()
    times = {"start": str(now - 3600), "end": str(now), "step": "15"}
    query = times if path == "query_range" else {"time": str(now)}
    answer = json.loads(receiver.get(f"/api/v1/{path}", query=expression, **query))
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_every_panel_has_data(receiver: Engine, title: str) -> None:
    assert found(receiver, filled(EXPRESSIONS[title]))


def test_the_loss_is_every_loss_and_nothing_else(receiver: Engine) -> None:
    series = found(receiver, filled(EXPRESSIONS["Loss"]))
    names = {one["metric"]["__name__"] for one in series}
    assert {re.sub(r"\W", "_", name) for name in names} == {
        *("training_loss", "training_eval_loss", "training_lm_loss")
    }


def test_the_variable_of_runs_lists_them(receiver: Engine) -> None:
    (variable,) = (one for one in BOARD["templating"]["list"] if one["name"] == "run")
    match = re.fullmatch(r"label_values\((.*), run\)", variable["definition"])
    assert match
    query = {"match[]": filled(match[1]), "start": str(time.time() - 3600)}
    answer = json.loads(receiver.get("/api/v1/label/run/values", **query))
    assert set(answer["data"]) == {"finished", "failed", "goes-on", "stuck", "killed"}


@pytest.mark.parametrize(
    ("alert", "runs"),
    [
        ("TrainingStuck", {"stuck"}),
        ("TrainingNotFinite", {"goes-on"}),
        ("TrainingCutOff", {"killed"}),
        ("TrainingFailed", {"failed"}),
    ],
)
def test_an_alert_names_its_runs(receiver: Engine, alert: str, runs: set[str]) -> None:
    rules = {rule["alert"]: rule["expr"] for rule in RULES["groups"][0]["rules"]}
    series = found(receiver, rules[alert], "query")
    assert {one["metric"]["run"] for one in series} == runs


@needs_prometheus
@pytest.mark.parametrize(
    "words", ["check rules training-alerts", "test rules training-alerts_test"]
)
def test_the_alerts_do_what_they_say(words: str) -> None:
    command = f"promtool {words}.yaml".split()
    done = subprocess.run(
        command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

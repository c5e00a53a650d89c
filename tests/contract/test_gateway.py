"""The gateway: its configuration holds together, and a real Collector with it loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shipper.service import ship_once
from tests.contract.test_series_receivers import (
    dead,
    expected,
    returned,
    settings,
    start,
    write,
)
from tests.kit import manifests
from tests.kit.engines import Engine, VictoriaMetrics, needs_victoria
from tests.kit.master import wait_for
from tests.kit.ports import reserved_port
from tests.kit.running import failing, ship_until

__all__ = ["start"]  # a fixture

FOLDER = manifests.REPOSITORY / "deploy/otel-collector"
TEXT = (FOLDER / "gateway.yaml").read_text("utf-8")
FILLED_IN = re.sub(r"^#(?=  )", "", TEXT, flags=re.MULTILINE)
SECTIONS = ("extensions", "receivers", "processors", "exporters")
# A Collector with file_storage. No package registry that CI uses has one.
OTELCOL = os.environ.get("LENS_SHIP_TEST_OTELCOL") or shutil.which("otelcol-contrib")
needs_collector = pytest.mark.skipif(
    OTELCOL is None, reason="no otelcol-contrib; LENS_SHIP_TEST_OTELCOL names another Collector"
)


@pytest.mark.parametrize("text", [TEXT, FILLED_IN], ids=["as it is", "with the comments"])
def test_what_pipelines_name_is_defined_and_what_is_defined_is_named(text: str) -> None:
    config = yaml.safe_load(text)
    named: dict[str, set[str]] = {name: set() for name in SECTIONS}
    named["extensions"] = set(config["service"]["extensions"])
    for pipeline in config["service"]["pipelines"].values():
        for section in SECTIONS[1:]:
            named[section] |= set(pipeline[section])
    assert named == {section: set(config[section]) for section in SECTIONS}


def test_the_comments_hold_further_exporters() -> None:
    more = yaml.safe_load(FILLED_IN)["exporters"].keys() - yaml.safe_load(TEXT)["exporters"].keys()
    assert more == {"kafka", "awss3"}


@pytest.mark.parametrize("name", yaml.safe_load(FILLED_IN)["exporters"])
def test_what_is_acknowledged_is_on_disk_until_it_is_delivered(name: str) -> None:
    config = yaml.safe_load(FILLED_IN)
    exporter = config["exporters"][name]
    assert exporter["sending_queue"]["storage"] in config["service"]["extensions"]
    assert config["extensions"]["file_storage"]["fsync"]
    forever = exporter.get("retry_on_failure", {}).get("max_elapsed_time") == "0s"
    assert forever or exporter["s3uploader"]["retry_max_attempts"] == 0
    for pipeline in config["service"]["pipelines"].values():
        assert pipeline["processors"] == ["memory_limiter"], "nothing else holds data in memory"


def test_the_manifests_are_valid_and_have_space_for_the_queues() -> None:
    found = manifests.built(FOLDER)
    for one in found:
        version = kubernetes_validate.latest_version()
        kubernetes_validate.validate(one, version, strict=True)
    spec = manifests.only(found, "StatefulSet")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    volume = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) << 30
    exporters = yaml.safe_load(TEXT)["exporters"].values()
    assert sum(one["sending_queue"]["queue_size"] for one in exporters) < 0.8 * volume
    (container,) = manifests.containers(found)
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert f":-{mounts['queue']}}}" in TEXT
    assert container["args"] == [f"--config={mounts['config']}/gateway.yaml"]
    (variables,) = (one["data"] for one in found if "METRICS_URL" in one.get("data", {}))
    assert all(f"${{env:{name}:-" in TEXT for name in variables)


@dataclass(kw_only=True)
class Collector(Engine):
    """The gateway, with `target` behind it."""

    target: str
    queue_bytes: int = 20_000_000_000

    def command(self) -> list[str]:
        text = TEXT.replace("queue_size: 20_000_000_000", f"queue_size: {self.queue_bytes}")
        text = text.replace(
            "host: 0.0.0.0, port: 8888", f"host: 127.0.0.1, port: {reserved_port()}"
        )
        (self.folder / "gateway.yaml").write_text(text)
        metrics = f"METRICS_URL={self.target}/opentelemetry/v1/metrics"
        own = f"QUEUE_DIRECTORY={self.folder}/queue"
        listen = f"LISTEN=127.0.0.1:{self.port}"
        config = f"--config={self.folder}/gateway.yaml"
        return ["env", metrics, own, listen, str(OTELCOL), config]

    def ready(self) -> str:
        return "/v1/metrics"


@needs_collector
def test_a_collector_takes_the_configuration() -> None:
    assert OTELCOL is not None
    subprocess.run([OTELCOL, "validate", f"--config={FOLDER}/gateway.yaml"], check=True)


@needs_collector
@needs_victoria
def test_a_gateway_that_is_killed_loses_nothing(tmp_path: Path, start: Callable[..., Any]) -> None:
    behind, begun = start(VictoriaMetrics), time.time() - 60
    gateway = start(Collector, target=behind.url)
    behind.kill(signal.SIGTERM)
    write(tmp_path, begun)
    assert ship_once(settings(tmp_path, "otlp", gateway.url), timeout=60) == []
    gateway.kill()
    behind.start()
    gateway.start()
    wait_for(lambda: returned(behind.found()) == expected(begun), "not everything is there")


@needs_collector
@needs_victoria
def test_a_gateway_that_is_full_is_waited_for(tmp_path: Path, start: Callable[..., Any]) -> None:
    behind, begun = start(VictoriaMetrics), time.time() - 60
    gateway = start(Collector, target=behind.url, queue_bytes=600_000)
    behind.kill(signal.SIGTERM)
    write(tmp_path, begun, count=2000, pace=0.02)
    config = settings(tmp_path, "otlp", gateway.url)
    left = ship_until(config, lambda one: "queue is full" in failing(one))
    assert any("queue is full" in line for line in left)
    behind.start()
    assert ship_once(config, timeout=60) == []
    everything = expected(begun, count=2000, pace=0.02)
    wait_for(lambda: returned(behind.found()) == everything, "not everything is there")
    assert dead(tmp_path) == {}

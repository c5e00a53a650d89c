"""Real receivers: VictoriaMetrics, Prometheus, rotel and MLflow, each a process of its own.

`make unit` puts them into place. Without one, the tests that need it are skipped.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kit.master import wait_for
from tests.kit.ports import reserved_port
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY

VICTORIA = Path(
    os.environ.get("LENS_SHIP_TEST_VICTORIA_METRICS")
    or REPOSITORY / ".venv/victoria-metrics/victoria-metrics"
)
ROTEL = Path(os.environ.get("LENS_SHIP_TEST_ROTEL") or REPOSITORY / ".venv/rotel/rotel-agent")
MLFLOW = Path(os.environ.get("LENS_SHIP_TEST_MLFLOW") or REPOSITORY / ".venv/mlflow/bin/python")
PROMETHEUS = os.environ.get("LENS_SHIP_TEST_PROMETHEUS") or shutil.which("prometheus")
_OTLP = "--web.enable-otlp-receiver"  # Debian builds Prometheus without it

needs_victoria = pytest.mark.skipif(
    not VICTORIA.exists(), reason=f"no {VICTORIA}; `make unit` gets it from Debian trixie"
)
needs_rotel = pytest.mark.skipif(not ROTEL.exists(), reason=f"no {ROTEL}; `make unit` installs it")
needs_mlflow = pytest.mark.skipif(
    not MLFLOW.exists(), reason=f"no {MLFLOW}; `make unit` installs it"
)
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="no prometheus here: apt-get install prometheus"
)


@functools.cache
def takes_otlp() -> bool:
    """Whether the Prometheus that is here takes OTLP."""
    if PROMETHEUS is None:
        return False
    said = subprocess.run([PROMETHEUS, "--help"], capture_output=True, text=True, check=False)
    return _OTLP in said.stdout + said.stderr


needs_prometheus_otlp = pytest.mark.skipif(
    not takes_otlp(), reason="no prometheus here that takes OTLP; set LENS_SHIP_TEST_PROMETHEUS"
)

# A program that logs thousands of steps a second has them dated a millisecond apart, so the last
# ones lie ahead of the clock.
AHEAD_SECONDS = 3600.0

# Labels and name of a series -> what it holds: Unix milliseconds and values, in this order.
Samples = list[tuple[int, float]]
Found = dict[tuple[tuple[str, str], ...], Samples]


@dataclass(kw_only=True)
class Engine:
    """A process that listens on one port, over all of its lives."""

    folder: Path
    port: int = field(default_factory=reserved_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> str:
        """The path that answers when it takes requests."""
        raise NotImplementedError

    def start(self, *more: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command(), *more], stdout=log, stderr=log, cwd=self.folder
            )
        wait_for(self._answers, f"{self.folder.name} does not start, see {self.folder}/log")

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_SECONDS)
            self.process = None

    def get(self, path: str, **query: str) -> bytes:
        text = urllib.parse.urlencode(query)
        with urllib.request.urlopen(f"{self.url}{path}?{text}", timeout=30) as answer:
            return bytes(answer.read())

    def _answers(self) -> bool:
        try:
            self.get(self.ready())
        except urllib.error.HTTPError as error:
            return error.code in (404, 405)
        except OSError:
            return False
        return True


@dataclass(kw_only=True)
class VictoriaMetrics(Engine):
    """Keeps everything for a hundred years, in any order."""

    def command(self) -> list[str]:
        return [
            str(VICTORIA),
            f"-storageDataPath={self.folder}/data",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-retentionPeriod=100y",
            "-inmemoryDataFlushInterval=1s",
            "-memory.allowedBytes=64MiB",
        ]

    def ready(self) -> str:
        return "/health"

    def found(self) -> Found:
        """Everything it has, each point as often as it is stored."""
        self.get("/internal/force_flush")
        query = {"match[]": '{__name__!=""}', "end": str(time.time() + AHEAD_SECONDS)}
        text = self.get("/api/v1/export", **query)
        return _found(
            (one["metric"], zip(one["timestamps"], one["values"], strict=True))
            for one in map(json.loads, text.splitlines())
        )


@dataclass(kw_only=True)
class Prometheus(Engine):
    """Takes remote write; `window` is how far out of order, as its configuration has it."""

    window: str = ""

    def command(self) -> list[str]:
        storage = f"storage:\n  tsdb:\n    out_of_order_time_window: {self.window}\n"
        (self.folder / "prometheus.yml").write_text(storage if self.window else "")
        return [
            str(PROMETHEUS),
            f"--config.file={self.folder}/prometheus.yml",
            "--web.enable-remote-write-receiver",
            *([_OTLP] if takes_otlp() else []),
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def ready(self) -> str:
        return "/-/ready"

    def found(self) -> Found:
        """Everything it has of the last day."""
        query = {"query": '{__name__!=""}[1d]', "time": str(time.time() + AHEAD_SECONDS)}
        answer = json.loads(self.get("/api/v1/query", **query))
        return _found(
            (one["metric"], ((round(float(at) * 1000), value) for at, value in one["values"]))
            for one in answer["data"]["result"]
        )


@dataclass(kw_only=True)
class Rotel(Engine):
    """Takes OTLP and hands everything on to `target`."""

    target: str

    def command(self) -> list[str]:
        return [
            *(str(ROTEL), "start", f"--otlp-http-endpoint=127.0.0.1:{self.port}"),
            f"--otlp-grpc-endpoint=127.0.0.1:{reserved_port()}",
            *("--exporter=otlp", f"--otlp-exporter-endpoint={self.target}"),
            *("--otlp-exporter-protocol=http", f"--pid-file={self.folder}/pid"),
        ]

    def ready(self) -> str:
        return "/v1/metrics"


@dataclass(kw_only=True)
class Mlflow(Engine):
    """A tracking server with an SQLite database, as `mlflow server` starts its one process."""

    def command(self) -> list[str]:
        return [
            *("env", f"_MLFLOW_SERVER_FILE_STORE=sqlite:///{self.folder}/mlflow.db"),
            f"_MLFLOW_SERVER_ARTIFACT_ROOT={self.folder}/artifacts",
            *("MLFLOW_DISABLE_TELEMETRY=true", str(MLFLOW), "-m", "uvicorn", "--host=127.0.0.1"),
            *(f"--port={self.port}", "mlflow.server.fastapi_app:app"),
        ]

    def ready(self) -> str:
        return "/health"

    def ask(self, path: str, body: Any = None, **query: str) -> Any:
        """What a call of its REST interface returns; with a body it is a POST."""
        address = f"{self.url}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def runs(self, view: str = "ACTIVE_ONLY") -> list[Any]:
        """All runs of all experiments."""
        every = self.ask("experiments/search", {"max_results": 1000, "view_type": "ALL"})
        ids = [one["experiment_id"] for one in every["experiments"]]
        found: list[Any] = []
        token = ""
        while token or not found:
            body = {"experiment_ids": ids, "max_results": 1000, "run_view_type": view}
            answer = self.ask("runs/search", {**body, "page_token": token})
            found += answer.get("runs", [])
            token = answer.get("next_page_token", "")
            if not token:
                break
        return found

    def history(self, run_id: str, key: str) -> list[tuple[int, int, float]]:
        """Step, time in Unix milliseconds and value of each point, as often as it is stored."""
        answer = self.ask("metrics/get-history", run_id=run_id, metric_key=key)
        return sorted(
            (int(one.get("step", 0)), int(one["timestamp"]), float(one["value"]))
            for one in answer.get("metrics", [])
        )


def _found(series: Any) -> Found:
    return {
        tuple(sorted(labels.items())): [(int(at), float(value)) for at, value in samples]
        for labels, samples in series
    }

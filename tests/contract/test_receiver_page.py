"""The commands of docs/your-own-receiver.md do what the page says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.kit.engines import VICTORIA, Mlflow, needs_mlflow, needs_victoria
from tests.kit.ports import reserved_port
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY, environment

PAGE = (REPOSITORY / "docs" / "your-own-receiver.md").read_text(encoding="utf-8")
SECONDS = 3 * PATIENCE_SECONDS
# VictoriaMetrics shows points from the next full second on. A person does not type as quickly.
CURL = f"""\
test -e sent || touch sent
while [ $(date +%s) -lt $(($(stat -c %Y sent) + 2)) ]; do :; done
{shutil.which("curl")} -s "$@"
"""


def commands(heading: str) -> list[str]:
    """The blocks of commands below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def run_page(tmp_path: Path, *headings: str) -> str:
    """What the commands below these headings print, one after the other in one shell."""
    script = "".join(block for heading in headings for block in commands(heading))
    ports = {port: reserved_port() for port in re.findall(r"127\.0\.0\.1:(\d+)", script)}
    for port, free in ports.items():
        script = script.replace(port, str(free))
    for word in ("/tmp/vm", "/tmp/spool", "/tmp/mlflow.db"):
        script = script.replace(word, f"{tmp_path}/{Path(word).name}")
    script = script.replace(
        "examples/train.py --steps 200", f"{REPOSITORY}/examples/train.py --steps 20"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    # As `mlflow server` starts it, which takes a minute on a busy machine.
    server = Mlflow(folder=tmp_path, port=ports.get("5000", 0)).command()
    for name, program in {
        "lens-ship": f'{sys.executable} -m shipper "$@"',
        "python": f'{sys.executable} "$@"',
        "victoria-metrics": f'{VICTORIA} "$@"',
        "mlflow": shlex.join(server),
        "curl": CURL,
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{program}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    state = str(tmp_path / "state")
    out, errors = tmp_path / "out", tmp_path / "errors"
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script.replace("\ncurl ", "\necho; curl ")],
            cwd=tmp_path,
            env=environment(PATH=path, STATE_DIRECTORY=state, LENS_SHIP_HTTP_LISTEN="off"),
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            assert shell.wait(SECONDS) == 0, errors.read_text()[-4000:]
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # the servers that it started
            shell.wait()
    return out.read_text()


@needs_victoria
def test_a_run_and_a_job_arrive_at_victoria_metrics(tmp_path: Path) -> None:
    out = run_page(tmp_path, "A run", "VictoriaMetrics and Grafana", "A job while it runs")
    series = [json.loads(line) for line in out.splitlines() if line.startswith('{"metric"')]
    assert [len(one["values"]) for one in series] == [20]
    run = series[0]["metric"]["run"]
    assert out.count(f'"run":"{run}"') == 2, "exported, and found by a query"
    assert "sent 20 records" in out
    assert "takes metrics" in out
    assert "every record is accounted for" in out


@needs_mlflow
def test_a_run_arrives_at_mlflow(tmp_path: Path) -> None:
    out = run_page(tmp_path, "A run", "MLflow")
    found, _ = json.JSONDecoder().raw_decode(out, out.rindex('{\n  "runs"'))
    (run,) = found["runs"]
    metrics = {one["key"]: one["step"] for one in run["data"]["metrics"]}
    params = {one["key"] for one in run["data"]["params"]}
    assert "sent 20 records" in out
    assert run["info"]["status"] == "FINISHED"
    assert metrics["loss"] == 19
    assert "optimizer.lr" in params


def test_the_environment_of_the_page_is_a_new_one() -> None:
    """Its commands need a package index and minutes: they were run by hand."""
    (block,) = commands("The environment")
    assert block.startswith("python -m venv")
    assert "pip install '.[service]'" in block

"""Prometheus in agent mode beside our sinks: samples sent per second of processor time.

    python bench/remote_write.py [--series 8000] [--seconds 40] [--rounds 3]

The agent is Debian's `prometheus`. Both send the same number of samples, eight to a job and moment,
to the same thin receiver, in turns, in one run. What differs, and in whose favour:

- The agent scrapes an exposition once a second, writes what it reads into its own log, reads that
  again and sends it as snappy-packed protobuf, a few thousand samples a request. How much of it is
  the sending alone is told by a second agent that scrapes the same and sends nowhere. Its start is
  not counted.
- Ours reads a backlog that is on disk already, and sends it by each kind of sink in turn: JSON, a
  hundred steps a request, as the telemetry-processor takes it; OTLP with gzip; remote write; JSON,
  200 samples a request, as MLflow takes it. Its start, that of a drain of one step, is taken off,
  too. What it costs to put the samples there is counted apart: a real writer's appends, its
  process's start included.
- The agent keeps its place in memory: after a restart it goes on at the end of its log. Ours saves
  its position after each request. That is in the price.

`wandb sync` has a bench of its own (`wandb_sync.py`). neptune-scale's sync process cannot be put
beside these here: it sends to its own service only, which is nothing that runs on this machine.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import drain
import scale

METRICS = 8  # of a job
# What is shown -> the table of the sink, "" for the default ones.
SINKS = {
    "telemetry-processor": "",
    "otlp": 'type = "otlp"\nurl = "{url}"',
    "otlp, gzip = false": 'type = "otlp"\nurl = "{url}"\ngzip = false',
    "prometheus": 'type = "prometheus"\nurl = "{url}/api/v1/write"',
    "mlflow": 'type = "mlflow"\nurl = "{url}"',
}
_SETTLE_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What one contestant did in a while."""

    samples: float
    cpu: float  # seconds


class _Exposition(BaseHTTPRequestHandler):
    """So many series, all with new values at every scrape."""

    series = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        draw = random.random
        jobs = range(self.series // METRICS)
        body = "".join(
            f'train_metric_{metric}{{workload="w{job}"}} {draw()}\n'
            for metric in range(METRICS)
            for job in jobs
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def expose(series: int) -> None:
    """Be the process that is scraped until standard input ends."""
    _Exposition.series = series
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Exposition)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


@contextmanager
def exposition(series: int) -> Iterator[int]:
    """The port of one."""
    process = subprocess.Popen(
        (sys.executable, __file__, "--expose", str(series)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def agent(work: Path, target: int, receiver: str, seconds: float) -> Sent:
    """An agent that scrapes the port `target`; without a receiver it sends nowhere."""
    with (
        tempfile.TemporaryDirectory(dir=work) as folder,
        exposition_settings(Path(folder), target, receiver) as settings,
    ):
        port = free_port()
        process = subprocess.Popen(
            (
                *("prometheus", "--enable-feature=agent", f"--config.file={settings}"),
                *(f"--storage.agent.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
            ),
            stderr=subprocess.DEVNULL,
        )
        try:
            return watched(process.pid, f"http://127.0.0.1:{port}/metrics", receiver, seconds)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def exposition_settings(folder: Path, target: int, receiver: str) -> Iterator[Path]:
    """The agent's configuration file."""
    settings = folder / "prometheus.yml"
    text = (
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: train\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
    )
    if receiver:
        text += f"remote_write:\n  - url: {receiver}\n"
    settings.write_text(text)
    yield settings


def watched(pid: int, metrics: str, receiver: str, seconds: float) -> Sent:
    """What the agent does in `seconds`, once it is at it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while told(metrics, bool(receiver)) == 0:
        if time.monotonic() > deadline:
            raise SystemExit("the agent sends nothing")
        time.sleep(0.5)
    time.sleep(_SETTLE_SECONDS)
    samples, cpu = told(metrics, bool(receiver)), scale.cpu_of(pid)
    time.sleep(seconds)
    return Sent(samples=told(metrics, bool(receiver)) - samples, cpu=scale.cpu_of(pid) - cpu)


def told(url: str, sent: bool) -> float:
    """Samples sent so far, or else scraped, by the agent's own count; a failed one ends it all."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0
    if count(text, "prometheus_remote_storage_samples_failed_total"):
        raise SystemExit("the agent has lost samples: nothing can be compared")
    wanted = (
        "prometheus_remote_storage_samples_total"
        if sent
        else "prometheus_agent_samples_appended_total"
    )
    return count(text, wanted)


def count(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def starts_of_ours(work: Path) -> dict[str, float]:
    """Seconds of processor time for a drain of one step, by each sink."""
    root = work / "nothing"
    drain.write_backlog(root, steps=1, metrics=METRICS, spools=1)
    return {
        name: min(
            drain.drain(root, work, steps=1, metrics=METRICS, sink=sink).cpu for _ in range(3)
        )
        for name, sink in SINKS.items()
    }


def ours(work: Path, samples: int, starts: dict[str, float]) -> tuple[Sent, dict[str, Sent]]:
    """The appends of so many samples, and their way out by each sink."""
    steps = samples // METRICS
    root = work / "spool"
    writer = subprocess.Popen(
        (sys.executable, __file__, "--write", str(steps), "--root", str(root))
    )
    _, status, usage = os.wait4(writer.pid, 0)
    writer.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit("the backlog could not be written")
    sent = {}
    for name, sink in SINKS.items():
        out = drain.drain(root, work, steps=steps, metrics=METRICS, sink=sink)
        sent[name] = Sent(samples=samples, cpu=out.cpu - starts[name])
    shutil.rmtree(root)
    return Sent(samples=samples, cpu=usage.ru_utime + usage.ru_stime), sent


def rate(rounds: list[Sent]) -> float:
    """Samples per second of processor time, the median."""
    return median(one.samples / one.cpu for one in rounds)


def main() -> None:
    """Take turns, print rates and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--series", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--expose", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.expose:
        expose(given.expose)
    if given.write:
        drain.write_backlog(given.root, steps=given.write, metrics=METRICS, spools=8)
        return
    if shutil.which("prometheus") is None:
        print("prometheus is not installed (apt-get install prometheus): nothing is compared")
        return
    play(given)


def play(given: argparse.Namespace) -> None:
    """All rounds."""
    sending: list[Sent] = []
    scraping: list[Sent] = []
    appends: list[Sent] = []
    shipping: dict[str, list[Sent]] = {name: [] for name in SINKS}
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        work = Path(folder)
        starts = starts_of_ours(work)
        for _ in range(given.rounds):
            with exposition(given.series) as target:
                with scale.receiver() as url:
                    sending.append(agent(work, target, url, given.seconds))
                scraping.append(agent(work, target, "", given.seconds))
            append, sent = ours(work, int(given.series * given.seconds), starts)
            appends.append(append)
            for name, out in sent.items():
                shipping[name].append(out)
    show(given, shipping, sending=sending, scraping=scraping, appends=appends)


def show(given: argparse.Namespace, shipping: dict[str, list[Sent]], **rounds: list[Sent]) -> None:
    """The table."""
    version = subprocess.run(
        ("prometheus", "--version"), capture_output=True, text=True, check=True
    ).stdout.split(" (")[0]
    print(
        f"{version}, agent mode: {given.series} series scraped once a second;"
        f" {given.rounds} rounds of {given.seconds:.0f} s, in turns; samples per second of a core"
    )
    whole, scraped = rate(rounds["sending"]), rate(rounds["scraping"])
    # What the sending adds for each sample.
    alone = 1 / max(1e-12, 1 / whole - 1 / scraped)
    by_sink = {name: rate(sent) for name, sent in shipping.items()}
    out, written = by_sink["telemetry-processor"], rate(rounds["appends"])
    for text, figure in (
        ("agent: scrape, log, send", whole),
        ("agent: scrape, log, send nowhere", scraped),
        ("agent: the sending alone, as the difference", alone),
        *(
            (f"lens-ship run, {name}: read, plan, send, save", rate)
            for name, rate in by_sink.items()
        ),
        ("the writer's process: append each step, its start included", written),
        ("both of ours together, telemetry-processor", 1 / (1 / out + 1 / written)),
    ):
        print(f"  {text:<60}{figure:>12,.0f}")
    for name, figure in by_sink.items():
        print(f"  lens-ship run, {name}, against the agent's sending alone: {figure / alone:.2f}")


if __name__ == "__main__":
    main()

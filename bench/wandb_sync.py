"""`wandb sync` beside our way out: the same steps, to a receiver on this machine.

    python bench/wandb_sync.py [--steps 100000] [--rounds 2]

wandb logs the steps offline, hooked, in one process: what it leaves is its own `.wandb` file and
our spool, with the same 8 metrics a step. Then, in turns, `wandb sync` sends the one and
`lens-ship run --once` the other. `wandb sync` speaks to its server by GraphQL and a stream of
lines; a few answers are enough to make it believe in one, and they are given here, by a server that
reads and counts and does nothing else. Processor time is that of all processes of the command; that
of the same command with a run of one step is taken off, for the start.

In whose favour: wandb's sender is compiled and streams all that it read; ours checks each record,
saves its position after every request, and makes the requests that the telemetry-processor takes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import drain

METRICS = 8
_PATIENCE_SECONDS = 600.0
_PROJECT = {"id": "UA==", "name": "bench", "entity": {"id": "ZQ==", "name": "bench"}}
_VIEWER = {
    "id": "dQ==",
    "entity": "bench",
    "username": "bench",
    "email": "bench@example.com",
    "flags": "{}",
    "teams": {"edges": [{"node": {"name": "bench"}}]},
    "admin": False,
}
_ANSWERS: dict[str, Any] = {
    "Viewer": {"viewer": _VIEWER},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "RunResumeStatus": {"model": None},
    "CreateRunFiles": {"createRunFiles": {"runID": "cg==", "uploadHeaders": [], "files": []}},
}


class Server(ThreadingHTTPServer):
    """As much of wandb's server as its sender asks for; counts lines of history."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lines = 0
        self.unknown: set[str] = set()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/file_stream"):
            with self.server.lock:
                self.server.lines += _history(json.loads(body))
            self._answer({})
        elif self.path.endswith("/graphql"):
            self._answer({"data": self._asked(json.loads(body))})
        else:
            self._answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def _asked(self, request: dict[str, Any]) -> Any:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = request.get("operationName") or (found[1] if found else "")
        if name == "UpsertBucket":
            return {"upsertBucket": {"bucket": _bucket(request["variables"]), "inserted": True}}
        if name not in _ANSWERS:
            self.server.unknown.add(name)
        return _ANSWERS.get(name)

    def _answer(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def _bucket(given: dict[str, Any]) -> dict[str, Any]:
    name = given.get("name") or "run"
    return {
        "id": "cg==",
        "name": name,
        "displayName": name,
        "description": None,
        "config": "{}",
        "sweepName": None,
        "project": _PROJECT,
        "historyLineCount": 0,
    }


def _history(stream: dict[str, Any]) -> int:
    history = (stream.get("files") or {}).get("wandb-history.jsonl")
    return len(history["content"]) if history else 0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a command took."""

    wall: float
    cpu: float


def write(work: Path, steps: int) -> None:
    """Be the training process: so many steps, offline and hooked."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    os.environ["WORKLOAD_UID"] = "bench"
    import wandb

    import spooler

    spooler.install()
    settings = wandb.Settings(
        console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True
    )
    run = wandb.init(project="bench", dir=str(work), mode="offline", settings=settings)
    for step in range(steps):
        run.log({f"train/metric_{number}": step / (number + 1) for number in range(METRICS)})
    wandb.finish()


def sync(work: Path, steps: int) -> Sent:
    """`wandb sync` of the run in there, to its end."""
    server = Server()
    (run,) = (work / "wandb").glob("offline-run-*")
    for mark in run.glob("*.synced"):
        mark.unlink()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PRIMUS_LENS")},
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_DIR": str(work),
        "WANDB_ERROR_REPORTING": "false",
        "HOME": str(work),
        "WANDB_CACHE_DIR": str(work),
    }
    command = (sys.executable, "-m", "wandb", "sync", str(run))
    with (work / "sync.log").open("w") as log:
        sent = watched(command, environment, log)
    server.shutdown()
    if server.lines < steps:
        raise SystemExit(
            f"wandb sync sent {server.lines} of {steps} lines; not answered:"
            f" {sorted(server.unknown)}\n{(work / 'sync.log').read_text()[-2000:]}"
        )
    return sent


def watched(command: tuple[str, ...], environment: dict[str, str], log: Any) -> Sent:
    """Run to the end; the processor time of it and of all its descendants, looked at often."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    seen: dict[int, float] = {}
    while process.poll() is None:
        if time.perf_counter() - began > _PATIENCE_SECONDS:
            os.killpg(process.pid, 9)
        for pid in family(process.pid):
            seen[pid] = max(seen.get(pid, 0.0), cpu_of(pid))
        time.sleep(0.01)
    return Sent(wall=time.perf_counter() - began, cpu=sum(seen.values()))


def family(ancestor: int) -> list[int]:
    """A process and its descendants, whatever session they are in."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
    found = [ancestor]
    for member in found:
        found += [pid for pid, parent in parents.items() if parent == member]
    return found


def cpu_of(pid: int) -> float:
    """Seconds of processor time of a process, 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def logged(work: Path, steps: int) -> Path:
    """A folder with what a training process of so many steps leaves."""
    work.mkdir()
    given = ("--write", str(steps), "--root", str(work))
    done = subprocess.run((sys.executable, __file__, *given), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"nothing was logged:\n{done.stderr[-2000:]}")
    return work


def play(given: argparse.Namespace) -> None:
    """All rounds, in turns."""
    rounds: dict[str, list[Sent]] = {"wandb sync": [], "lens-ship run --once": []}
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        one, many = logged(Path(folder) / "one", 1), logged(Path(folder) / "many", given.steps)
        starts = {"wandb sync": sync(one, 1).cpu, "lens-ship run --once": ours(one, 1).cpu}
        for _ in range(given.rounds):
            rounds["wandb sync"].append(sync(many, given.steps))
            rounds["lens-ship run --once"].append(ours(many, given.steps))
    print(f"{given.steps:,} steps of {METRICS} metrics, {given.rounds} rounds, in turns; medians")
    rates = {}
    for name, all_of in rounds.items():
        cpu = median(one.cpu for one in all_of) - starts[name]
        wall = median(one.wall for one in all_of)
        rates[name] = given.steps / max(1e-9, cpu)
        print(
            f"  {name:<22}{wall:>7.1f} s, {1e6 * cpu / given.steps:>7.1f} µs of processor time a"
            f" step, {rates[name]:>9,.0f} steps per second of a core; start {starts[name]:.2f} s"
        )
    print(f"  ours against wandb's: {rates['lens-ship run --once'] / rates['wandb sync']:.2f}")


def ours(work: Path, steps: int) -> Sent:
    """`lens-ship run --once` of the spool in there."""
    done = drain.drain(work / "spool", work, steps=steps, metrics=METRICS)
    return Sent(wall=done.wall, cpu=done.cpu)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.root, given.write)
        return
    play(given)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()

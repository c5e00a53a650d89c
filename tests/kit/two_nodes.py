"""A job of two nodes on one machine: each has a log, the page of an XPU timer, and its ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from shipper.install import pth
from spooler.spool.identity import from_spool_id
from tests.kit import spools
from tests.kit.ports import reserved_port

RANKS = 2  # of a node
LOG, SAMPLE, STACK = "TRAINING_LOG", "XPU_TIMER_METRIC", "STACK_TRACE"
_EVERY = {f"PRIMUS_LENS_{name}_SECONDS": "0.2" for name in ("LOG", "METRIC", "STACK")}


@dataclass(frozen=True)
class Collected:
    """A report, and the process that has made it."""

    pid: int
    node: int
    kind: str
    content: str


@dataclass
class Job:
    """A job that may use `python`; its processes train while `goes_on` exists."""

    folder: Path
    python: str
    packages: str = ""  # more for the path
    timers: list[ThreadingHTTPServer] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    port: int = field(default_factory=reserved_port)

    def __post_init__(self) -> None:
        self.root = self.folder / "spool"
        self.goes_on = self.folder / "goes-on"
        self.goes_on.touch()
        self.hook = pth.link(self.folder / "hook")
        for node in range(2):
            self.log_of(node).touch()

    def log_of(self, node: int) -> Path:
        return self.folder / f"train-{node}.log"

    def environ(self, node: int, **more: str) -> dict[str, str]:
        """What every process of the node has; the hook is on."""
        here = str(spools.REPOSITORY)
        return spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(self.root),
            PRIMUS_LENS_COLLECTORS="true",
            TRAINING_LOG_FILE=str(self.log_of(node)),
            XPU_TIMER_PORT=str(self.timers[node].server_port),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(self.port),
            OMP_NUM_THREADS="1",
            PYTHONPATH=os.pathsep.join(filter(None, (str(self.hook), here, self.packages))),
            **{**_EVERY, **more},
        )

    def rank(self, node: int, local: int) -> dict[str, str]:
        """What a launcher tells one rank."""
        numbers = {
            "RANK": node * RANKS + local,
            "LOCAL_RANK": local,
            "GROUP_RANK": node,
            "WORLD_SIZE": 2 * RANKS,
        }
        return {name: str(number) for name, number in numbers.items()}

    def start(self, node: int, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start a process on a node, in a process group of its own."""
        with self.log_of(node).open("a") as log:
            started = subprocess.Popen(
                [self.python, *arguments],
                env=self.environ(node, **more),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.processes.append(started)
        return started

    def finish(self) -> list[int]:
        """Let the training end; the exit codes of the processes that were started."""
        self.goes_on.unlink(missing_ok=True)
        return [one.wait(spools.PATIENCE_SECONDS) for one in self.processes]

    def collected(self) -> list[Collected]:
        """All reports that are on disk now."""
        found = []
        for directory in spools.spools_below(self.root):
            pid = from_spool_id(directory.name).pid  # the spool may not have a segment yet
            for body in spools.read_whole(directory).bodies("report"):
                content = body["data_content"]
                found.append(Collected(pid, body["node_rank"], body["data_type"], content))
        return found

    def of_node(self, node: int, kind: str) -> list[Collected]:
        return [one for one in self.collected() if (one.node, one.kind) == (node, kind)]

    def lines(self, node: int) -> list[str]:
        """The lines of the node's log that are recorded, in the order of their records."""
        return "".join(one.content for one in self.of_node(node, LOG)).splitlines()

    def pids(self, node: int, kind: str) -> set[int]:
        """The processes that have reported it."""
        return {one.pid for one in self.of_node(node, kind)}


@contextmanager
def job(folder: Path, python: str, packages: str = "") -> Iterator[Job]:
    """A job without processes yet; at the end it has none left."""
    made = Job(folder=folder, python=python, packages=packages)
    made.timers += [_timer(node) for node in range(2)]
    try:
        yield made
    finally:
        for process in made.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for timer in made.timers:
            timer.shutdown()
            timer.server_close()


def _timer(node: int) -> ThreadingHTTPServer:
    page = f'XPU_TIMER_COMMON_HANG{{node="{node}"}} 0\n'.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server

"""DLRover's real local master, in a virtual environment of its own; and a wire that fails on cue.

`LENS_SHIP_TEST_MASTER` is the interpreter of an environment with `dlrover[k8s]` and `protobuf`.
The master is what `python -m dlrover.python.master.main` runs, in a process of its own; what is
around it only writes down every report that is stored, when it is, for a master tells nobody what
it has.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.ports import reserved_port
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY

VARIABLE = "LENS_SHIP_TEST_MASTER"
PYTHON = Path(os.environ.get(VARIABLE) or REPOSITORY / ".venv/dlrover-0.6.1/bin/python")

# One of the older generation is asked in the newer one's words first.
MORE_QUESTIONS = int("0.4.0/bin" in str(PYTHON))

needs_master = pytest.mark.skipif(
    not PYTHON.exists(),
    reason=f"no real master: no {PYTHON}; `make test` builds it, {VARIABLE} names another",
)


def is_older() -> bool:
    """Whether this is a master from before 0.6.0."""
    return any(f"{version}/bin" in str(PYTHON) for version in ("0.4.0", "0.5.0", "0.5.1"))


_ZYGOTE = r"""
import ctypes, json, os, signal, sys
from dlrover.python.master import local_master, main, servicer
from dlrover.python.master.diagnosis import diagnosis_data_manager as kept

keep = kept.DiagnosisDataManager.store_data
def store_data(self, datum):
    try:
        return keep(self, datum)
    finally:
        out.write(json.dumps({k.lstrip("_"): v for k, v in vars(datum).items()}) + "\n")
kept.DiagnosisDataManager.store_data = store_data

def watch(cls, name, row):  # writes down what a method was given and has answered
    done = getattr(cls, name)
    def watched(self, *args, **more):
        answer = done(self, *args, **more)
        out.write(json.dumps(row(answer, *args, **more)) + "\n")
        return answer
    setattr(cls, name, watched)
watch(servicer.MasterServicer, "_report_failure", lambda answer, node_type, node_id, message:
    {"failure": vars(message), "node": f"{node_type}-{node_id}"})
watch(servicer.MasterServicer, "_report_event", lambda answer, message: {"event": vars(message)})
try:
    from dlrover.python.master.node.job_manager import JobManager as judge
    judge.process_error
except (ImportError, AttributeError):  # before 0.5.0
    from dlrover.python.master.monitor.error_monitor import SimpleErrorMonitor as judge
watch(judge, "process_error", lambda answer, *args, **more: {"relaunches": answer})
from dlrover.python.master.node.local_job_manager import LocalJobManager
watch(LocalJobManager, "start", lambda answer: {"begun": True})

class Diagnosis:  # what a distributed master of 0.4.0 has and a local one lacks
    data = kept.DiagnosisDataManager(600)
    def collect_diagnosis_data(self, datum):
        self.data.store_data(datum)
begin = servicer.MasterServicer.__init__
def init(self, *args, **more):
    begin(self, *args, **more)
    if getattr(self, "_diagnosis_manager", None) is None:
        self._diagnosis_manager = Diagnosis()
    if order["job_uid"]:
        type(self._job_manager).job_uid = property(lambda manager: order["job_uid"])
servicer.MasterServicer.__init__ = init

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # not to outlive this one
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(log, 1), os.dup2(log, 2)
        out = open(order["stored"], "a", buffering=1)
        sys.argv = ["master", "--platform", "local", "--job_name", "t", "--node_num", "1"]
        sys.argv += ["--port", order["port"], "--service_type", order["service"]]
        os._exit(main.main())
    print(pid, flush=True)
"""


class Zygote:
    """Has DLRover imported, which takes a second, and forks a master when one is wanted."""

    def __init__(self, python: Path) -> None:
        self._folder = tempfile.mkdtemp(prefix="lens-ship-masters-")
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy")
            and name not in ("KUBERNETES_SERVICE_HOST", "PYTHONPATH", "JOB_UID")
        }
        environ.update(DLROVER_EVENT_FILE_DIR=self._folder, KUBECONFIG=f"{self._folder}/none")
        self._process = subprocess.Popen(
            [python, "-c", _ZYGOTE],
            cwd=self._folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        atexit.register(self._end)
        assert self._answer() == "ready"

    def fork(self, **order: str) -> int:
        """A master's pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def zygote(python: Path) -> Zygote:
    """The one for this interpreter, in this process."""
    return Zygote(python)


class Master:
    """One master's address through all of its lives."""

    def __init__(self, folder: Path, service: str = "grpc", *, job_uid: str = "") -> None:
        self.folder = folder
        self.service = service
        self.port = reserved_port()
        self.lives = 0
        self._job_uid = job_uid
        self._process: int | None = None  # a pidfd
        self._pid = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin a life; returns when it takes connections and knows its nodes."""
        self.lives += 1
        self._pid = zygote(PYTHON).fork(
            log=str(self.log),
            stored=str(self._stored(self.lives)),
            port=str(self.port),
            service=self.service,
            job_uid=self._job_uid,
        )
        self._process = os.pidfd_open(self._pid)
        until = time.monotonic() + PATIENCE_SECONDS
        while not takes_connections(self.port):
            assert not self._ends(0.02), f"the master died: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < until, "the master takes no connections"
        wait_for(lambda: {"begun": True} in self.rows(), "the master does not begin")

    def kill(self) -> None:
        """End a life without a goodbye; returns when the process is gone, and its port with it."""
        self._signal(signal.SIGKILL)
        assert self._ends(PATIENCE_SECONDS)
        assert self._process is not None
        os.close(self._process)
        self._process = None

    def freeze(self) -> None:
        """Stop every thread of it; returns when they stand still."""
        self._signal(signal.SIGSTOP)
        wait_for(self._is_frozen, "the master does not stop")

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the last life, in whatever state it is."""
        if self._process is not None:
            self.kill()

    def stored(self, life: int = 0) -> list[dict[str, Any]]:
        """The reports stored in one life, the present one unless told, in its order."""
        return [row for row in self.rows(life) if "data_type" in row]

    def rows(self, life: int = 0) -> list[dict[str, Any]]:
        """As `stored`, with failures, events, and whether a failure makes it relaunch a node."""
        path = self._stored(life or self.lives)
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def log(self) -> Path:
        """What all lives said."""
        return self.folder / "master.log"

    def _stored(self, life: int) -> Path:
        return self.folder / f"stored-{life}.jsonl"

    def _is_frozen(self) -> bool:
        stats = Path(f"/proc/{self._pid}/task").glob("*/stat")
        try:
            return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has ended since it was listed

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        signal.pidfd_send_signal(self._process, number)

    def _ends(self, seconds: float) -> bool:
        """Whether the process is gone within this time."""
        assert self._process is not None
        watched = select.poll()  # select() takes no descriptor above 1023
        watched.register(self._process, select.POLLIN)
        return bool(watched.poll(seconds * 1000))


def takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running(folder: Path, service: str = "grpc", **more: Any) -> Iterator[Master]:
    """A master that is up, and gone afterwards."""
    master = Master(folder, service, **more)
    try:
        master.start()
        yield master
    finally:
        master.stop()


class Wire:
    """A TCP proxy in front of a master.

    After `lose_answer(n)` the n-th answer from then on is not passed on: its connection is torn
    instead, while what was asked has arrived; `then` runs before. A `mute` wire takes connections
    and says nothing.
    """

    def __init__(self, port: int, *, mute: bool = False) -> None:
        self._to = port
        self._mute = mute
        self._until_lost = 0
        self._then: Callable[[], object] = bool
        self.lost = 0  # answers
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Wire:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing does not wake who accepts
        self._listener.close()
        self._threads[0].join(PATIENCE_SECONDS)
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(PATIENCE_SECONDS)
        for one in self._open:
            one.close()

    def lose_answer(self, number: int, then: Callable[[], object] = bool) -> None:
        with self._lock:
            self._until_lost, self._then = number, then

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            if self._mute:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                with contextlib.suppress(OSError):  # the client is gone, too
                    client.shutdown(socket.SHUT_RDWR)
                continue
            self._open.append(server)
            for one in (client, server):  # else what comes in two parts waits for 40 ms
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, answers in ((client, server, False), (server, client, True)):
                thread = threading.Thread(
                    target=self._carry, args=(source, sink, answers), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self._loses(data):
                    self._then()
                    self.lost += 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _loses(self, data: bytes) -> bool:
        with self._lock:
            if not self._until_lost or not _is_answer(data):
                return False
            self._until_lost -= 1
            return not self._until_lost


def _is_answer(data: bytes) -> bool:
    """Whether these bytes of a server hold an answer: HTTP/1, or a DATA frame of HTTP/2."""
    if data.startswith(b"HTTP/1"):
        return True
    at = 0
    while at + 9 <= len(data):
        if data[at + 3] == 0:
            return True
        at += 9 + int.from_bytes(data[at : at + 3], "big")
    return False


def metric(number: int, data_type: str = "TRAINING_LOG", **changes: Any) -> dict[str, Any]:
    """A report's eight fields, taken now unless told otherwise; `number` can be read back."""
    return {
        "timestamp": int(time.time()),
        "data_type": data_type,
        "data_content": f"report {number}\n",
        "node_id": 3,
        "node_type": "worker",
        "node_rank": 2,
        "is_final_result": False,
        "need_report": False,
        **changes,
    }


def report(
    number: int, data_type: str = "TRAINING_LOG", **changes: Any
) -> tuple[str, dict[str, Any]]:
    """A record of such a report."""
    return "report", {"time": time.time(), **metric(number, data_type, **changes)}


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    """Which reports these are."""
    return [int(row["data_content"].split()[1]) for row in rows]


def wait_for(what: Callable[[], object], why: str) -> None:
    """Wait for a fact."""
    until = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not what():
        assert time.monotonic() < until, why
        pause.wait(0.01)

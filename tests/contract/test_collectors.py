"""Collectors as they run: real pages over HTTP, real stacks, real signals, forks and ends."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import spooler.collectors
from shipper.service import ship_once
from spooler import (
    DiagnosisAgent,
    DiagnosisDataType,
    LogCollector,
    MetricCollector,
    StackCollector,
    WorkerTrainingMetric,
)
from spooler.collectors import REGISTRY, Collector, pyspy
from spooler.collectors import metric as metric_module
from spooler.collectors.metric import clean
from spooler.diagnosis import agent as agent_module
from spooler.filetail import checkpoint
from spooler.spool.reader import Reader
from tests.kit import master, spools
from tests.kit.master import PYTHON, needs_master
from tests.kit.shipping import config

PAGE = """# HELP XPU_TIMER_COMMON_HANG hang
exposer_transferred_bytes_total 1
XPU_TIMER_COMMON_HANG{rank="0"} 0
# TYPE
XPU_TIMER_MM_KERNEL{rank="0"} 12.5
"""
SAMPLE = 'XPU_TIMER_COMMON_HANG{rank="0"} 0\nXPU_TIMER_MM_KERNEL{rank="0"} 12.5'


class Reports:
    """A client that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[WorkerTrainingMetric] = []

    def report_diagnosis_agent_metrics(self, data: WorkerTrainingMetric) -> None:
        self.taken.append(data)


class Timer(ThreadingHTTPServer):
    """A page that answers as `answer` says."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.asked = asked = list[str]()
        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def handle_error(self, *_: Any) -> None:
        pass

    def end(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


def page(text: str | bytes, status: int = 200, length: int | None = None, **headers: str) -> Any:
    data = text.encode() if isinstance(text, str) else text

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Timer]]:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", raising=False)
    for name in ("_CONNECT_SECONDS", "_ANSWER_SECONDS"):  # a busy machine answers late
        monkeypatch.setattr(metric_module, name, spools.PATIENCE_SECONDS)
    running = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> Timer:
        one = Timer(answer)
        running.append(one)
        monkeypatch.setenv("XPU_TIMER_PORT", str(one.server_port))
        return one

    yield start
    for one in running:
        one.end()


def test_every_collector_is_registered_and_keeps_the_contract() -> None:
    for name, place in REGISTRY.items():
        module, _, attribute = place.partition(":")
        one = getattr(import_module(module), attribute)()
        assert isinstance(one, Collector)
        assert one.name == name
        assert one.title
    defined = {
        path.stem
        for path in Path(spooler.collectors.__file__).parent.glob("*.py")
        if "(Collector):" in path.read_text(encoding="utf-8")
    }
    assert defined == {place.split(":")[0].rpartition(".")[2] for place in REGISTRY.values()}


@pytest.mark.parametrize(("name", "odd"), [("log", 5), ("metric", {}), ("stack", "text")])
def test_data_of_another_type_is_a_warning(
    name: str, odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    module, _, attribute = REGISTRY[name].partition(":")
    one = getattr(import_module(module), attribute)()
    reports = Reports()
    one.set_client(reports)
    assert one.store_data(odd) is False
    assert "It is not reported" in caplog.text
    assert reports.taken == []


# --- the XPU timer --------------------------------------------------------------------------------


def test_a_sample_is_reported_whole_without_what_is_none(timer: Callable[..., Timer]) -> None:
    server = timer(page(PAGE))
    collector, reports = MetricCollector(), Reports()
    collector.set_client(reports)
    assert collector.is_enabled()
    assert collector.store_data(collector.collect_data())
    (metric,) = reports.taken
    assert metric.data_content == SAMPLE
    assert metric.data_type is DiagnosisDataType.XPU_TIMER_METRIC
    assert server.asked == ["/metrics"]
    assert clean("") == ""


def test_no_proxy_is_asked(timer: Callable[..., Timer], monkeypatch: pytest.MonkeyPatch) -> None:
    timer(page(PAGE))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert MetricCollector().collect_data() == SAMPLE


def slow(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"x 1\n" * 5000)
    except OSError:
        return


@pytest.mark.parametrize(
    "answer",
    [
        page("gone", 500),
        page("moved", 302),
        page("half", length=5000),
        page("x" * (3 * 1024 * 1024 + 1)),
        slow,
        lambda request: request.connection.close(),
        lambda request: request.wfile.write(b"\x00\x01 nothing of http\r\n\r\n"),
        page(gzip.compress(PAGE.encode()), Content_Encoding="gzip", Content_Type="text/plain"),
        page(gzip.compress(PAGE.encode())),
        page("<html><body>Please log in</body></html>", Content_Type="text/html"),
        page("Please log in"),
        page('{"hang": 0}', Content_Type="application/json"),
        page(PAGE + "<html>"),
        page(PAGE.encode("utf-16")),
    ],
    ids=[
        *(
            "error",
            "redirect",
            "cut",
            "large",
            "endless",
            "closed",
            "garbage",
            "gzip",
            "unsaid gzip",
        ),
        *("login", "text", "json", "half a page", "utf-16"),
    ],
)
@pytest.mark.promise("G2")
def test_what_is_no_sample_is_nothing_and_told(
    timer: Callable[..., Timer], answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    timer(answer)
    collector, reports = MetricCollector(), Reports()
    collector.set_client(reports)
    assert collector.collect_data() == ""
    assert "No sample from the XPU timer" in caplog.text
    assert collector.store_data("") is False
    assert reports.taken == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; version=0.0.4", "application/openmetrics-text; charset=x"]
)
def test_every_form_of_a_sample_is_one(timer: Callable[..., Timer], kind: str) -> None:
    lines = [
        "hang 1",
        'mm{op="a, \\"b\\" {c}",rank="0"} 1.5e-3 1700000000',
        "a:b {} NaN",
        'le_bucket{le="+Inf",} +Inf # {trace="x"} 0.5',
    ]
    timer(page("# HELP x\n" + "\n".join(lines) + "\n", Content_Type=kind))
    assert MetricCollector().collect_data().splitlines() == lines


def test_a_line_is_checked_in_time_that_grows_with_its_length() -> None:
    for form in ("a{%s", 'a{"%s', "a %s!", "a{}%s!", "a 1%s!", "a 1 1%s!"):
        for part in (" ", "x", '"', '\\"', "1", "{}", "#"):
            checked = timed(metric_module._SAMPLE.fullmatch, form % (part * 20_000))
            assert timed(metric_module._SAMPLE.fullmatch, form % (part * 160_000)) < 64 * checked


def timed(check: Callable[[str], object], line: str) -> float:
    """Seconds of this thread, never 0."""
    begun = time.thread_time()
    assert check(line) is None
    return max(time.thread_time() - begun, 1e-3)


@pytest.mark.parametrize("port", [None, "", "0", "70000", "http", "9"])
def test_without_a_listening_port_there_is_nothing_to_collect(
    port: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XPU_TIMER_PORT", raising=False)
    if port is not None:
        monkeypatch.setenv("XPU_TIMER_PORT", port)
    assert not MetricCollector().is_enabled()


def test_one_process_of_a_node_samples(
    timer: Callable[..., Timer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer(page(PAGE))
    spools.settle(monkeypatch, tmp_path / "spool")
    first, second = MetricCollector(), MetricCollector()
    assert first.is_enabled()
    assert not second.is_enabled()
    assert first.is_enabled()
    first.close()
    assert second.is_enabled()
    second.close()


def test_a_process_that_is_silent_loses_the_timer(
    timer: Callable[..., Timer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer(page(PAGE))
    spools.settle(monkeypatch, tmp_path / "spool")
    monkeypatch.setattr(checkpoint, "LEASE_SECONDS", 0.05)
    first, second, reports = MetricCollector(), MetricCollector(), Reports()
    first.set_client(reports)
    assert first.is_enabled()
    sample = first.collect_data()
    spools.wait_until(second.is_enabled)
    assert first.store_data(sample) is False, "the other one reports it"
    assert reports.taken == []
    second.close()


# --- stacks ---------------------------------------------------------------------------------------


def waits_here(begun: threading.Event, end: threading.Event) -> None:
    begun.set()
    end.wait(spools.PATIENCE_SECONDS)


def test_the_stacks_of_all_threads_are_readable_text() -> None:
    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=waits_here, args=(begun, end), name="loader-7", daemon=True)
    thread.start()
    begun.wait(spools.PATIENCE_SECONDS)
    collector, reports = StackCollector(), Reports()
    collector.set_client(reports)
    data = collector.collect_data()
    assert collector.store_data(data, why="asked")
    end.set()
    thread.join()
    assert next(iter(data)).startswith("thread 'MainThread'")
    (metric,) = reports.taken
    assert metric.data_type is DiagnosisDataType.STACK_TRACE
    text = metric.data_content
    assert ": asked\n" in text
    assert f"--- thread 'loader-7' ({thread.native_id}, daemon)" in text
    assert f'File "{__file__}", line' in text
    place = text.index("in waits_here")
    assert text.index("_bootstrap", text.index("loader-7")) < place, "outermost call first"


@pytest.mark.promise("G2")
def test_no_source_file_is_read_for_a_stack(tmp_path: Path) -> None:
    """It may be a pipe, or on a file server that is gone: to open it would block for good."""
    os.mkfifo(tmp_path / "code.py")
    code = compile("stacks = take()", str(tmp_path / "code.py"), "exec")
    known: dict[str, Any] = {"take": StackCollector().collect_data}
    exec(code, known)
    (main, *_) = known["stacks"].values()
    assert f'File "{tmp_path}/code.py", line 1, in <module>\n' in main


def test_stacks_may_be_given_as_lists_of_lines() -> None:
    collector, reports = StackCollector(), Reports()
    collector.set_client(reports)
    assert collector.store_data({"rank 0": ["a", "b"], 1: "c"})
    assert "--- rank 0\na\nb\n\n--- 1\nc\n" in reports.taken[0].data_content


def test_deep_recursion_is_cut() -> None:
    def deep(levels: int) -> dict[str, str]:
        return deep(levels - 1) if levels else StackCollector().collect_data()

    assert max(len(text) for text in deep(400).values()) < 64 * 1024


def test_another_process_is_looked_at_by_py_spy_or_it_is_said_why_not() -> None:
    done = spools.python(
        "import subprocess, sys, json\n"
        "from spooler import StackCollector\n"
        "from spooler.collectors import pyspy\n"
        "child = subprocess.Popen([sys.executable, '-c',\n"
        "  'import sys\\ndef waits_there(): print(1, flush=1); sys.stdin.read()\\nwaits_there()'],"
        "  stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "assert pyspy.child_processes() == (child.pid,)\n"
        "stacks = StackCollector(pyspy.child_processes).collect_data()\n"
        "child.communicate()\n"
        "print(json.dumps(stacks[f'process {child.pid}']))"
    )
    text = spools.answer(done)
    if pyspy.program() is None:
        assert text == "py-spy is not installed: pip install 'lens-ship[stacks]'"
    else:
        assert "waits_there" in text or text.startswith("py-spy failed: ")
    assert pyspy.stacks_of(2**22 + 1)


# --- the agent ------------------------------------------------------------------------------------


def reports_of(root: Path, kind: str = "report") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for directory in spools.spools_below(root):
        found += spools.read_whole(directory).bodies(kind)
    return found


_AGENT = """
import logging, os, sys, time, json, threading, signal
logging.basicConfig(level=logging.INFO)
import spooler
from spooler.recorder import recorder
from spooler.diagnosis import agent as module
module._TICK_SECONDS = 0.02
module._LAST_SECONDS = 50.0  # for the last lines, however busy the machine is
DEADLINE = time.monotonic() + 150
def until(what):
    while not what():
        assert time.monotonic() < DEADLINE
        time.sleep(0.01)
def told(kind="report"):
    return recorder().recorded.get(kind, 0)
"""


def agent(code: str, root: Path, **environ: str) -> Any:
    environ = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(root), **environ}
    return spools.python(_AGENT + code, **environ)


@pytest.mark.promise("G2")
def test_a_collector_that_raises_is_said_once_counted_and_asked_again(tmp_path: Path) -> None:
    done = agent(
        """
class Mine:
    asked = 0
    def is_enabled(self): return True
    def collect_data(self):
        Mine.asked += 1
        raise ZeroDivisionError("oops")
    def store_data(self, data): pass
agent = spooler.DiagnosisAgent()
agent.register_periodical_data_collector(Mine(), 0.01)
agent.start(); agent.start()
until(lambda: Mine.asked > 5)
agent.stop(); agent.stop()
assert threading.active_count() == 1, threading.enumerate()
print(json.dumps([agent.failures["Mine"] == Mine.asked, agent.is_running]))
""",
        tmp_path,
    )
    assert spools.answer(done) == [True, False]
    assert done.stderr.count("ZeroDivisionError") == 1


@pytest.mark.promise("G2")
def test_a_client_that_raises_systemexit_ends_no_thread(tmp_path: Path) -> None:
    done = agent(
        """
class Client:
    called = 0
    def report_diagnosis_agent_metrics(self, data):
        Client.called += 1
        sys.exit("the master is gone")
agent = spooler.DiagnosisAgent(os.environ["LOG"])
agent.set_client(Client())
agent._turns[0].seconds = 0.01
agent.start()
until(lambda: Client.called > 3)
agent.stop()
print(json.dumps(agent.failures))
""",
        tmp_path / "spool",
        LOG=str(written(tmp_path / "train.log")),
    )
    assert spools.answer(done) == {}
    assert "Failed to report log data to master: the master is gone" in done.stderr


def written(path: Path) -> Path:
    path.write_text("one\n")
    return path


def test_a_slow_collector_delays_no_other(tmp_path: Path) -> None:
    done = agent(
        """
class Slow:
    asked = 0
    def is_enabled(self): return True
    def collect_data(self):
        Slow.asked += 1
        end.wait()
    def store_data(self, data): pass
class Quick(Slow):
    def collect_data(self):
        Quick.asked += 1
end = threading.Event()
agent = spooler.DiagnosisAgent()
agent.register_periodical_data_collector(Slow(), 0.01)
agent.register_periodical_data_collector(Quick(), 0.01)
agent.start()
until(lambda: Quick.asked > 5 and Slow.asked == 1)
late = Quick()
agent.register_periodical_data_collector(late, 0.01)
end.set()
agent.stop()
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.promise("G2")
def test_no_argument_raises_into_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", raising=False)
    monkeypatch.delenv("TRAINING_LOG_FILE", raising=False)
    odd: list[Any] = [None, "", 7, 1.5, [], {}, object(), b"/bytes", "/a\0b", float("nan")]
    for value in odd:
        one = DiagnosisAgent(value, node_rank=value, local_world_size=value)
        assert one._node_rank in (None, 7, 1)
        one.register_periodical_data_collector(StackCollector(), value)
        assert one._turns[-1].seconds >= 1.0
        one.diagnose_training_failure(value, restart_count=value)
        LogCollector(value).tail()


@pytest.mark.promise("G2")
def test_a_log_whose_server_is_gone_does_not_hold_up_a_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", raising=False)
    monkeypatch.setattr(agent_module, "_LAST_SECONDS", 0.05)
    end = threading.Event()
    one = DiagnosisAgent(written(tmp_path / "train.log"))
    monkeypatch.setattr(one._log, "tail", end.wait)
    assert one.diagnose_training_failure("CUDA error").action_type.name == "RESTART_WORKER"
    end.set()


def test_numbers_may_be_given_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", raising=False)
    monkeypatch.delenv("TRAINING_LOG_FILE", raising=False)
    given: Any = {"node_rank": "3", "local_world_size": "4"}
    one = DiagnosisAgent(**given)
    assert (one._node_rank, one._stack._pids) == (3, agent_module._children)
    assert DiagnosisAgent(node_rank=-1)._node_rank is None, "the environment knows it"
    restarts: Any = "5"
    action = one.diagnose_training_failure("CUDA error", restart_count=restarts)
    assert action.action_type.name == "RELAUNCH_WORKER"


@pytest.mark.parametrize("log", ["unset", "missing", "unreadable", "pipe"])
def test_a_log_that_cannot_be_followed_is_said_once(tmp_path: Path, log: str) -> None:
    path = tmp_path / "train.log"
    if log == "unreadable":
        path.write_text("one\n")
        path.chmod(0)
    if log == "pipe":
        os.mkfifo(path)
    environ = {} if log == "unset" else {"TRAINING_LOG_FILE": str(path)}
    code = """
from spooler.diagnosis.agent import DiagnosisAgent
from spooler.diagnosis.start import start_from_environ
if os.geteuid() == 0: os.access = lambda path, mode: os.stat(path).st_mode & 0o400
start_from_environ()
log = DiagnosisAgent._instance._log
for _ in range(3): log.is_enabled()
assert log.tail() in ("", "one\\n")
DiagnosisAgent._instance.stop()
"""
    done = agent(code, tmp_path / "spool", PRIMUS_LENS_COLLECTORS="log", **environ)
    said = {
        "unset": "The log collector is off: TRAINING_LOG_FILE is not set.",
        "missing": f"The training log {path} does not exist.",
        "unreadable": f"The training log {path} cannot be read by this user.",
        "pipe": f"The training log {path} is not a regular file.",
    }
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("[Primus Lens WandB]") == done.stderr.count(said[log]) == 1


def test_a_hang_takes_the_stacks_once_and_again_after_progress(tmp_path: Path) -> None:
    done = agent(
        """
agent = spooler.DiagnosisAgent()
agent.start()
def hang_after(number):
    recorder().record("step", {"run": "r", "step": number, "time": 1.0, "data": {}})
    until(lambda: told() == number)
    until(lambda: threading.active_count() >= 2)
    seen = module.time.monotonic()
    until(lambda: module.time.monotonic() > seen + 0.3)
def train():
    hang_after(1); hang_after(2)
train()
agent.stop()
""",
        tmp_path,
        PRIMUS_LENS_HANG_SECONDS="0.1",
        PRIMUS_LENS_STACK_SECONDS="0",
    )
    assert done.returncode == 0, done.stderr
    reports = reports_of(tmp_path)
    assert [report["data_type"] for report in reports] == ["STACK_TRACE"] * 2
    for report in reports:
        assert re.search(r": no step for \d+ s", report["data_content"])
        assert "in hang_after" in report["data_content"]


def test_a_signal_takes_the_stacks_and_calls_who_was_there_before(tmp_path: Path) -> None:
    done = agent(
        """
heard = []
signal.signal(signal.SIGUSR2, lambda *_: heard.append(1))
agent = spooler.DiagnosisAgent()
agent.start()
until(lambda: agent._dumper.is_on)
os.kill(os.getpid(), signal.SIGUSR2)
until(lambda: told() == 1 and heard)
agent.stop()
os.kill(os.getpid(), signal.SIGUSR2)
until(lambda: len(heard) == 2)
print(json.dumps(len(heard)))
""",
        tmp_path,
        PRIMUS_LENS_STACK_SIGNAL="usr2",
        PRIMUS_LENS_STACK_SECONDS="0",
    )
    assert spools.answer(done) == 2
    (report,) = reports_of(tmp_path)
    assert "requested by a signal" in report["data_content"]
    assert "thread 'MainThread'" in report["data_content"]
    assert list(tmp_path.glob("collectors_*/stacks-*")) == []


def test_stacks_that_were_reported_are_not_reported_again_after_a_kill(tmp_path: Path) -> None:
    again = {"PRIMUS_LENS_STACK_SIGNAL": "USR2", "PRIMUS_LENS_STACK_SECONDS": "0"}
    begin = """
agent = spooler.DiagnosisAgent()
agent.start()
until(lambda: agent._dumper.is_on)
"""
    ask = """
for number in (1, 2):
    os.kill(os.getpid(), signal.SIGUSR2)
    until(lambda: told() == number and not os.path.getsize(agent._dumper._file.path))
"""
    killed = agent(f"{begin}{ask}os.kill(os.getpid(), signal.SIGKILL)", tmp_path, **again)
    next_one = agent(f"{begin}agent.stop()", tmp_path, **again)

    assert (killed.returncode, next_one.returncode) == (-9, 0)
    told = [report["data_content"].partition("\n")[0] for report in reports_of(tmp_path)]
    assert [line.partition(": ")[2] for line in told] == ["requested by a signal"] * 2


def test_stacks_that_are_requested_right_before_the_end_are_reported(tmp_path: Path) -> None:
    done = agent(
        """
agent = spooler.DiagnosisAgent()
agent.start()
until(lambda: agent._dumper.is_on)
os.kill(os.getpid(), signal.SIGUSR2)
agent.stop()
""",
        tmp_path,
        PRIMUS_LENS_STACK_SIGNAL="SIGUSR2",
        PRIMUS_LENS_STACK_SECONDS="0",
    )
    assert done.returncode == 0, done.stderr
    (report,) = reports_of(tmp_path)
    assert "requested by a signal" in report["data_content"]


def test_a_signal_without_a_handler_does_not_kill_and_a_wrong_name_is_said(tmp_path: Path) -> None:
    code = """
agent = spooler.DiagnosisAgent()
agent.start()
if agent._dumper._file._signals:
    os.kill(os.getpid(), signal.SIGUSR1)
    until(lambda: told() == 1)
agent.stop()
print(json.dumps(told()))
"""
    assert spools.answer(agent(code, tmp_path / "a", PRIMUS_LENS_STACK_SIGNAL="SIGUSR1")) == 1
    for name in ("SIGKILL", "SIGNOTHING"):
        done = agent(code, tmp_path / "b", PRIMUS_LENS_STACK_SIGNAL=name)
        assert spools.answer(done) == 0
        assert "Stacks are not dumped on a signal or a timer: SIG" in done.stderr


# Waits without letting go of the interpreter's lock, as a stuck driver call does: until a dump has
# it, or `is_dumped` holds. Tells whether a dump has it.
_STUCK = """
import ctypes
def stuck_in_the_driver_until_dumped(path, first=":", then=":", is_dumped=""):
    shown = f"grep -q stuck_in_the_driver {path}"
    ended = f"{is_dumped or shown} || ! kill -0 {os.getpid()}"
    words = f"until {ended}; do {first}; done; {then}; {shown}"
    return ctypes.PyDLL(None).system(words.encode()) == 0
"""


def test_stacks_under_the_interpreter_s_lock_are_reported_when_it_is_free_again(
    tmp_path: Path,
) -> None:
    done = agent(
        _STUCK
        + """
agent = spooler.DiagnosisAgent()
agent.start()
until(lambda: agent._dumper.is_on)
path, is_shown = agent._dumper._file.path, False
while not is_shown:  # a busy machine may let the timer run out before
    before = told()
    for _ in range(2):  # after the second poll, the first one has set the timer
        polled = agent._dumper._polled
        until(lambda: agent._dumper._polled > polled)
    is_shown = stuck_in_the_driver_until_dumped(path, is_dumped=f"test -s {path}")
    until(lambda: told() > before)
agent.stop()
""",
        tmp_path,
        PRIMUS_LENS_HANG_SECONDS="0.5",
        PRIMUS_LENS_HANG_DUMP="true",
        PRIMUS_LENS_STACK_SECONDS="0",
    )
    assert done.returncode == 0, done.stderr
    texts = [report["data_content"] for report in reports_of(tmp_path)]
    assert any("the agent could not run for" in text for text in texts)
    assert any("in stuck_in_the_driver" in text for text in texts)


_BUSY = '''
import dataclasses, subprocess, sys
from pathlib import Path
from spooler.collectors.stack_dump import DumpFile

@dataclasses.dataclass
class Node:
    children: list

def busy():
    tree = Node([Node([Node([]) for _ in range(3)]) for _ in range(3)])
    while True:
        dataclasses.asdict(tree)

threading.Thread(target=busy, daemon=True).start()
file = DumpFile(Path(os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"]))
file.on_signal("USR2")
number = {"signal": int(signal.SIGUSR2), "timer": file.on_timer().number}[how]
send = """import os, sys, time
for _ in range(1000): os.kill(*map(int, sys.argv[1:])); time.sleep(5e-4)"""
dumps = 0
while dumps < 500:  # signals that come together are one
    with subprocess.Popen([sys.executable, "-Sc", send, str(os.getpid()), str(number)]) as sender:
        while sender.poll() is None:
            time.sleep(0.0001)  # without the interpreter's lock, as in a call of C
    dumps += file.read_new().count("most recent call first")
print(json.dumps(dumps))
'''


@pytest.mark.promise("G2")
@pytest.mark.parametrize("how", ["signal", "timer"])
def test_no_dump_kills_a_process_whose_threads_run(tmp_path: Path, how: str) -> None:
    """Hundreds of dumps, each while another thread makes and frees frames."""
    done = agent(f"how = {how!r}\n{_BUSY}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert spools.answer(done) >= 500


def test_stacks_of_a_process_that_died_stuck_are_reported_by_the_next(tmp_path: Path) -> None:
    done = agent(
        _STUCK
        + """
agent = spooler.DiagnosisAgent()
agent.start()
until(lambda: agent._dumper.is_on)
ask, kill = (f"kill -{name} {os.getpid()}" for name in ("USR2", "KILL"))
stuck_in_the_driver_until_dumped(agent._dumper._file.path, first=ask, then=kill)
""",
        tmp_path,
        PRIMUS_LENS_STACK_SIGNAL="SIGUSR2",
        PRIMUS_LENS_STACK_SECONDS="0",
    )
    assert done.returncode == -9
    done = agent(
        """
agent = spooler.DiagnosisAgent()
agent.start()
until(lambda: told() == 1)
agent.stop()
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (report,) = reports_of(tmp_path)
    assert "which has ended" in report["data_content"]
    assert "in stuck_in_the_driver" in report["data_content"]
    assert list(tmp_path.glob("collectors_*/stacks-*")) == []


@pytest.mark.promise("G2")
def test_a_forked_child_collects_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("one\n")
    done = agent(
        f"""
agent = spooler.DiagnosisAgent.singleton_instance(training_log_file={str(log)!r})
agent.start()
until(lambda: told() == 1)
pid = os.fork()
if pid == 0:
    assert not agent.is_running
    assert spooler.DiagnosisAgent.singleton_instance() is agent
    agent._log.is_enabled()
    assert agent._log.collect_data() == ""
    agent.stop()
    sys.exit(0)
_, status = os.waitpid(pid, 0)
with open({str(log)!r}, "a") as file: file.write("two\\n")
agent.stop()
print(json.dumps(status))
""",
        tmp_path / "spool",
    )
    assert spools.answer(done) == 0, done.stderr
    texts = [report["data_content"] for report in reports_of(tmp_path / "spool")]
    assert texts == ["one\n", "two\n"]


@pytest.mark.promise("G20")
def test_the_last_lines_before_the_end_of_the_program_are_recorded(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    done = agent(
        f"""
spooler.DiagnosisAgent.singleton_instance(training_log_file={str(log)!r}).start()
with open({str(log)!r}, "w") as file: file.write("first\\nlast words")
""",
        tmp_path / "spool",
        PRIMUS_LENS_LOG_SECONDS="1000",
    )
    assert done.returncode == 0, done.stderr
    text = "".join(report["data_content"] for report in reports_of(tmp_path / "spool"))
    assert text == "first\nlast words"
    assert spools.kinds(spools.spools_below(tmp_path / "spool")[0])[-1] == "exit"


def test_a_collector_that_does_not_return_does_not_take_the_last_lines(tmp_path: Path) -> None:
    """It returns when they are recorded, and not before the time for them is over."""
    log = tmp_path / "train.log"
    done = agent(
        f"""
class Stuck:
    def is_enabled(self): return True
    def collect_data(self): called.set(); until(told)
    def store_data(self, data): pass
called = threading.Event()
agent = spooler.DiagnosisAgent.singleton_instance(training_log_file={str(log)!r})
agent.register_periodical_data_collector(Stuck(), 5)
agent.start()
called.wait(50)
with open({str(log)!r}, "w") as file: file.write("last words")
""",
        tmp_path / "spool",
        PRIMUS_LENS_LOG_SECONDS="1000",
    )
    assert done.returncode == 0, done.stderr
    assert [one["data_content"] for one in reports_of(tmp_path / "spool")] == ["last words"]


@pytest.mark.promise("G2")
def test_a_client_that_never_returns_does_not_hold_up_the_end(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("one\n")
    done = agent(
        f"""
module._LAST_SECONDS = 1.0
class Client:
    def report_diagnosis_agent_metrics(self, data):
        called.set(); time.sleep(1000)
called = threading.Event()
agent = spooler.DiagnosisAgent.singleton_instance(training_log_file={str(log)!r})
agent.set_client(Client())
agent.start()
called.wait(50)
""",
        tmp_path / "spool",
    )
    assert done.returncode == 0, done.stderr


def test_a_program_without_a_line_of_it_collects_when_the_variable_says_so(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    code = f"""
import logging, os, json
import spooler
spooler.install()
import wandb
with open({str(log)!r}, "w") as file: file.write("loss 0.5\\n")
run = wandb.init(mode="offline", dir={str(tmp_path)!r}, settings=wandb.Settings(silent=True))
run.log({{"loss": 0.5}})
run.finish()
import sys, time
from spooler.recorder import recorder
while "report" not in recorder().recorded: time.sleep(0.01)
print(json.dumps("spooler.diagnosis.agent" in sys.modules))
"""
    root = tmp_path / "spool"
    done = spools.python(
        code,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
        TRAINING_LOG_FILE=str(log),
        PRIMUS_LENS_COLLECTORS="log, stakc",
    )
    assert spools.answer(done) is True
    assert (
        "PRIMUS_LENS_COLLECTORS has unknown collectors: stakc. Known are log, metric, stack."
        in done.stderr
    )
    assert [report["data_content"] for report in reports_of(root)] == ["loss 0.5\n"]


# --- the client that spools -----------------------------------------------------------------------


@pytest.mark.promise("G2")
def test_a_report_that_no_master_could_take_is_dropped_counted_and_said(tmp_path: Path) -> None:
    done = agent(
        """
client = spooler.SpoolMasterClient()
bad = spooler.WorkerTrainingMetric(data_type="TRAINING_LOG", data_content="x")
bad.timestamp = "yesterday"
assert client.report_diagnosis_agent_metrics(bad) is False
assert client.report_diagnosis_agent_metrics(5) is False
large = spooler.WorkerTrainingMetric(data_type="XPU_TIMER_METRIC", data_content="x" * (65 << 20))
assert client.report_diagnosis_agent_metrics(large) is False
good = spooler.WorkerTrainingMetric(data_type="XPU_TIMER_METRIC", data_content="y" * (3 << 20))
assert client.report_diagnosis_agent_metrics(good) is True
print(json.dumps(recorder().dropped))
""",
        tmp_path,
    )
    reasons = {"report-timestamp": 1, "report-shape": 1, "report-content": 1}
    assert spools.answer(done) == reasons
    assert done.stderr.count("A report was dropped") == 3
    (report,) = reports_of(tmp_path)
    assert report["data_content"] == "y" * (3 << 20), "a sample is whole, however large"
    assert {gap["reason"]: gap["count"] for gap in reports_of(tmp_path, "gap")} == reasons


def test_a_master_named_in_code_goes_before_the_environment_s(tmp_path: Path) -> None:
    done = agent(
        """
metric = spooler.WorkerTrainingMetric(data_content="x")
client = spooler.SpoolMasterClient(master_addr="10.0.0.7:50001")
assert client.report_diagnosis_agent_metrics(metric)
late = spooler.SpoolMasterClient(master_addr="10.0.0.8:50001")
assert late.report_diagnosis_agent_metrics(metric)
""",
        tmp_path,
        DLROVER_MASTER_ADDR="10.0.0.9:50001",
    )
    assert done.returncode == 0, done.stderr
    (directory,) = spools.spools_below(tmp_path)
    assert Reader(directory).identity().master_addr == "10.0.0.7:50001"
    assert [one["master"] for one in reports_of(tmp_path)] == ["10.0.0.7:50001", "10.0.0.8:50001"]
    assert (
        "names the master 10.0.0.8:50001, but the spool of this process was opened before"
        in done.stderr
    )
    assert done.stderr.count("WARNING") == 1


def test_without_a_spool_the_client_says_that_nothing_is_kept() -> None:
    done = spools.python(
        "import spooler, logging; logging.basicConfig()\n"
        "metric = spooler.WorkerTrainingMetric(data_content='x')\n"
        "assert spooler.SpoolMasterClient().report_diagnosis_agent_metrics(metric) is False"
    )
    assert done.returncode == 0, done.stderr
    assert "Reports are discarded: PRIMUS_LENS_WANDB_OUTPUT_PATH is not set" in done.stderr


@pytest.mark.promise("G20")
def test_what_a_full_spool_refuses_stays_in_the_log_and_is_recorded_later(tmp_path: Path) -> None:
    root, log = tmp_path / "spool", tmp_path / "train.log"
    log.write_text("one\ntwo\n")
    done = agent(
        f"""
from spooler import recorder as recording
recording._RETRY_SECONDS = 0.0
collector = spooler.LogCollector({str(log)!r})
assert collector.is_enabled()
root = {str(root)!r}
os.rename(root, root + " away"); open(root, "w").close()
assert collector.store_data(collector.collect_data()) is False
os.unlink(root); os.rename(root + " away", root)
assert recorder().dropped == {{}}, "it is still in the log"
assert collector.store_data(collector.collect_data()) is True
print(json.dumps(told("gap")))
""",
        root,
    )
    assert spools.answer(done) == 0
    (report,) = reports_of(root)
    assert report["data_content"] == "one\ntwo\n"


@needs_master
def test_the_objects_of_dlrover_itself_are_taken(tmp_path: Path) -> None:
    """In DLRover's own environment, with our packages behind its own."""
    code = """
import sys
sys.path += sys.argv[1:]
from dlrover.python.diagnosis.common.constants import DiagnosisDataType
from dlrover.python.diagnosis.common.diagnosis_data import WorkerTrainingMetric
import spooler
client = spooler.SpoolMasterClient.singleton_instance(master_addr="127.0.0.1:1")
theirs = WorkerTrainingMetric(
    data_type=DiagnosisDataType.XPU_TIMER_METRIC, data_content="a 1", node_id=1, node_rank=2
)
assert client.report_diagnosis_agent_metrics(theirs)
ours = spooler.WorkerTrainingMetric.from_json(theirs.to_json())
assert ours.to_json() == theirs.to_json()
assert vars(WorkerTrainingMetric.from_json(ours.to_json())) == vars(theirs)
"""
    done = subprocess.run(
        [PYTHON, "-c", code, spools.REPOSITORY, sysconfig.get_path("purelib")],
        env=spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path),
            DLROVER_EVENT_FILE_DIR=str(tmp_path / "events"),
            PYTHONPATH=None,
        ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=spools.PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (report,) = reports_of(tmp_path)
    assert (report["data_type"], report["data_content"]) == ("XPU_TIMER_METRIC", "a 1")
    assert (report["node_id"], report["node_type"], report["node_rank"]) == (1, "worker", 2)


@needs_master
def test_from_the_log_file_to_the_master_s_memory(tmp_path: Path) -> None:
    """The whole way: agent, spool, service, DLRover's real master; only named in the program."""
    root, log = tmp_path / "spool", tmp_path / "train.log"
    with master.running(tmp_path / "master") as one:
        done = agent(
            f"""
agent = spooler.DiagnosisAgent.singleton_instance(training_log_file={str(log)!r}, node_rank=3)
agent.set_client(spooler.SpoolMasterClient(master_addr={one.address!r}))
agent.start()
with open({str(log)!r}, "w") as file: file.write("step 1 loss 0.5\\n")
agent.stop()
""",
            root,
            PRIMUS_LENS_LOG_SECONDS="1000",
        )
        assert done.returncode == 0, done.stderr
        assert ship_once(config(tmp_path), timeout=spools.PATIENCE_SECONDS) == []
        stored = one.stored()
    texts = [row["data_content"] for row in stored if row["data_type"] == "TRAINING_LOG"]
    assert texts[0] == "step 1 loss 0.5\n"
    assert stored[0]["node_rank"] == 3


def test_json_of_a_report_has_no_place_in_it() -> None:
    metric = WorkerTrainingMetric(source={"path": "/var/log/train.log"})
    assert "path" not in json.loads(metric.to_json())

"""The agent over several processes of a job, with settings of an operator and other clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spooler import DiagnosisAgent
from spooler.diagnosis import agent as agent_module
from tests.kit import spools

_ONE_FAILURE = """
import os
from spooler import DiagnosisAgent
from spooler.recorder import recorder
step = os.environ.get("STEP")
if step:
    recorder().steps["r"] = int(step)
action = DiagnosisAgent().diagnose_training_failure({"error": os.environ["ERROR"]})
print(action.action_type.name)
"""
_BEGIN = """
import json, threading, time, spooler
from spooler.diagnosis import agent as module
module._LAST_SECONDS = 50.0  # for the last lines, however busy the machine is
def until(fact):
    pause = threading.Event()
    while not fact(): pause.wait(0.01)
"""


def fails(root: Path, **environ: str) -> str:
    """The action for a failure in a process of its own."""
    given = {"ERROR": "Signal 11 (SIGSEGV) by PID 7", "WORKLOAD_UID": "w", "RANK": "0", **environ}
    done = spools.python(_ONE_FAILURE, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), **given)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answer(code: str, root: Path | None = None, **environ: str) -> Any:
    given = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(root)} if root else {}
    return spools.answer(spools.python(_BEGIN + code, **given, **environ))


def bodies(root: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for directory in spools.spools_below(root):
        found += spools.read_whole(directory).bodies(kind)
    return found


# --- failures that repeat themselves --------------------------------------------------------------


def test_a_crash_that_repeats_itself_is_not_relaunched_for_ever(tmp_path: Path) -> None:
    limit = {"PRIMUS_LENS_MAX_IDENTICAL_FAILURES": "3"}
    actions = [fails(tmp_path, STEP="100", ERROR=f"Signal 11 by PID {n}", **limit) for n in (7, 80)]
    assert actions == ["RESTART_WORKER", "RELAUNCH_WORKER"]
    # Another rank, another job, and this one with a step of progress have their own counts.
    assert fails(tmp_path, STEP="100", RANK="1", **limit) == "RESTART_WORKER"
    assert fails(tmp_path, STEP="100", WORKLOAD_UID="v", **limit) == "RESTART_WORKER"
    assert fails(tmp_path, STEP="100", ERROR="Signal 11 by PID 9", **limit) == "JOB_ABORT"
    assert fails(tmp_path, STEP="101", ERROR="Signal 11 by PID 9", **limit) == "RESTART_WORKER"
    counts = sorted(body.get("repeats", 0) for body in bodies(tmp_path, "decision"))
    assert counts == [1, 1, 1, 1, 2, 3]
    (aborted,) = (b for b in bodies(tmp_path, "decision") if b["action"] == "JOB_ABORT")
    assert aborted["reason"].endswith("it has failed 3 times in the same way, without progress")


def test_jobs_without_a_name_are_not_taken_for_one_another(tmp_path: Path) -> None:
    for _ in range(3):
        action = fails(tmp_path, WORKLOAD_UID="", PRIMUS_LENS_MAX_IDENTICAL_FAILURES="2")
        assert action == "RELAUNCH_WORKER", "the first of two already asks for another node"
    assert list(tmp_path.glob("collectors_*/*.failure")) == []


def test_a_launcher_that_lives_on_counts_without_a_root() -> None:
    code = """
agent = spooler.DiagnosisAgent()
actions = [agent.diagnose_training_failure({"exitcode": -11}, restart_count=n) for n in range(5)]
print(json.dumps([action.action_type.name for action in actions]))
"""
    expected = ["RESTART_WORKER"] * 3 + ["RELAUNCH_WORKER", "JOB_ABORT"]
    assert answer(code) == expected
    assert answer(code, PRIMUS_LENS_MAX_IDENTICAL_FAILURES="0")[-1] == "RELAUNCH_WORKER"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"count": "x"}', '{"a": 1}', "\0\0"])
def test_a_damaged_history_is_none(tmp_path: Path, content: str) -> None:
    limit = {"PRIMUS_LENS_MAX_IDENTICAL_FAILURES": "3"}
    assert fails(tmp_path, **limit) == "RESTART_WORKER"
    (kept,) = tmp_path.glob("collectors_*/*.failure")
    kept.write_text(content)
    assert fails(tmp_path, **limit) == "RESTART_WORKER"
    assert json.loads(kept.read_text())["count"] == 1


# --- an operator's errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("FAILURE_NODE_ERRORS", "#error code is 12345# device is gone#", "device is gone"),
        ("PRIMUS_LENS_NODE_ERROR_PATTERNS", "#{}#NPU{}gone#", "NPU3 is gone"),
        ("PRIMUS_LENS_NODE_ERROR_CODES", "77, 99", "exit code 99"),
    ],
)
def test_an_operator_names_errors_of_the_node(
    tmp_path: Path, variable: str, value: str, error: str
) -> None:
    assert fails(tmp_path, ERROR=error) == "RESTART_WORKER"
    assert fails(tmp_path, ERROR=error, **{variable: value}) == "RELAUNCH_WORKER"
    assert bodies(tmp_path, "decision")[-1]["rule"] == "node-error"


def test_a_pattern_that_names_no_text_or_is_a_regular_expression_is_reported() -> None:
    code = """
import logging
logging.basicConfig()
spooler.DiagnosisAgent().diagnose_training_failure("x")
"""
    done = spools.python(_BEGIN + code, PRIMUS_LENS_NODE_ERROR_PATTERNS=r"#{}#NPU\d gone#a {}#")
    assert done.returncode == 0, done.stderr
    assert "The pattern '{}' of node errors is ignored" in done.stderr
    assert r"The pattern 'NPU\\d gone' of node errors looks like a regular" in done.stderr
    assert "'a {}'" not in done.stderr


# --- update_config --------------------------------------------------------------------------------


def test_an_agent_at_work_follows_another_log_and_looks_for_other_errors(tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    first.write_text("one\n")
    second.write_text("two\n")
    code = f"""
module._KEEP_SECONDS = 0.02
agent = spooler.DiagnosisAgent({str(first)!r}, errors="#one#")
reports = []
class Client:
    def report_diagnosis_agent_metrics(self, metric):
        reports.append((metric.node_rank, metric.data_content))
agent.set_client(Client())
agent.start()
until(lambda: len(reports) == 1)
found = [agent.diagnose_training_failure("x").evidence]
with open({str(first)!r}, "a") as file: file.write("the last line\\n")
agent.update_config({str(second)!r}, "#two#", 5)
found.append(agent.diagnose_training_failure("one").evidence)
agent.update_config()
until(lambda: (5, "two\\n") in reports)
agent.stop()
print(json.dumps([found, [text for _, text in reports]]))
"""
    found, texts = answer(code, tmp_path / "spool", PRIMUS_LENS_LOG_SECONDS="1000")
    assert found == ["one", "two"]
    assert texts == ["one\n", "the last line\n", "two\n"]


def test_an_agent_that_has_not_begun_takes_the_new_log_from_the_start(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("one\n")
    code = f"""
agent = spooler.DiagnosisAgent.singleton_instance(errors="#one#")
assert agent is spooler.DiagnosisAgent.singleton_instance()
agent.update_config(training_log_file={str(log)!r})
rule = agent.diagnose_training_failure("x").rule
agent.start()
agent.stop()
print(json.dumps(rule))
"""
    assert answer(code, tmp_path / "spool") == "node-error"
    assert [body["data_content"] for body in bodies(tmp_path / "spool", "report")] == ["one\n"]


@pytest.mark.promise("G2")
def test_a_training_that_begins_starts_no_agent_that_the_program_has_stopped(
    tmp_path: Path,
) -> None:
    code = """
from spooler.diagnosis.start import start_from_environ
def begins():
    start_from_environ()
    return agent.is_running
agent = spooler.DiagnosisAgent.singleton_instance()
seen = [begins()]
agent.stop()
seen.append(begins())
agent = spooler.DiagnosisAgent.singleton_instance(node_rank=1)  # another one, not started
seen.append(begins())
agent.start()
seen.append(agent.is_running)
agent.stop()
print(json.dumps(seen))
"""
    assert answer(code, tmp_path, PRIMUS_LENS_COLLECTORS="log") == [True, False, False, True]


def test_no_argument_of_update_config_raises(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_OUTPUT_PATH", raising=False)
    monkeypatch.delenv("TRAINING_LOG_FILE", raising=False)
    monkeypatch.setattr(agent_module, "_LAST_SECONDS", spools.PATIENCE_SECONDS)
    log = tmp_path / "train.log"
    log.write_text("lost\n")
    one = DiagnosisAgent(log, node_rank=4, errors="#lost#")
    odd: list[Any] = [None, "", -1, [], {}, object(), b"/a\0b", float("nan")]
    for value in odd:
        one.update_config(value, value, value)
    assert one._node_rank == 4
    assert one.diagnose_training_failure("x").rule == "node-error"


# --- clients of the program's own -----------------------------------------------------------------

_CLIENT = """
import logging
logging.basicConfig()
module._LAST_SECONDS = 0.05
got, end = [], threading.Event()
class Client:
    def report_diagnosis_agent_metrics(self, metric): pass
    def report_failures(self, error_data, restart_count=-1, level=""):
        got.append([json.loads(error_data), restart_count, level])
        {work}
agent = spooler.DiagnosisAgent(node_rank=2)
agent.set_client(Client())
action = agent.diagnose_training_failure({{"error": "NCCL error"}}, restart_count=1)
until(lambda: got)
end.set()
until(lambda: not any(t.name == "lens-ship-failure" for t in threading.enumerate()))
print(json.dumps([got, action.rule]))
"""


@pytest.mark.parametrize("work", ["pass", "end.wait()", "raise ConnectionError('refused')"])
@pytest.mark.promise("G2")
def test_a_client_of_the_program_s_own_is_told_and_holds_up_nothing(
    tmp_path: Path, work: str
) -> None:
    done = spools.python(
        _BEGIN + _CLIENT.format(work=work), PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path)
    )
    ((error, restarts, level),), rule = spools.answer(done)
    assert (error["2"]["message"], restarts, level) == ("error: NCCL error", 1, "process_error")
    assert rule == "collective"
    assert ("refused" in done.stderr) == ("refused" in work)
    (record,) = bodies(tmp_path, "failure")
    assert json.loads(record["error_data"])["2"]["message"] == "error: NCCL error"


@pytest.mark.promise("G2")
def test_a_client_of_the_program_s_own_is_not_waited_for_where_no_thread_starts(
    tmp_path: Path,
) -> None:
    limit = 'def none(thread): raise RuntimeError("can\'t start new thread")\n'
    code = _CLIENT.format(work="end.wait()").replace(
        "action =", f"{limit}threading.Thread.start = none\naction ="
    )
    log = tmp_path / "train.log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    done = spools.python(
        _BEGIN + code.replace("until(lambda: got)", ""),
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path),
        TRAINING_LOG_FILE=str(log),
    )
    assert spools.answer(done) == [[], "gpu-memory"], "the log is read all the same"
    assert len(bodies(tmp_path, "failure")) == 1


def test_the_spool_s_client_takes_what_dlrover_s_does(tmp_path: Path) -> None:
    code = """
client = spooler.SpoolMasterClient("a:1", node_id=7, node_type="chief")
taken = [client.report_failures("oops"), client.report_failures("x" * 10**6, None, "node_error")]
class Bad:
    def __str__(self): raise RuntimeError("never")
taken.append(client.report_failures(Bad()))
print(json.dumps(taken))
"""
    assert answer(code, tmp_path) == [True, True, False]
    first, second = bodies(tmp_path, "failure")
    assert (first["node_id"], first["node_type"], first["master"]) == (7, "chief", "a:1")
    assert (first["restart_count"], first["level"]) == (-1, "")
    assert (len(second["error_data"]), second["level"]) == (8192, "node_error")

"""Numbers in a followed log become steps: once, of one run, and unless a tracker records them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.service import ship_once
from spooler import SpoolMasterClient, config, log_steps, stderr
from spooler import recorder as recorder_module
from spooler.collectors.log import LogCollector
from spooler.diagnosis import agent
from spooler.dlrover.metric import WorkerTrainingMetric
from spooler.filetail import resume
from spooler.filetail.checkpoint import CheckpointState, StepMark
from spooler.hooks import elsewhere, run_tracker
from spooler.records import report, run, step
from spooler.records.step import StepRecord
from spooler.spool import codec
from spooler.spool import format as fmt
from tests.kit import spools
from tests.kit.delivery import arrived, settings
from tests.kit.faulty_receiver import FaultyReceiver

LINE = (
    "[default7]: [2025-04-13 23:41:12] iteration {:8d}/    1000 | consumed samples: 7 |"
    " elapsed time per iteration (ms): 1147.6 | learning rate: 1.5E-04 | lm loss: {:.6E} |\n"
)
NAMES = {"consumed samples", "iteration-time", "learning-rate", "lm loss"}


def line(number: int) -> str:
    return LINE.format(number, number + 0.5)


class Client:
    """Takes reports into the spool, or fails."""

    def __init__(self) -> None:
        self.fails = False
        self.real = SpoolMasterClient()

    def report_diagnosis_agent_metrics(self, data: WorkerTrainingMetric) -> bool:
        if self.fails:
            raise ConnectionError("Connection refused")
        taken: bool = self.real.report_diagnosis_agent_metrics(data)
        return taken


KILLED = """
import os, sys
from spooler import LogCollector, SpoolMasterClient
class Client(SpoolMasterClient):
    def report_diagnosis_agent_metrics(self, data):
        if sys.argv[2] == "before": os.kill(os.getpid(), 9)
        return super().report_diagnosis_agent_metrics(data)
collector = LogCollector(sys.argv[1])
collector.set_client(Client())
assert collector.is_enabled() and collector.store_data(collector.collect_data(last=True))
os.kill(os.getpid(), 9)
"""


class Collecting:
    """A log, and processes that collect it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.path = folder / "spool", folder / "train.log"
        self.client = Client()
        self.collector = LogCollector(self.path)
        self.collector.set_client(self.client)

    def elsewhere(self, killed: str) -> None:
        """Another process collects, and is killed "before" a piece is recorded, or "after" it."""
        done = spools.python(
            KILLED,
            self.path,
            killed,
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(self.root),
            WORKLOAD_UID="w",
        )
        assert done.returncode == -signal.SIGKILL, done.stderr

    def write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def collect(self, *, last: bool = False) -> None:
        while self.collector.is_enabled() and (data := self.collector.collect_data(last=last)):
            if not self.collector.store_data(data):
                break

    def records(self, kind: str) -> list[dict[str, object]]:
        return [
            codec.unpack(stored.body)
            for directory in spools.spools_below(self.root)
            for stored in spools.read_whole(directory).records
            if stored.kind == kind
        ]

    def steps(self) -> list[StepRecord]:
        return [step.decode(body) for body in self.records("step")]

    def numbers(self) -> list[int]:
        return [one.step for one in self.steps()]


@pytest.fixture
def collecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collecting]:
    spools.settle(monkeypatch, tmp_path / "spool")
    monkeypatch.setenv("WORKLOAD_UID", "w")
    monkeypatch.setattr(elsewhere, "_LOOK_SECONDS", 0.0)
    mine = recorder_module.Recorder()
    recorder_module.recorder()
    monkeypatch.setattr(recorder_module._process, "recorder", mine)
    monkeypatch.setattr(log_steps, "runs", run_tracker.RunTracker())
    one = Collecting(tmp_path)
    yield one
    one.collector.close()
    mine.shutdown()


def test_a_step_has_its_line_its_time_its_run_and_its_source(collecting: Collecting) -> None:
    collecting.write(f"hello\n{line(10)}")
    collecting.collect()
    (found,) = collecting.steps()
    assert (found.step, found.step_given, found.closed, found.tracker) == (10, True, False, "log")
    assert found.data == {
        "consumed samples": 7,
        "iteration-time": 1.1476,
        "learning-rate": 1.5e-4,
        "lm loss": 10.5,
    }
    assert found.time == time.mktime(time.strptime("2025-04-13 23:41:12", "%Y-%m-%d %H:%M:%S"))
    assert found.source == {
        "path": str(collecting.path),
        "parser": "megatron",
        "begin": 0,
        "chars": len(f"hello\n{line(10)}"),
        "crc": zlib.crc32(f"hello\n{line(10)}".encode()),
    }
    (begun,) = [run.decode(body) for body in collecting.records("run")]
    assert (begun.run, begun.tracker, begun.name) == (found.run, "log", "train.log")
    (told,) = [report.decode(body) for body in collecting.records("report")]
    assert told.data_content == f"hello\n{line(10)}", "the lines are recorded as ever"


def test_steps_of_one_second_have_times_of_their_own(collecting: Collecting) -> None:
    collecting.write("".join(map(line, range(5))))
    collecting.collect()
    times = [one.time for one in collecting.steps()]
    assert all(1e-3 < later - earlier < 2e-3 for earlier, later in itertools.pairwise(times))


def test_no_time_is_ahead(collecting: Collecting) -> None:
    collecting.write(line(1).replace("2025-", "2199-"))
    collecting.collect()
    assert collecting.steps()[0].time <= time.time()


@pytest.mark.parametrize("alone", [True, False])
def test_the_rank_that_alone_prints_is_the_sole_writer(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("WORLD_SIZE", "16")
    titan = "step:  4  loss:  7.6  memory: 66.9GiB(37.5%)  tps: 10,050  tflops: 1.71  mfu: 13.99%\n"
    collecting.write(line(1) if alone else titan)
    collecting.collect()
    assert [one.sole_writer for one in collecting.steps()] == [alone]


@pytest.mark.promise("G20")
def test_a_piece_that_was_not_taken_gives_its_steps_once(collecting: Collecting) -> None:
    collecting.client.fails = True
    collecting.write("".join(map(line, range(5))))
    for _ in range(3):
        collecting.collect()
    collecting.write("".join(map(line, range(5, 8))))
    collecting.collect()
    collecting.client.fails = False
    collecting.collect()
    collecting.write(line(8))
    collecting.collect()
    assert collecting.numbers() == list(range(9))
    assert len(collecting.records("run")) == 1


@pytest.mark.promise("G20")
def test_the_next_process_goes_on_after_the_last_step(collecting: Collecting) -> None:
    """Also where the steps of a piece were recorded, and the piece was not."""
    for begin, killed in ((0, "after"), (3, "before"), (6, "before"), (9, "after")):
        collecting.write("".join(map(line, range(begin, begin + 3))))
        collecting.elsewhere(killed)
    collecting.write(line(12))
    collecting.collect()
    assert sorted(collecting.numbers()) == list(range(13))
    assert len({one.run for one in collecting.steps()}) == 1


def test_a_process_that_takes_over_counts_no_lines_without_a_step(collecting: Collecting) -> None:
    """It cannot know how many there were: no step is better than a wrong one."""
    row = "{{'loss': {}, 'epoch': 0.5}}\n"
    for numbers, killed in ((range(3), "before"), (range(3, 5), "after")):
        collecting.write("".join(map(row.format, numbers)))
        collecting.elsewhere(killed)
    collecting.write("".join(map(row.format, range(5, 9))) + line(9))
    collecting.collect()
    found = {(one.step, one.data.get("loss")) for one in collecting.steps()}
    assert found == {*((n, float(n)) for n in range(5)), (9, None)}
    assert "'loss': 8, " in str(collecting.records("report")), "as text"


def test_a_log_that_is_followed_from_its_end_counts_no_lines(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_LOG_START", "end")
    collecting.write("{'loss': 1.0, 'epoch': 0.5}\n")
    collecting.collect()
    collecting.write("{'loss': 2.0, 'epoch': 0.6}\n" + line(9))
    collecting.collect()
    assert collecting.numbers() == [9]


def test_a_line_that_two_processes_read_is_one(collecting: Collecting) -> None:
    """It was begun, waited for its end in vain, and ended when another process followed."""
    begun, ended = line(7)[:100], line(7)[100:]
    collecting.write(line(6) + begun)
    collecting.elsewhere("after")
    collecting.write(ended + line(8))
    collecting.collect()
    assert sorted(collecting.numbers()) == [6, 7, 8]


def test_the_mark_of_the_latest_spool_counts(collecting: Collecting) -> None:
    """A process that could not write to its spool any more goes on in another one."""
    saved = CheckpointState(position=None, known=frozenset(), pid=os.getpid(), host="node-a")
    for second in (3, 1, 4, 0, 9, 2, 6, 5, 8, 7):
        mark = StepMark(chars=second)
        source = {"path": str(collecting.path), **mark.to_map()}
        body = step.encode("r", 1, 1.0, False, {}, "log", source=source)
        spool = fmt.spool_id(f"20240102T03040{second}", os.getpid(), f"{second:08x}")
        writer = spools.writer(collecting.root, spool=spool)
        writer.append("step", codec.pack(body))
        writer.close()
    assert resume.latest(collecting.root, collecting.path, saved).step == StepMark(chars=9)


def test_a_rotation_changes_nothing(collecting: Collecting) -> None:
    for begin in range(0, 12, 3):
        collecting.write("".join(map(line, range(begin, begin + 3))))
        collecting.collect()
        os.rename(collecting.path, f"{collecting.path}.{begin}")
        collecting.write(line(100 + begin))
        collecting.collect()
    assert collecting.numbers() == [0, 1, 2, 100, 3, 4, 5, 103, 6, 7, 8, 106, 9, 10, 11, 109]


@pytest.mark.promise("G2")
def test_the_end_of_a_process_waits_for_one_piece_at_a_time(collecting: Collecting) -> None:
    collecting.write("".join(map(line, range(5000))))
    looks = iter((True, False))

    class Deadline(float):
        """Is over at the second look."""

        def __gt__(self, now: object) -> bool:
            return next(looks)

    agent._take_last(collecting.collector, Deadline())
    assert len(collecting.records("report")) == 1


def test_iterations_that_go_back_are_recorded(collecting: Collecting) -> None:
    numbers = [1, 2, 3, 2, 3, 4]
    for number in numbers:
        collecting.write(line(number))
        collecting.collect()
    assert collecting.numbers() == numbers


@pytest.mark.promise("G2")
def test_an_unusable_pattern_is_reported_and_costs_no_line(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_LOG_PATTERN", "loss {loss}")
    collecting.write(line(1))
    collecting.collect()
    assert "it has no {step}" in capsys.readouterr().err
    assert collecting.numbers() == [1]


def test_an_operators_own_pattern_is_recorded(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_LOG_PATTERN", "it {step}/{} loss {train/loss}")
    collecting.write("it 7/100  loss 0.5 |\nit 8/100 loss nan\n")
    collecting.collect()
    assert [(one.step, set(one.data)) for one in collecting.steps()] == [
        (7, {"train/loss"}),
        (8, {"train/loss"}),
    ]


# --- trackers -------------------------------------------------------------------------------------

# Records steps as a tracker's hook does, one for each line that it is told.
TRACKER = """
import sys
from spooler.recorder import recorder
from spooler.records import step
for number, _ in enumerate(sys.stdin):
    body = step.encode("r", number, __import__("time").time(), True, {"lm loss": 1.0}, sys.argv[1])
    assert recorder().record("step", body)
    print("recorded", flush=True)
"""


class Tracker:
    """Another process of a job that records steps."""

    def __init__(
        self, root: Path, tracker: str = "wandb", workload: str = "w", world: str = ""
    ) -> None:
        environ = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(root), "WORKLOAD_UID": workload}
        environ |= {"WORLD_SIZE": world} if world else {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRACKER, tracker],
            env=spools.environment(**environ, RANK="7", LOCAL_RANK="7"),
            cwd=spools.REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def log(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "recorded\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def of_the_log(collecting: Collecting) -> list[int]:
    return [one.step for one in collecting.steps() if one.tracker == "log"]


def test_steps_that_a_tracker_of_the_job_records_are_left_out(collecting: Collecting) -> None:
    tracker = Tracker(collecting.root)
    try:
        collecting.write(line(0))
        collecting.collect()
        assert of_the_log(collecting) == [0], "it has logged nothing"
        tracker.log()
        collecting.write(line(1))
        collecting.collect()
        assert of_the_log(collecting) == [0]
    finally:
        tracker.kill()
    collecting.write(line(2).replace("2025-04-13", "2024-04-13"))
    collecting.collect()
    assert of_the_log(collecting) == [0, 2], "printed at a time when it did not live"
    collecting.write(line(3).replace("[2025-04-13 23:41:12]", ""))
    collecting.collect()
    assert of_the_log(collecting) == [0, 2], "printed at the end of its life"


@pytest.mark.parametrize(("tracker", "workload"), [("wandb", "v"), ("log", "w"), ("spooler", "w")])
def test_another_jobs_tracker_and_steps_that_are_no_trackers_change_nothing(
    collecting: Collecting, tracker: str, workload: str
) -> None:
    other = Tracker(collecting.root, tracker, workload)
    try:
        other.log()
        collecting.write(line(1))
        collecting.collect()
        assert 1 in [one.step for one in collecting.steps() if set(one.data) == NAMES]
    finally:
        other.kill()


def test_a_tracker_of_ranks_that_were_started_again_in_another_number_leads(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun's launcher follows the log, and an elastic job loses a node."""
    monkeypatch.setattr(config, "_known", {"WORLD_SIZE": "16"})
    ranks = [Tracker(collecting.root, world="16"), Tracker(collecting.root, world="8")]
    try:
        collecting.write(line(0))
        collecting.collect()
        assert of_the_log(collecting) == [0]
        monkeypatch.setattr(config, "_known", {"WORLD_SIZE": "8"})
        ranks[1].log()
        collecting.write(line(1))
        collecting.collect()
        assert of_the_log(collecting) == [0]
    finally:
        for one in ranks:
            one.kill()


def test_a_tracker_of_this_process_leads_too(collecting: Collecting) -> None:
    recorder_module.recorder().record("step", spools.step(1))
    collecting.write(line(1))
    collecting.collect()
    assert of_the_log(collecting) == []


@pytest.mark.parametrize(("chosen", "expected"), [("log,wandb", [1]), ("wandb", []), ("log", [1])])
def test_the_user_may_choose(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch, chosen: str, expected: list[int]
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_TRACKERS", chosen)
    recorder_module.recorder().record("step", spools.step(1))
    collecting.write(line(1))
    collecting.collect()
    assert of_the_log(collecting) == expected
    assert len(collecting.records("report")) == 1


def test_nothing_is_reported_on_stderr(collecting: Collecting) -> None:
    collecting.write(line(1))
    collecting.collect()
    assert stderr._reported == {}


# --- end to end -----------------------------------------------------------------------------------

TRAINING = """
import os, sys
from spooler import DiagnosisAgent
agent = DiagnosisAgent.singleton_instance(training_log_file=os.environ["TRAINING_LOG_FILE"])
agent.start()
number = 0
for _ in sys.stdin:
    for number in range(number, number + 50):
        print(LINE.format(number, number + 0.5), end="", flush=True)
    number += 1
"""


@pytest.mark.promise("G1")
def test_a_training_that_only_prints_is_killed_and_its_numbers_arrive(tmp_path: Path) -> None:
    root, log = tmp_path / "spool", tmp_path / "train.log"
    environ = {
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(root),
        "PRIMUS_LENS_LOG_SECONDS": "0.05",
        "WORKLOAD_UID": "w",
        "TRAINING_LOG_FILE": str(log),
    }
    for attempt in (1, 2):
        with log.open("a") as out:
            job = subprocess.Popen(
                [sys.executable, "-c", f"LINE = {LINE!r}\n{TRAINING}"],
                env=spools.environment(**environ),
                cwd=spools.REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=out,
                text=True,
            )
        assert job.stdin is not None
        for _ in range(attempt):
            job.stdin.write("\n")
            job.stdin.flush()
        spools.wait_until(lambda last=50 * attempt - 1: last in recorded_steps(root))
        job.send_signal(signal.SIGKILL)
        job.communicate()
    assert sorted(recorded_steps(root)) == sorted([*range(50), *range(100)])
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        assert ship_once(settings(root, tmp_path / "state", receiver.url), timeout=60) == []
        steps = arrived(receiver.store, "w").steps
    assert {number: row["lm loss"] for number, row in steps.items()} == {
        number: number + 0.5 for number in range(100)
    }


def recorded_steps(root: Path) -> list[int]:
    return [
        codec.unpack(stored.body)["step"]
        for directory in spools.spools_below(root)
        for stored in spools.read_whole(directory).records
        if stored.kind == "step"
    ]

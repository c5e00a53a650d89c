"""`spooler.log` for programs without a tracker, and log lines through `logging`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from spooler.records import finish, report, run, step
from tests.kit import spools

PRELUDE = "import json, os, spooler\n"


def play(tmp_path: Path, code: str, **environ: str) -> Any:
    known = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(tmp_path), "WORKLOAD_UID": "w"}
    return spools.python(PRELUDE + code, **{**known, **environ})


def recorded(tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    return [
        (stored.kind, spools.codec.unpack(stored.body))
        for directory in spools.spools_below(tmp_path)
        for stored in spools.read_whole(directory).records
    ]


def steps(tmp_path: Path) -> list[step.StepRecord]:
    return [step.decode(body) for kind, body in recorded(tmp_path) if kind == "step"]


def test_what_a_program_logs_is_recorded(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "import numpy as np\n"
        "with spooler.start_run('first', project='p', config={'lr': 0.1}, tags=['t']) as r:\n"
        "    spooler.log({'loss': np.float32(0.5)})\n"
        "    spooler.log({'loss': 0.25}, step=7)\n"
        "    r.log({'lr': 0.1}, 7, commit=True)\n"
        "    spooler.log({'a': 1}, commit=False)\n"
        "    spooler.log({3: None})\n"
        "    spooler.log({'back': True}, step=2)\n"
        "spooler.log({'b': 2})\nspooler.finish(3)\nprint(json.dumps(spooler.stats()['dropped']))",
    )
    assert spools.answer(done) == {}
    begun, second = [run.decode(body) for kind, body in recorded(tmp_path) if kind == "run"]
    assert (begun.tracker, begun.name, begun.project) == ("spooler", "first", "p")
    assert (begun.config, begun.tags) == ({"lr": 0.1}, ["t"])
    assert [(one.step, one.closed, one.step_given, one.data) for one in steps(tmp_path)] == [
        (0, True, False, {"loss": 0.5}),
        (7, False, True, {"loss": 0.25}),
        (7, True, True, {"lr": 0.1}),
        (8, False, False, {"a": 1}),
        (8, True, False, {"3": None}),
        (2, False, True, {"back": True}),
        (0, True, False, {"b": 2}),
    ]
    ended = [finish.decode(body) for kind, body in recorded(tmp_path) if kind == "finish"]
    assert [(one.run, one.exit_code) for one in ended] == [(begun.run, 0), (second.run, 3)]
    assert begun.run != second.run


def test_a_run_has_the_same_id_in_every_rank_and_after_a_restart(tmp_path: Path) -> None:
    code = "print(json.dumps([spooler.start_run(project=p).run for p in 'ab']))"
    first, again, other = (
        spools.answer(play(tmp_path, code, WORKLOAD_UID=job, RANK=rank, LOCAL_RANK=rank))
        for job, rank in (("w", "0"), ("w", "1"), ("v", "0"))
    )
    assert first == again
    assert len({*first, *other}) == 4


@pytest.mark.promise("G1")
def test_a_kill_right_after_the_call_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import logging; logging.getLogger().addHandler(spooler.LogHandler())\n"
        "for n in range(5): spooler.log({'n': n})\n"
        "logging.warning('the end %d', 7)\nos.kill(os.getpid(), 9)"
    )
    assert play(tmp_path, code).returncode == -signal.SIGKILL
    assert [one.data for one in steps(tmp_path)] == [{"n": n} for n in range(5)]
    (line,) = [report.decode(body) for kind, body in recorded(tmp_path) if kind == "report"]
    assert (line.data_type, line.data_content) == ("TRAINING_LOG", "the end 7\n")


@pytest.mark.promise("G2")
def test_nothing_that_it_is_given_raises(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "class Odd:\n    def __str__(self): raise KeyError('odd')\n"
        "    __int__ = __iter__ = __str__\n"
        "import numpy, warnings; warnings.simplefilter('error'); odd = numpy.complex64(1)\n"
        "import logging; log = logging.getLogger('x'); log.addHandler(spooler.LogHandler())\n"
        "spooler.log({'a': 1}, step=odd); log.warning('%d', odd)  # an exception of numpy's own\n"
        "for data in (None, 7, [1], {Odd(): 1}): spooler.log(data)\n"
        "spooler.log({'a': 1}, step=Odd()); spooler.log({'a': 1}, step='x')\n"
        "spooler.start_run(Odd()); spooler.start_run(tags=Odd()); spooler.start_run(config=7)\n"
        "log.warning('%d', 'x'); log.warning('line %s', Odd())\n"
        "spooler.log({'a': Odd()}); spooler.finish(); spooler.finish()\n"
        "log.warning('still here')\nprint(json.dumps(spooler.stats()['dropped']))",
    )
    assert spools.answer(done) == {"bug": 12}
    assert [set(one.data["a"]) for one in steps(tmp_path)] == [{"_type", "class"}]
    texts = [body["data_content"] for kind, body in recorded(tmp_path) if kind == "report"]
    assert texts == ["still here\n"]


def test_two_threads_do_not_wait_for_each_other_where_stderr_is_a_logger(tmp_path: Path) -> None:
    """One formats a line while the other reports on stderr that the spool cannot be opened."""
    done = play(
        tmp_path,
        "import faulthandler, logging, sys, threading\n"
        "faulthandler.dump_traceback_later(100, exit=True)\n"
        "formatting, writing = threading.Event(), threading.Event()\n"
        "class Stderr:\n"
        "    def write(self, text): writing.set(); logging.error(text)\n"
        "    def flush(self): pass\n"
        "class Line:\n"
        "    def __str__(self): formatting.set(); writing.wait(); return 'line'\n"
        "logging.getLogger().addHandler(spooler.LogHandler()); sys.stderr = Stderr()\n"
        "logs = threading.Thread(target=logging.error, args=('%s', Line())); logs.start()\n"
        "formatting.wait(); spooler.log({'a': 1}); logs.join()\nprint(1)",
        PRIMUS_LENS_WANDB_OUTPUT_PATH="/proc/none",
    )
    assert spools.answer(done) == 1


def test_a_filter_of_the_handler_counts(tmp_path: Path) -> None:
    code = (
        "import logging; one = spooler.LogHandler(); logging.getLogger().addHandler(one)\n"
        "one.addFilter(lambda record: record.levelno > logging.WARNING)\n"
        "logging.warning('left out'); logging.error('kept')\nprint(1)"
    )
    play(tmp_path, code)
    texts = [body["data_content"] for kind, body in recorded(tmp_path) if kind == "report"]
    assert texts == ["kept\n"]


def test_a_step_that_the_user_interrupts_is_counted(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "import signal\nclass Stopped(Exception): pass\n"
        "def stop(number, frame): raise Stopped\nsignal.signal(signal.SIGUSR1, stop)\n"
        "class Name:\n    def __str__(self): signal.raise_signal(signal.SIGUSR1)\n"
        "try: spooler.log({Name(): 1})\n"
        "except Stopped: print(json.dumps(spooler.stats()['dropped']))",
    )
    assert spools.answer(done) == {"interrupted": 1}


def test_without_a_root_one_message_says_so(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "del os.environ['PRIMUS_LENS_WANDB_OUTPUT_PATH']\n"
        "for n in range(3): spooler.log({'n': n})\nprint(1)",
    )
    assert done.stdout == "1\n"
    assert done.stderr.count("Nothing is recorded") == len(done.stderr.splitlines()) == 1

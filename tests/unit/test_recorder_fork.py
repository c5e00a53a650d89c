"""Forks: the child writes a spool of its own or is silent, the parent goes on, nobody hangs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kit import spools

pytestmark = pytest.mark.promise("G2")

# On Python 3.12 and later forking a process that has threads is warned of; it is what we test.
_PRELUDE = """
import json, os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from spooler import recorder as module
from spooler.recorder import recorder
from tests.kit import spools
module._SHUTDOWN_SECONDS = module._FORK_SECONDS = spools.PATIENCE_SECONDS
def record(number):
    assert recorder().record("step", spools.step(number))
def wait(child):
    assert os.waitpid(child, 0)[1] == 0
"""


def run(code: str, root: Path, **environ: str) -> tuple[dict[int, list[str]], str, Any]:
    """Steps and other kinds by the pid that wrote them, stderr, and the last line printed."""
    done = spools.python(_PRELUDE + code, root, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), **environ)
    assert done.returncode == 0, done.stderr
    written: dict[int, list[str]] = {}
    for path in spools.spools_below(root):
        found = spools.read_whole(path)
        pid = spools.Reader(path).identity().pid
        for stored in found.records:
            said = spools.codec.unpack(stored.body)
            written.setdefault(pid, []).append(str(said.get("step", stored.kind)))
    lines = done.stdout.splitlines()
    return written, done.stderr, json.loads(lines[-1]) if lines else None


@pytest.mark.parametrize(
    ("ending", "goodbye"), [("os._exit(0)", []), ("sys.exit(0)", ["exit"]), ("pass", ["exit"])]
)
def test_a_child_has_its_own_spool_and_the_parent_goes_on(
    ending: str, goodbye: list[str], tmp_path: Path
) -> None:
    written, said, child = run(
        f"""
record(1)
child = os.fork()
if child == 0:
    record(101)
    record(102)
    {ending}
else:
    print(child, flush=True)
    record(2)
    wait(child)
    record(3)
""",
        tmp_path,
    )
    assert written.pop(child) == ["101", "102", *goodbye]
    assert list(written.values()) == [["1", "2", "3", "exit"]]
    assert said == ""


def test_a_child_that_records_nothing_leaves_nothing(tmp_path: Path) -> None:
    written, said, _ = run(
        """
record(1)
child = os.fork()
if child == 0:
    sys.exit(0)
wait(child)
record(2)
""",
        tmp_path,
    )
    assert list(written.values()) == [["1", "2", "exit"]]
    assert said == ""


def test_a_child_may_be_the_first_to_record_and_have_children(tmp_path: Path) -> None:
    written, said, pids = run(
        """
recorder()
child = os.fork()
if child == 0:
    record(101)
    grandchild = os.fork()
    if grandchild == 0:
        record(201)
        sys.exit(0)
    wait(grandchild)
    record(102)
    print(json.dumps([os.getpid(), grandchild]), flush=True)
    sys.exit(0)
wait(child)
record(1)
""",
        tmp_path,
    )
    child, grandchild = pids
    assert written.pop(child) == ["101", "102", "exit"]
    assert written.pop(grandchild) == ["201", "exit"]
    assert list(written.values()) == [["1", "exit"]]
    assert said == ""


def test_forks_amid_threads_at_full_speed_neither_hang_nor_lose(tmp_path: Path) -> None:
    written, said, numbers = run(
        """
stop = threading.Event()
counts = [0, 0]
def log(index):
    while not stop.is_set():
        record(counts[index] * 2 + index)
        counts[index] += 1
threads = [threading.Thread(target=log, args=(i,)) for i in range(2)]
for thread in threads:
    thread.start()
children = []
for _ in range(25):
    child = os.fork()
    if child == 0:
        for number in range(5):
            record(number)
        os._exit(0)
    wait(child)
stop.set()
for thread in threads:
    thread.join()
print(json.dumps([os.getpid(), *counts]))
""",
        tmp_path,
        PRIMUS_LENS_SPOOL_SEGMENT_RECORDS="100",
    )
    parent, first, second = numbers
    mine = written.pop(parent)
    assert mine.pop() == "exit"
    steps = [int(text) for text in mine]
    assert [step // 2 for step in steps if step % 2 == 0] == list(range(first))
    assert [step // 2 for step in steps if step % 2 == 1] == list(range(second))
    assert len(written) == 25
    assert all(child == ["0", "1", "2", "3", "4"] for child in written.values())
    assert said == ""


@pytest.mark.parametrize("spool", ["of now", "left"])
def test_a_fork_amid_work_that_does_not_end_makes_a_silent_child(
    spool: str, tmp_path: Path
) -> None:
    """SQLite's own locks would stay taken in the child for ever: better silent than stuck."""
    left = "recorder()._writer = None; record(9)" if spool == "left" else ""
    written, said, pid = run(
        f"""
record(1)
module._FORK_SECONDS = 0.05
writer = recorder()._writer
inside, leave = threading.Event(), threading.Event()
def stay_inside():
    with writer._tending:
        inside.set()
        leave.wait(60)
thread = threading.Thread(target=stay_inside)
thread.start()
inside.wait(60)
{left}
child = os.fork()
if child == 0:
    assert not recorder().record("step", spools.step(101))
    sys.exit(0)
wait(child)
leave.set()
thread.join()
record(2)
print(os.getpid())
""",
        tmp_path,
    )
    if spool == "of now":
        assert written == {pid: ["1", "2", "exit"]}
    assert said.count("this child records nothing") == 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_with_each_of_its_ways(method: str, tmp_path: Path) -> None:
    """Its children end without exit handlers; what they have recorded is there."""
    root = tmp_path / "spool"
    script = tmp_path / "training.py"
    script.write_text(
        f"""
import multiprocessing, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
sys.path.insert(0, {str(spools.REPOSITORY)!r})
from spooler import recorder as module
from spooler.recorder import recorder
from tests.kit import spools
module._FORK_SECONDS = spools.PATIENCE_SECONDS

def work(number):
    assert recorder().record("step", spools.step(number))
    return os.getpid()

if __name__ == "__main__":
    work(1)
    context = multiprocessing.get_context({method!r})
    with context.Pool(2) as pool:
        assert os.getpid() not in pool.map(work, range(10, 20), chunksize=1)
    child = context.Process(target=work, args=(30,))
    child.start()
    child.join()
    assert child.exitcode == 0
    work(2)
"""
    )
    done = spools.python(
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
        if method == "fork"
        else "import subprocess, sys; sys.exit(subprocess.call([sys.executable, sys.argv[1]]))",
        script,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
    )
    assert done.returncode == 0, done.stderr
    steps: list[int] = []
    for path in spools.spools_below(root):
        own = [body["step"] for body in spools.read_whole(path).bodies("step")]
        assert own == sorted(own)
        steps += own
    assert sorted(steps) == [1, 2, *range(10, 20), 30]
    assert done.stderr == ""


@pytest.mark.parametrize("leaves", ["runs.finish(run); os._exit(3)", "raise SystemExit(3)"])
def test_a_child_does_not_end_the_run_of_its_parent(leaves: str, tmp_path: Path) -> None:
    program = f"""
import os
from spooler import recorder as module
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.recorder import recorder
module._SHUTDOWN_SECONDS = module._FORK_SECONDS = {spools.PATIENCE_SECONDS}
class Run(TrackedRun):
    tracker = "wandb"
    def facts(self):
        return {{}}
recorder().on_close.append(runs.finish_all)
run = Run("r")
runs.begin(run)
child = os.fork()
runs.log(run, 0, True, {{"a": 1}}, False)
if child == 0:
    {leaves}
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""
    done = spools.python(program, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    kinds = (
        [kind for kind in spools.kinds(path) if kind != "detection"]
        for path in spools.spools_below(tmp_path)
    )
    child, parent = sorted(kinds, key=len)
    assert child in (["run", "step"], ["run", "step", "exit"])
    assert parent == ["run", "step", "finish", "exit"]

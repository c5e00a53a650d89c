"""Collectors start where a training begins: on each node once, with no tracker, and nowhere else.

The library that trains has the names of torch here and nothing in it. `make test-frameworks` has
the same claims with the real one, below `frameworks`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.collectors.turn import NodeTurn
from tests.kit import spools
from tests.kit.two_nodes import LOG, RANKS, SAMPLE, STACK, Job, job

LIBRARY = """
class Optimizer:
    def __init__(self, parameters):
        self.parameters = list(parameters)
"""
TRAIN = """
import os, sys, time
from torch.optim.optimizer import Optimizer
assert Optimizer([1, 2]).parameters == [1, 2]
rank = os.environ["RANK"]
for number in range(30):
    sys.stdout.write(f"rank {rank} step {number}\\n")  # at once: print may do it in two parts
    sys.stdout.flush()
while os.path.exists("goes-on"):
    time.sleep(0.02)
"""
KINDS = (LOG, SAMPLE, STACK)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    place = tmp_path / "library"
    (place / "torch" / "optim").mkdir(parents=True)
    (place / "torch" / "__init__.py").touch()
    (place / "torch" / "optim" / "__init__.py").touch()
    (place / "torch" / "optim" / "optimizer.py").write_text(LIBRARY)
    return place


@pytest.fixture
def training(tmp_path: Path, library: Path) -> Iterator[Job]:
    """Four ranks on two nodes, which train."""
    (tmp_path / "train.py").write_text(TRAIN)
    with job(tmp_path, sys.executable, str(library)) as made:
        for node in range(2):
            for local in range(RANKS):
                made.start(node, "train.py", **made.rank(node, local))
        yield made


def written(node: int) -> list[str]:
    ranks = range(node * RANKS, node * RANKS + RANKS)
    return [f"rank {rank} step {number}" for rank in ranks for number in range(30)]


def trained(training: Job, node: int) -> Counter[str]:
    """What is recorded of the lines of ranks; a collector whose timer is slow logs that, too."""
    return Counter(line for line in training.lines(node) if line.startswith("rank "))


def is_complete(training: Job, node: int) -> bool:
    samples, stacks = (training.of_node(node, kind) for kind in (SAMPLE, STACK))
    lines = trained(training, node).total()
    return len(samples) >= 3 and len(stacks) >= 3 and lines >= 30 * RANKS


@pytest.mark.promise("G20")
def test_each_node_of_a_job_without_a_tracker_collects_once(training: Job) -> None:
    for node in range(2):
        spools.wait_until(lambda node=node: is_complete(training, node))
    pids = [one.pid for one in training.processes]
    for node in range(2):
        assert trained(training, node) == Counter(written(node))
        holders = {kind: training.pids(node, kind) for kind in KINDS}
        assert {kind: len(found) for kind, found in holders.items()} == dict.fromkeys(KINDS, 1)
        assert set.union(*holders.values()) <= set(pids[node * RANKS : node * RANKS + RANKS])
        (sample,) = {one.content for one in training.of_node(node, SAMPLE)}
        assert sample == f'XPU_TIMER_COMMON_HANG{{node="{node}"}} 0', "of the node's own timer"
    assert training.finish() == [0] * 2 * RANKS


def test_the_process_that_collects_is_replaced_when_it_is_killed(training: Job) -> None:
    spools.wait_until(lambda: is_complete(training, 0))
    (holder,) = training.pids(0, LOG)
    (other,) = {one.pid for one in training.processes[:RANKS]} - {holder}
    os.kill(holder, signal.SIGKILL)
    with training.log_of(0).open("a") as log:
        log.write("rank 0 after the kill\n")
    for kind in KINDS:
        spools.wait_until(lambda kind=kind: other in training.pids(0, kind))
    spools.wait_until(lambda: "rank 0 after the kill" in trained(training, 0))
    assert trained(training, 0) == Counter([*written(0), "rank 0 after the kill"])


def test_a_turn_is_one_process_s_until_it_ends_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools.settle(monkeypatch, tmp_path)
    one, other = NodeTurn(), NodeTurn()
    assert [one.take("ranks a/b"), one.take("ranks a/b"), other.take("ranks a/b")] == [1, 1, 0]
    assert other.take("of another job")
    one.close()
    assert other.take("ranks a/b")
    other.close()
    (folder,) = tmp_path.glob("collectors_*")
    assert [path.name for path in folder.iterdir() if path.name.startswith("ranks")] == []


# --- elsewhere ------------------------------------------------------------------------------------

_LOOK = """
import sys, threading
found = [name for name in sys.modules if name.startswith(("spooler.diagnosis", "spooler.recorder"))]
print(threading.active_count(), found)
"""


@pytest.mark.promise("G9")
@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "import torch.optim.optimizer",
        "import os, torch.optim.optimizer\nif os.fork(): os._exit(os.wait()[1])",
    ],
)
def test_a_process_that_does_not_train_starts_nothing(
    code: str, tmp_path: Path, library: Path
) -> None:
    with job(tmp_path, sys.executable, str(library)) as made:
        made.start(0, "-c", f"{code}\n{_LOOK}", **made.rank(0, 0))
        assert made.finish() == [0]
        assert made.log_of(0).read_text() == "1 []\n"
        assert not made.root.exists()


@pytest.mark.promise("G9")
def test_a_child_that_a_training_forks_collects_nothing_until_it_trains(
    tmp_path: Path, library: Path
) -> None:
    look = (
        "import os, sys, threading\nfrom torch.optim.optimizer import Optimizer\n"
        "def names(): return sorted(t.name for t in threading.enumerate())\n"
        "Optimizer([])\nmine = names()\n"
        "if os.fork(): sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "assert names() == ['MainThread'], names()\n"
        "Optimizer([])\n"
        "assert {'lens-ship-log', 'lens-ship-stack'} <= set(names()) <= set(mine), names()\n"
    )
    with job(tmp_path, sys.executable, str(library)) as made:
        made.start(0, "-c", look, **made.rank(0, 0))
        assert made.finish() == [0], made.log_of(0).read_text()


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_that_trains_records_the_end_of_the_log(
    context: str, tmp_path: Path, library: Path
) -> None:
    """As `torch.multiprocessing.spawn` starts ranks. Such a child ends without atexit."""
    (tmp_path / "train.py").write_text(
        "import multiprocessing, os, sys, time\n"
        "os.environ['PRIMUS_LENS_COLLECTORS'] = 'log'\n"
        "def train():\n"
        "    import spooler\n"
        "    from torch.optim.optimizer import Optimizer\n"
        "    Optimizer([])\n"
        "    while spooler.stats()['recorded'].get('report', 0) < 1: time.sleep(0.01)\n"
        "    print('the last line', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    print('the first line', flush=True)\n"
        "    child = multiprocessing.get_context(sys.argv[1]).Process(target=train)\n"
        "    child.start(); child.join(); sys.exit(child.exitcode)\n"
    )
    with job(tmp_path, sys.executable, str(library)) as made:
        made.start(0, "train.py", context, PRIMUS_LENS_LOG_SECONDS="3600")
        assert made.finish() == [0], made.log_of(0).read_text()
        assert made.lines(0) == ["the first line", "the last line"]


@pytest.mark.promise("G2")
def test_a_signal_handler_that_trains_does_not_wait_for_the_start_that_it_interrupts(
    tmp_path: Path, library: Path
) -> None:
    code = (
        "import signal\nfrom torch.optim.optimizer import Optimizer\n"
        "from spooler import DiagnosisAgent\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print(Optimizer([1]).parameters))\n"
        "init = DiagnosisAgent.__init__\n"
        "def interrupted(*args, **kwargs):\n"
        "    signal.raise_signal(signal.SIGUSR1)\n"
        "    init(*args, **kwargs)\n"
        "DiagnosisAgent.__init__ = interrupted\n"
        "Optimizer([])\n"
        "assert DiagnosisAgent.singleton_instance().is_running"
    )
    with job(tmp_path, sys.executable, str(library)) as made:
        made.start(0, "-c", code)
        assert made.finish() == [0], made.log_of(0).read_text()
        assert made.log_of(0).read_text() == "[1]\n"


def test_uninstall_gives_back_the_calls_whatever_is_wanted_by_then(
    tmp_path: Path, library: Path
) -> None:
    code = (
        "import os, spooler\nfrom torch.optim.optimizer import Optimizer\n"
        "def is_ours(): return hasattr(Optimizer.__init__, '__wrapped__')\n"
        "assert is_ours()\n"
        "del os.environ['PRIMUS_LENS_COLLECTORS']\n"
        "spooler.uninstall()\n"
        "assert not is_ours()"
    )
    with job(tmp_path, sys.executable, str(library)) as made:
        made.start(0, "-c", code)
        assert made.finish() == [0], made.log_of(0).read_text()


def test_a_late_install_reaches_what_other_modules_have_taken(
    tmp_path: Path, library: Path
) -> None:
    """As `torch.distributed` takes the function by a star, and `jax.distributed` by its name."""
    modules = {
        "torch/distributed/__init__": "from .distributed_c10d import *",
        "torch/distributed/distributed_c10d": "def init_process_group(): return 7",
        "jax/__init__": "import jax.distributed",
        "jax/distributed": "from jax._src.distributed import initialize as initialize",
        "jax/_src/__init__": "",
        "jax/_src/distributed": "def initialize(): return 7",
    }
    for name, text in modules.items():
        file = library / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    code = (
        "import sys, spooler\nfrom spooler import DiagnosisAgent\n"
        "spooler.uninstall()\n"
        "import jax, torch.distributed\n"
        "calls = lambda: (torch.distributed.init_process_group, jax.distributed.initialize)\n"
        "own = calls()\n"
        "for _ in range(2):\n"
        "    spooler.install()\n"
        "    assert not {*own} & {*calls()}\n"
        "    spooler.uninstall()\n"
        "    assert calls() == own\n"
        "spooler.install()\n"
        "assert DiagnosisAgent._instance is None\n"
        "assert [call() for call in calls()[int(sys.argv[1]):]][0] == 7\n"
        "assert DiagnosisAgent._instance.is_running"
    )
    with job(tmp_path, sys.executable, str(library)) as made:
        for number in "01":
            made.start(0, "-c", code, number)
        assert made.finish() == [0, 0], made.log_of(0).read_text()


@pytest.mark.promise("G2")
def test_a_fault_of_the_start_changes_nothing_and_is_said_once(
    tmp_path: Path, library: Path
) -> None:
    code = (
        "import sys\nfrom torch.optim.optimizer import Optimizer\n"
        "sys.modules['spooler.diagnosis.start'] = None\n"
        "for _ in range(3): assert Optimizer([1]).parameters == [1]\n"
        "try: Optimizer()\n"
        "except TypeError as error: print(error)"
    )
    with job(tmp_path, sys.executable, str(library)) as made:
        made.start(0, "-c", code)
        assert made.finish() == [0], made.log_of(0).read_text()
        said = made.log_of(0).read_text()
    assert said.count("\n") == 2
    assert said.count("lens-ship cannot start the collectors (ModuleNotFoundError") == 1
    assert "missing 1 required positional argument: 'parameters'" in said


def test_the_timer_is_left_to_the_agent_of_dlrover(tmp_path: Path, library: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    with job(tmp_path, sys.executable, str(library)) as made:
        for local in range(RANKS):
            environ = {**made.rank(0, local), "DLROVER_PARAL_CONFIG_PATH": "/tmp/dlrover"}
            made.start(0, "train.py", **environ)
        spools.wait_until(lambda: {LOG, STACK} <= {one.kind for one in made.collected()})
        assert made.finish() == [0] * RANKS
        assert {one.kind for one in made.collected()} == {LOG, STACK}
        assert made.log_of(0).read_text().count("DLRover's agent samples the XPU timer") == 1


@pytest.mark.parametrize("place", [{}, {"WORKLOAD_UID": "w"}])
def test_processes_without_ranks_each_take_their_stacks(
    place: dict[str, str], tmp_path: Path, library: Path
) -> None:
    """Two programs that a user starts side by side are no ranks of one job."""
    (tmp_path / "train.py").write_text(TRAIN.replace('os.environ["RANK"]', "os.getpid()"))
    with job(tmp_path, sys.executable, str(library)) as made:
        pids = {made.start(0, "train.py", **place).pid for _ in range(2)}
        spools.wait_until(lambda: made.pids(0, STACK) == pids)

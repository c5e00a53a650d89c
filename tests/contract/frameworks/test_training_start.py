"""Collectors start in real trainings of torch and JAX that log to no tracker, and not elsewhere.

Two nodes are two process groups of this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.two_nodes import LOG, RANKS, SAMPLE, STACK, Job, job

FRAMEWORKS = os.environ.get("LENS_SHIP_TEST_FRAMEWORKS", "")
pytestmark = pytest.mark.skipif(not FRAMEWORKS, reason="make test-frameworks runs it")

GOES_ON = """
for number in range(10):
    print(f"rank {rank} step {number}", flush=True)
while os.path.exists("goes-on"):
    time.sleep(0.02)
"""
DISTRIBUTED = f"""
import os, sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
{GOES_ON}
if len(sys.argv) > 1 and rank == int(sys.argv[1]):
    raise RuntimeError("the device is lost")
dist.destroy_process_group()
"""
ALONE = f"""
import os, time, torch
model, rank = torch.nn.Linear(2, 1), 0
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(2)).sum().backward()
optimizer.step()
{GOES_ON}
"""
JAX = f"""
import os, time, jax
address, rank = "127.0.0.1:" + os.environ["MASTER_PORT"], int(os.environ["RANK"])
jax.distributed.initialize(address, num_processes=1, process_id=0)
{GOES_ON}
jax.distributed.shutdown()
"""
LATE = """
import spooler, torch.distributed as dist, torch.distributed.device_mesh as mesh
spooler.uninstall()
own = dist.distributed_c10d.init_process_group
assert dist.init_process_group is own is mesh.init_process_group
spooler.install()
assert dist.init_process_group is mesh.init_process_group is not own
assert spooler.DiagnosisAgent._instance is None
dist.init_process_group("gloo")
assert spooler.DiagnosisAgent._instance.is_running
dist.destroy_process_group()
"""
# The last rank prints and logs, as Megatron-LM does.
MEGATRON = """
import os, sys, time, torch, torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter
dist.init_process_group("gloo")
is_last = dist.get_rank() == dist.get_world_size() - 1
writer = SummaryWriter("tb") if is_last and sys.argv[1] == "tensorboard" else None
for number in range(1, 6) if is_last else ():
    if writer is not None:
        writer.add_scalar("lm loss", 1 / number, number)
    print(
        f" iteration {number:8d}/       5 | consumed samples: {8 * number:12d} |"
        f" elapsed time per iteration (ms): 12.0 | lm loss: {1 / number:.6E} |",
        flush=True,
    )
while os.path.exists("goes-on"):
    time.sleep(0.02)
dist.destroy_process_group()
"""
# A data loader starts its workers as new interpreters, which import torch and the program.
ELSEWHERE = """
import sys, threading, torch, torch.distributed.run, torch.utils.data
class Threads(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, number):
        names = [thread.name for thread in threading.enumerate()]
        loaded = "spooler.diagnosis" in sys.modules or "spooler.recorder" in sys.modules
        return int(loaded or any("lens-ship" in name for name in names))
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(
        Threads(), num_workers=2, multiprocessing_context=sys.argv[1]
    )
    print([int(found) for found in loader], Threads()[0])
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Job]:
    programs = {"distributed": DISTRIBUTED, "alone": ALONE, "jax_": JAX, "megatron": MEGATRON}
    for name, text in {**programs, "elsewhere": ELSEWHERE}.items():
        (tmp_path / f"{name}.py").write_text(text)
    with job(tmp_path, FRAMEWORKS) as made:
        yield made


def torchrun(
    training: Job, node: int, *arguments: str, nodes: int = 2, program: str = "distributed.py"
) -> subprocess.Popen[str]:
    """Start the launcher of a node."""
    return training.start(
        node,
        *("-m", "torch.distributed.run", f"--nnodes={nodes}", f"--node-rank={node}"),
        *(f"--nproc-per-node={RANKS}", "--master-addr=127.0.0.1"),
        *(f"--master-port={training.port}", program, *arguments),
    )


def steps(*ranks: int) -> Counter[str]:
    return Counter(f"rank {rank} step {number}" for rank in ranks for number in range(10))


def recorded_steps(training: Job, node: int) -> Counter[str]:
    """Without what torch itself says in the log."""
    return Counter(line for line in training.lines(node) if line.startswith("rank "))


def numbers_of(training: Job, process: subprocess.Popen[str]) -> tuple[int | None, ...]:
    """Rank, local rank, rank of the node, number of ranks: as the spool of a process has them."""
    (directory,) = (
        path for path in spools.spools_below(training.root) if f"-{process.pid}-" in path.name
    )
    who = Reader(directory).identity()
    return who.rank, who.local_rank, who.node_rank, who.world_size


def test_a_late_install_reaches_the_call_of_torch(training: Job) -> None:
    training.start(0, "-c", LATE, RANK="0", WORLD_SIZE="1")
    assert training.finish() == [0], training.log_of(0).read_text()


def test_torchrun_of_two_nodes_collects_once_on_each_and_in_the_launcher(training: Job) -> None:
    launchers = [torchrun(training, node) for node in range(2)]
    for node in range(2):
        spools.wait_until(lambda node=node: len(training.of_node(node, STACK)) >= 3)
        spools.wait_until(lambda node=node: len(training.of_node(node, SAMPLE)) >= 3)
        expected = steps(*range(node * RANKS, node * RANKS + RANKS))
        spools.wait_until(lambda node=node, all_=expected: recorded_steps(training, node) >= all_)
        assert recorded_steps(training, node) == expected
        assert training.pids(node, LOG) == training.pids(node, SAMPLE) == {launchers[node].pid}
        (rank,) = training.pids(node, STACK)
        assert rank != launchers[node].pid, "the stacks of a launcher tell nothing"
        assert numbers_of(training, launchers[node]) == (node * RANKS, 0, node, 2 * RANKS)
    assert training.finish() == [0, 0]
    for node in range(2):
        assert "\n".join(training.lines(node)) == training.log_of(node).read_text().rstrip("\n")


def test_the_last_words_of_a_rank_that_fails_are_recorded_by_the_launcher(training: Job) -> None:
    torchrun(training, 0, "1", nodes=1)
    spools.wait_until(lambda: recorded_steps(training, 0) >= steps(0, 1))
    assert training.finish() == [1]
    log = training.log_of(0).read_text()
    assert "RuntimeError: the device is lost" in log
    assert "ChildFailedError" in log
    assert "\n".join(training.lines(0)) == log.rstrip("\n"), "with all that torchrun says of it"


def test_a_rank_goes_on_where_a_launcher_that_is_killed_has_left_off(training: Job) -> None:
    launcher = torchrun(training, 0, nodes=1)
    spools.wait_until(lambda: recorded_steps(training, 0) >= steps(0, 1))
    os.kill(launcher.pid, signal.SIGKILL)
    with training.log_of(0).open("a") as log:
        log.write("rank 9 after the kill\n")
    expected = steps(0, 1) + Counter(["rank 9 after the kill"])
    spools.wait_until(lambda: recorded_steps(training, 0) >= expected)
    assert recorded_steps(training, 0) == expected


def test_a_rank_goes_on_where_another_that_is_killed_has_left_off(training: Job) -> None:
    """Started as by srun or mpirun: the ranks have no launcher in Python."""
    numbers = ({**training.rank(0, local), "WORLD_SIZE": str(RANKS)} for local in range(RANKS))
    ranks = [training.start(0, "distributed.py", **environ) for environ in numbers]
    spools.wait_until(lambda: recorded_steps(training, 0) >= steps(0, 1))
    spools.wait_until(lambda: training.pids(0, STACK))
    (holder,) = training.pids(0, LOG)
    (other,) = {one.pid for one in ranks} - {holder}
    os.kill(holder, signal.SIGKILL)
    for kind in (SAMPLE, STACK):
        spools.wait_until(lambda kind=kind: other in training.pids(0, kind))
    with training.log_of(0).open("a") as log:
        log.write("rank 9 after the kill\n")
    expected = steps(0, 1) + Counter(["rank 9 after the kill"])
    spools.wait_until(lambda: recorded_steps(training, 0) >= expected)
    assert recorded_steps(training, 0) == expected


def _need_jax() -> None:
    code = "import sys, importlib.util; sys.exit(importlib.util.find_spec('jax') is None)"
    if subprocess.run([FRAMEWORKS, "-c", code], check=False).returncode:
        pytest.skip("jax is not installed")


@pytest.mark.parametrize("program", ["alone.py", "jax_.py"])
def test_a_training_of_one_process_collects(program: str, training: Job) -> None:
    if program == "jax_.py":
        _need_jax()
    one = training.start(0, program, RANK="0")
    for kind in (LOG, SAMPLE, STACK):
        spools.wait_until(lambda kind=kind: training.pids(0, kind) == {one.pid})
    assert training.finish() == [0]
    assert recorded_steps(training, 0) == steps(0)


@pytest.mark.parametrize("tracker", ["tensorboard", "log"])
def test_the_launcher_records_numbers_of_the_log_that_no_rank_gives_to_a_tracker(
    tracker: str, training: Job
) -> None:
    torchrun(training, 0, tracker, nodes=1, program="megatron.py")
    last = "iteration        5/"  # its numbers are recorded before it
    spools.wait_until(lambda: any(last in line for line in training.lines(0)))
    assert training.finish() == [0]
    found = Counter(
        (body["tracker"], body["step"])
        for directory in spools.spools_below(training.root)
        for body in spools.read_whole(directory).bodies("step")
    )
    assert found == Counter((tracker, number) for number in range(1, 6))


@pytest.mark.promise("G9")
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_nothing_starts_in_data_loaders_and_where_torch_is_only_imported(
    context: str, training: Job
) -> None:
    training.start(0, "elsewhere.py", context)
    assert training.finish() == [0]
    assert training.log_of(0).read_text() == "[0, 0, 0, 0] 0\n"
    assert not training.root.exists()

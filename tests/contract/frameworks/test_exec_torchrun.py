"""`lens-ship exec` around a torchrun of two nodes, which are two process groups of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.ports import reserved_port
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY, environment, wait_until

FRAMEWORKS = os.environ.get("LENS_SHIP_TEST_FRAMEWORKS", "")
pytestmark = pytest.mark.skipif(not FRAMEWORKS, reason="make test-frameworks runs it")

MAIN = "import sys; sys.argv[0] = 'lens-ship'; from shipper.cli import main; main()"
STEPS, PROCESSES = 20, 2  # of each rank, of each node
TRAIN = """
import os, sys, time, torch, torch.distributed as dist, wandb
dist.init_process_group("gloo")
run = wandb.init(project="p", mode="offline")
for step in range(int(sys.argv[1])):
    loss = torch.tensor(float(step))
    dist.all_reduce(loss)
    run.log({"loss": loss.item()}, step=step)
open(f"{sys.argv[2]}-{dist.get_rank()}", "w").close()
while os.path.exists(sys.argv[3]):
    time.sleep(0.05)
run.finish()
dist.destroy_process_group()
"""

WAYS: dict[str, Callable[[int], None]] = {
    "end": lambda pid: None,
    "TERM to the group": lambda pid: os.killpg(pid, signal.SIGTERM),
    "TERM to exec alone": lambda pid: os.kill(pid, signal.SIGTERM),
    "INT to the group": lambda pid: os.killpg(pid, signal.SIGINT),
}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


@pytest.fixture
def nodes(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[list[subprocess.Popen[str]]]:
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "go-on").touch()
    port = reserved_port()
    started = [start(tmp_path, receiver.url, rank, port) for rank in range(2)]
    yield started
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


def start(folder: Path, url: str, node: int, port: int) -> subprocess.Popen[str]:
    places = ("--spool", folder / f"spool-{node}", "--state", folder / f"state-{node}")
    torchrun = [
        *(FRAMEWORKS, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"),
        *(f"--nproc-per-node={PROCESSES}", "--master-addr=127.0.0.1", f"--master-port={port}"),
        *(folder / "train.py", STEPS, folder / "done", folder / "go-on"),
    ]
    environ = environment(
        WORKLOAD_UID=f"node-{node}",
        WANDB_DIR=str(folder),
        OMP_NUM_THREADS="1",
        PYTHONPATH=str(REPOSITORY),
    )
    words = ("exec", "--drain", PATIENCE_SECONDS, *places, "--processor-url", url, "--", *torchrun)
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, words)],
        env=environ,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_two_nodes_is_left(
    tmp_path: Path, receiver: FaultyReceiver, nodes: list[subprocess.Popen[str]], way: str
) -> None:
    ranks = range(2 * PROCESSES)
    wait_until(lambda: all((tmp_path / f"done-{rank}").exists() for rank in ranks))
    if way == "end":
        (tmp_path / "go-on").unlink()
    for node in nodes:
        WAYS[way](node.pid)
    for number, node in enumerate(nodes):
        _, said = node.communicate(timeout=2 * PATIENCE_SECONDS)
        assert (node.returncode == 0) == (way == "end"), said
        assert "nothing left" in said.splitlines()[-1]
        assert sorted(set(arrived(receiver.store, f"node-{number}").order)) == list(range(STEPS))

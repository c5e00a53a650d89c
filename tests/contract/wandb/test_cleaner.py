"""A cleaner removes files of a live run, which is then killed: nothing of it is lost in silence."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.contract.wandb.ran import PYTHON
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver

# For each line that it reads it logs a step, and answers when `log` has returned.
LOG = """
import spooler, sys
spooler.install()
import wandb
run = wandb.init(project="p", settings=wandb.Settings(console="off", silent=True))
for step, line in enumerate(sys.stdin):
    run.log({"loss": step / 2}, step=step)
    print(step, flush=True)
"""


@pytest.mark.promise("G1")
@pytest.mark.promise("G17")
def test_what_was_logged_before_and_after_a_cleaner_is_delivered_or_counted(tmp_path: Path) -> None:
    root, state = tmp_path / "spool", tmp_path / "state"
    process = subprocess.Popen(
        [PYTHON, "-c", LOG],
        env=spools.environment(
            PYTHONPATH=str(spools.REPOSITORY),
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
            WORKLOAD_UID="w",
            WANDB_MODE="offline",
            WANDB_DIR=str(tmp_path),
        ),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def log_a_step() -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    try:
        while log_a_step() < 100:
            pass
        for path in root.rglob("*-wal"):
            path.unlink()
        # Until the background thread, which looks once a second, has seen it and saved the log.
        spools.wait_until(lambda: log_a_step() and is_saved(root))
        last = log_a_step()
    finally:
        process.kill()
        process.wait()
        end_service_of(process.pid)
        process.communicate()
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        lens_ship(
            *("run", "--once", "--timeout", "60", "--spool", str(root), "--state", str(state)),
            *("--processor-url", receiver.url),
        )
        steps = set(arrived(receiver.store, "w").steps)
    audited = lens_ship("audit", "--json", "--spool", str(root), "--state", str(state))
    accounts = json.loads(audited.out)["accounts"]
    assert all(account["balances"] for account in accounts), accounts
    counted = sum(
        account["corrupt"] + sum(account["dropped_by_producer"].values())
        for account in accounts
        if account["sink"] == "processor"
    )
    assert len(set(range(last + 1)) - steps) <= counted


def is_saved(root: Path) -> bool:
    """Whether a second segment is in use, and the first one has all that was in its log."""
    logs = {path.name for path in root.rglob("*-wal")}
    return "00000002.sqlite-wal" in logs and "00000001.sqlite-wal" not in logs


def end_service_of(pid: int) -> None:
    """End the service process of an old wandb, which outlives its parent and holds its pipes."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if command.read_bytes().startswith(b"wandb-service(2-%d-" % pid):
                os.kill(int(command.parent.name), signal.SIGKILL)

"""Runs one trial in a process of its own, from the tree that is to be attacked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.crash.lab.verdict import Verdict
from tests.kit import master
from tests.kit.spools import environment

REPOSITORY = Path(__file__).resolve().parents[3]
# A trial that takes longer hangs: no trial needs as much.
TRIAL_SECONDS = 600.0


@contextmanager
def workplace(keep: Path | None = None) -> Iterator[Path]:
    """A directory for trials, removed afterwards unless it is to be kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="lens-ship-crash-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_trial(name: str, seed: int, work: Path, tree: Path = REPOSITORY) -> Verdict:
    """Attack the product in `tree`; a trial that dies or hangs is a failure too."""
    work.mkdir(parents=True)
    # Not pipes: children of a trial that has died would keep them open.
    with _words() as out, _words() as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.lab.trial", name, str(seed), str(work)],
            cwd=tree,
            env=environment(
                PYTHONPATH=str(tree),
                PYTHONDONTWRITEBYTECODE="1",
                **{master.VARIABLE: str(master.PYTHON)},  # which lies in the repository alone
            ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        hangs = ""
        try:
            process.wait(TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            hangs = f"hangs: still running after {TRIAL_SECONDS:.0f} s; "
            process.send_signal(signal.SIGABRT)  # it prints where its threads are
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
        finally:
            _end_group(process.pid)
            process.wait()
        out.seek(0), err.seek(0)
        said, complained = out.read(), err.read()
    if hangs:
        return Verdict(failures=(hangs + _tail(f"{said}\n{complained}"),))
    if process.returncode != 0:
        return Verdict(failures=(f"died with {process.returncode}: {_tail(complained)}",))
    return Verdict.from_json(said.splitlines()[-1])


def _words() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _end_group(leader: int) -> None:
    """Kill what a trial has left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-40:]) or "no output"

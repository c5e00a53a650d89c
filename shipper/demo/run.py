"""One demo from its preconditions to its exit code."""

from __future__ import annotations

import importlib.util
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from shipper.demo.processes import DemoFiles, ProcessGroup, training_environment
from shipper.demo.report import report
from shipper.demo.scenario import Scenario
from shipper.demo.terminal import Terminal
from shipper.docs import SHARE
from shipper.errors import ConfigError, DemoFailed

_CANNOT_RUN = 2
_REMOVE_SECONDS = 3.0
_PACKAGES = ("numpy", "wandb")
_HOOK_PROBE = "import sys; sys.exit(not any(hasattr(f, 'is_lens_ship') for f in sys.meta_path))"


def run_demo(*, seconds: float, keep: Path | None, seed: int | None = None) -> int:
    """Run the demo. Returns the exit code: 0 nothing is lost, 1 failed, 2 cannot run.

    Args:
        seconds: how long to train, both processes together.
        keep: directory that keeps every file of the demo.
        seed: repeats the times of another demo.
    """
    obstacle = _obstacle(keep)
    if obstacle:
        click.echo(f"lens-ship: {obstacle}", err=True)
        return _CANNOT_RUN
    chosen = random.SystemRandom().randrange(10_000) if seed is None else seed
    for number in (signal.SIGTERM, signal.SIGHUP):  # exit as Ctrl-C does, through every clean-up
        signal.signal(number, lambda caught, _: sys.exit(128 + caught))
    with _files(keep) as place, Terminal() as terminal, ProcessGroup(place) as group:
        terminal.head(chosen)
        try:
            result = Scenario(group, terminal, script(), chosen, seconds).play()
            code = report(result, place, terminal)
        except Exception as error:
            is_expected = isinstance(error, DemoFailed)
            text = str(error) if is_expected else f"{type(error).__name__}: {error}"
            terminal.failure(text, {one.name: one.tail() for one in group.started})
            if not is_expected:
                raise
            code = 1
        if keep is not None:
            terminal.note(f"Spool, state, database and logs: {place.root}")
        return code


def script() -> Path:
    return SHARE / "examples" / "train.py"


def _obstacle(keep: Path | None) -> str:
    """Why the demo cannot run and what to do, or ""."""
    absent = " ".join(name for name in _PACKAGES if importlib.util.find_spec(name) is None)
    if absent:
        return f"the demo needs numpy and wandb for its training. Run: pip install {absent}"
    if keep is not None and keep.exists() and any(keep.iterdir()):
        return f"{keep} is not empty and its files would be counted. Give --keep a new directory."
    temporary = Path(tempfile.gettempdir())
    environ = training_environment(DemoFiles(temporary, temporary))
    probe = [sys.executable, "-c", _HOOK_PROBE]
    if subprocess.run(probe, env=environ, check=False).returncode != 0:
        return (
            "the hook is not installed in this environment. Run `lens-ship hook install`."
            " `lens-ship hook status` shows details."
        )
    return ""


@contextmanager
def _files(keep: Path | None) -> Iterator[DemoFiles]:
    """The directory of the demo, removed at the end unless it is to be kept."""
    scratch = Path(tempfile.mkdtemp(prefix="lens-ship-demo-"))
    place = DemoFiles(scratch / "demo" if keep is None else keep.resolve(), scratch)
    try:
        try:
            for directory in (place.spool, place.training, place.logs):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{error.filename}: {error.strerror}. The demo was not started."
            text += " Give --keep a directory that this user can write."
            raise ConfigError([text]) from error
        yield place
    finally:
        # A helper process of wandb may write until it sees that its training is dead.
        until = time.monotonic() + _REMOVE_SECONDS
        shutil.rmtree(scratch, ignore_errors=True)
        while scratch.exists() and time.monotonic() < until:
            time.sleep(0.1)
            shutil.rmtree(scratch, ignore_errors=True)

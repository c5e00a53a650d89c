"""One demo from its conditions to its exit code."""

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
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import click

from shipper.demo.master import INSTALL, NOT_INSTALLED, Found, Master, find
from shipper.demo.processes import DemoFailed, Place, Stage, training_environment
from shipper.demo.result import report
from shipper.demo.screen import Screen
from shipper.demo.story import Plan, Story

_CANNOT = 2
_REMOVE_SECONDS = 3.0
_NEEDED = ("numpy", "wandb")
_PROBE = "import sys; sys.exit('spooler.activate' not in sys.modules)"


def run(*, seconds: float, keep: Path | None, seed: int | None, dlrover: str) -> int:
    """See `shipper.demo.run_demo`."""
    found = find(dlrover)
    obstacle = _obstacle(keep) or _no_master(dlrover, found)
    if obstacle:
        click.echo(f"lens-ship: {obstacle}", err=True)
        return _CANNOT
    chosen = random.SystemRandom().randrange(10_000) if seed is None else seed
    plan = Plan.drawn(chosen, seconds)
    with _place(keep) as place, _terminated(), Screen() as screen, Stage(place) as stage:
        screen.head(chosen, _without(found))
        master = Master(stage, found.python) if found.python else None
        story = Story(stage=stage, screen=screen, plan=plan, script=script(), master=master)
        try:
            told = story.play()
            code = report(told, place, screen)
        except DemoFailed as failure:
            screen.failure(str(failure), _tails(stage))
            code = 1
        except Exception as error:
            screen.failure(f"{type(error).__name__}: {error}", _tails(stage))
            raise
        if keep is not None:
            screen.note(f"Spool, state, database and logs are in {place.root}.")
        return code


def script() -> Path:
    """The training script: inside the installed package, or beside it in a checkout."""
    packaged = Path(str(files("shipper") / "examples" / "train.py"))
    if packaged.is_file():
        return packaged
    return Path(str(files("shipper"))).parent / "examples" / "train.py"


def _obstacle(keep: Path | None) -> str:
    """What keeps the demo from running and how to repair it, or nothing."""
    absent = " ".join(name for name in _NEEDED if importlib.util.find_spec(name) is None)
    if absent:
        return f"the demo trains with numpy and wandb, which have to be there: pip install {absent}"
    if keep is not None and keep.exists() and any(keep.iterdir()):
        return f"{keep} is not empty: give --keep a new folder, as old files would be counted"
    probe = [sys.executable, "-c", _PROBE]
    temporary = Path(tempfile.gettempdir())
    environ = training_environment(Place(root=temporary, scratch=temporary))
    if subprocess.run(probe, env=environ, check=False).returncode != 0:
        return (
            "the .pth file that activates the hook is not in effect in this environment:"
            " `lens-ship hook install` repairs it, `lens-ship hook status` says more"
        )
    return ""


def _no_master(dlrover: str, found: Found) -> str:
    """What keeps the master that was asked for from taking part, or nothing."""
    if not dlrover or found.python:
        return ""
    return (
        f"--dlrover {dlrover} cannot run a training master: {found.why_not}."
        f" `{dlrover} -m pip install {INSTALL}` may help"
    )


def _without(found: Found) -> str:
    """Why no training master takes part and how to have one, or nothing."""
    if found.python:
        return ""
    if found.why_not == NOT_INSTALLED:
        return "Without a training master, as DLRover is not installed; see --help, --dlrover."
    return f"Without a training master: {found.why_not}; see --help, --dlrover."


def _tails(stage: Stage) -> list[tuple[Path, list[str]]]:
    """What the latest process of each name said last."""
    return [(one.log, one.tail()) for one in {one.name: one for one in stage.children}.values()]


@contextmanager
def _place(keep: Path | None) -> Iterator[Place]:
    """A folder that is kept, or one that is not."""
    scratch = Path(tempfile.mkdtemp(prefix="lens-ship-demo-"))
    place = Place(root=scratch / "demo" if keep is None else keep.resolve(), scratch=scratch)
    try:
        place.prepare()
        yield place
    finally:
        _remove(scratch)


def _remove(root: Path) -> None:
    """Remove the folder; wandb's own helper may write to it until it sees its training dead."""
    until = time.monotonic() + _REMOVE_SECONDS
    shutil.rmtree(root, ignore_errors=True)
    while root.exists() and time.monotonic() < until:
        time.sleep(0.1)
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM and SIGHUP leave as Ctrl-C does: through every clean-up."""

    def leave(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

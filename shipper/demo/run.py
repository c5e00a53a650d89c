"""One demo from its conditions to its exit code."""

from __future__ import annotations

import importlib.util
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import click

from shipper.demo import count, gather
from shipper.demo.processes import (
    WORKLOAD,
    DemoFailed,
    Place,
    Stage,
    training_environment,
)
from shipper.demo.screen import Screen
from shipper.demo.story import Plan, Story, Told

_CANNOT = 2
_NEEDED = ("numpy", "wandb")
_PROBE = "import sys; sys.exit('spooler.activate' not in sys.modules)"


def run(*, seconds: float, keep: Path | None, seed: int | None) -> int:
    """See `shipper.demo.run_demo`."""
    missing = _missing()
    if missing:
        click.echo(f"lens-ship: {missing}", err=True)
        return _CANNOT
    chosen = random.SystemRandom().randrange(10_000) if seed is None else seed
    plan = Plan.drawn(chosen, seconds)
    with _place(keep) as place, _terminated(), Screen() as screen:
        screen.head(chosen)
        with Stage(place) as stage:
            story = Story(stage=stage, screen=screen, plan=plan, script=script())
            try:
                told = story.play()
            except DemoFailed as failure:
                screen.still()
                screen.failure(str(failure), [(c.log, c.tail()) for c in _last(stage)])
                code = 1
            else:
                screen.still()
                code = _report(told, place, screen)
        if keep is not None:
            screen.note(f"Spool, state, database and logs are in {place.root}.")
        return code


def script() -> Path:
    """The training script: inside the installed package, or beside it in a checkout."""
    packaged = Path(str(files("shipper") / "examples" / "train.py"))
    if packaged.is_file():
        return packaged
    return Path(str(files("shipper"))).parent / "examples" / "train.py"


def _missing() -> str:
    """What keeps the demo from running and how to repair it, or nothing."""
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        names = " and ".join(absent)
        return f"the demo trains with numpy and wandb; {names} not found: pip install {' '.join(absent)}"
    probe = [sys.executable, "-c", _PROBE]
    environ = training_environment(Place(root=Path(tempfile.gettempdir())))
    if subprocess.run(probe, env=environ, check=False).returncode != 0:
        return (
            "the .pth file that activates the hook is not in effect in this environment:"
            " `lens-ship hook install` repairs it, `lens-ship hook status` says more"
        )
    return ""


def _report(told: Told, place: Place, screen: Screen) -> int:
    """Count, show, judge."""
    recorded = gather.spools(place.spool)
    received = gather.received(place.received, WORKLOAD)
    accounts = []
    for training in (told.first, told.second):
        name = training.child.name
        source = gather.source(name, training.child.pid, training.report, recorded)
        accounts.append((name, count.account(source, received)))
    total = count.total(account for _, account in accounts)
    screen.table([*accounts, ("total", total)])
    screen.loss(count.curve(received.rows, "loss"), told.restart)
    good = total.is_clean and told.drained and total.written > 0
    screen.result(_sentence(total, drained=told.drained), good=good)
    return 0 if good else 1


def _sentence(total: count.Account, *, drained: bool) -> str:
    if not total.written:
        return "Nothing was logged, so nothing is proved."
    if not drained:
        return "Not everything was sent: something is still in the spool."
    if not total.is_clean:
        return (
            f"{total.lost:,} steps are lost, {total.changed:,} changed, {total.disordered:,} out"
            " of order."
        )
    return (
        f"Nothing is lost: all {total.written:,} steps whose wandb.log returned are at the"
        " receiver,\nin their order, with every name and value as it was logged."
    )


def _last(stage: Stage) -> list[gather.Child]:
    """The latest process of each name."""
    return list({child.name: child for child in stage.children}.values())


@contextmanager
def _place(keep: Path | None) -> Iterator[Place]:
    """A folder that is kept, or one that is not."""
    root = Path(tempfile.mkdtemp(prefix="lens-ship-demo-")) if keep is None else keep.resolve()
    place = Place(root=root)
    place.prepare()
    try:
        yield place
    finally:
        if keep is None:
            # wandb's own helper follows its training into the grave a moment later.
            shutil.rmtree(root, ignore_errors=True)
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

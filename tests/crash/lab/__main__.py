"""The command: python -m tests.crash.lab."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from tests.crash.lab.attacks import REGISTRY, load
from tests.crash.lab.broken import BROKEN_BUILDS
from tests.crash.lab.laboratory import workplace
from tests.crash.lab.matrix import markdown, show
from tests.crash.lab.plan import AttackResult, Laboratory, TrialOrder

# Of the time given, the part that is kept for the broken builds.
BROKEN_SHARE = 0.35


@click.command()
@click.option("--attack", "names", multiple=True, type=click.Choice(list(REGISTRY)))
@click.option(
    "--seed", type=int, help="First seed. Trials take the ones after it. Default: random."
)
@click.option("--trials", type=int, help="Trials of each attack. Default: what the attack names.")
@click.option("--long", "is_long", is_flag=True, help="Run many more trials.")
@click.option(
    "--minutes", default=10.0, show_default=True, help="No trial begins after these minutes."
)
@click.option("--workers", default=2, show_default=True, help="Trials that run at a time.")
@click.option("--broken/--no-broken", default=True, help="Run the broken builds, too.")
@click.option("--markdown", "page", type=Path, help="Write the matrix to this file, too.")
@click.option("--keep", type=Path, help="Work in this directory and keep all files.")
@click.option("--list", "is_list", is_flag=True, help="List attacks and broken builds, and exit.")
def main(
    *,
    names: tuple[str, ...],
    seed: int | None,
    trials: int | None,
    is_long: bool,
    minutes: float,
    workers: int,
    broken: bool,
    page: Path | None,
    keep: Path | None,
    is_list: bool,
) -> None:
    """Attack every guarantee and print which held.

    The exit code is 1 if one failed or a broken build was not noticed. To run a failed trial again:
    --attack NAME --seed N --trials 1.
    """
    console = Console()
    if is_list:
        _list(console)
        return
    first = int.from_bytes(os.urandom(3), "big") if seed is None else seed
    console.print(f"first seed {first}, at most {minutes:g} minutes")
    began = time.monotonic()
    end = began + minutes * 60
    orders = [
        TrialOrder(name=name, trials=trials or _trials(name, is_long=is_long), seed=first)
        for name in names or REGISTRY
    ]
    with workplace(keep) as directory:
        laboratory = Laboratory(
            directory=directory, workers=workers, say=lambda text: console.print(escape(text))
        )
        outcomes = laboratory.attack(orders, end - (60 * minutes * BROKEN_SHARE if broken else 0))
        if broken:
            usual = [
                TrialOrder(name=o.name, trials=load(o.name).trials.usual, seed=first)
                for o in orders
            ]
            _note_broken(outcomes, laboratory.attack_broken(usual, end))
    found = list(outcomes.values())
    show(found, console)
    if page is not None:
        spent = (time.monotonic() - began) / 60
        page.write_text(markdown(found, _head(first, spent, is_long=is_long)), encoding="utf-8")
    sys.exit(0 if all(outcome.is_good for outcome in found) else 1)


def _trials(name: str, *, is_long: bool) -> int:
    trials = load(name).trials
    return trials.long if is_long else trials.usual


def _note_broken(outcomes: dict[str, AttackResult], caught: dict[str, dict[str, bool]]) -> None:
    for name, outcome in outcomes.items():
        if not outcome.missing:
            outcome.broken_builds = {
                broken_build: caught[name].get(broken_build) for broken_build in load(name).catches
            }


def _head(seed: int, minutes: float, *, is_long: bool) -> str:
    day = datetime.now(timezone.utc).date().isoformat()
    target = "crash-long" if is_long else "crash"
    return (
        f"# The crash lab's last run\n\nWritten by `make {target}` on {day}: {minutes:.0f} minutes,"
        f" first seed {seed}. What it means: [crash-lab.md](crash-lab.md)."
    )


def _list(console: Console) -> None:
    for name in REGISTRY:
        attack = load(name)
        missing = attack.missing()
        console.print(f"[bold]{name}[/]: {attack.meaning}; {', '.join(attack.promises)}")
        console.print(f"  must notice: {', '.join(attack.catches)}")
        if missing:
            console.print(f"  [yellow]not possible here: {missing}[/]")
    for name, broken_build in BROKEN_BUILDS.items():
        console.print(f"broken build [bold]{name}[/]: {broken_build.meaning}")


if __name__ == "__main__":
    main()

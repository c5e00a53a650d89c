"""`lens-ship demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shipper.cli.options import NamedPath


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(10, 600),
    default=25.0,
    show_default=True,
    help="How long to train, both processes together.",
)
@click.option(
    "--keep",
    type=NamedPath(file_okay=False, path_type=Path),
    help="New or empty directory that keeps spool, state, database and logs.",
)
@click.option("--seed", type=int, help="Repeat the times of another demo.")
def demo(seconds: float, keep: Path | None, seed: int | None) -> None:
    """Train, kill every process once, and count what arrives. Takes under a minute."""
    from shipper.demo.run import run_demo

    sys.exit(run_demo(seconds=seconds, keep=keep, seed=seed))

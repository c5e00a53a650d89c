"""`lens-ship demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


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
    type=click.Path(file_okay=False, path_type=Path),
    help="New or empty folder for spool, state, database and logs, which then stay.",
)
@click.option("--seed", type=int, help="Repeat the planned moments of another demo.")
@click.option(
    "--dlrover",
    default="",
    envvar="LENS_SHIP_DEMO_DLROVER",
    metavar="PYTHON",
    help="Python of an environment with DLRover, whose master then takes part, dies and comes back;"
    " `pip install 'dlrover[k8s]' grpcio kubernetes tornado protobuf` makes one."
    "  [default: this one, if it has DLRover]",
)
def demo(seconds: float, keep: Path | None, seed: int | None, dlrover: str) -> None:
    """Train, kill, restart, cut the network, and count: nothing is lost. Under a minute."""
    from shipper.demo import run_demo

    sys.exit(run_demo(seconds=seconds, keep=keep, seed=seed, dlrover=dlrover))

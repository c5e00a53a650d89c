"""`lens-ship plot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, need_readable, report_missing_root, settings


@click.command()
@click.argument("run", required=False, default="")
@click.argument("patterns", metavar="[METRIC]...", nargs=-1)
@click.option("--rank", "ranks", type=int, multiple=True, help="Only this rank. Repeatable.")
@click.option(
    "--x",
    "x_axis",
    type=click.Choice(["step", "time"]),
    default="step",
    show_default=True,
    help="X axis: step, or time since the first step.",
)
@click.option("--log", is_flag=True, help="Logarithmic y axis, without values of 0 and below.")
@click.option("--width", type=click.IntRange(20, 10000), help="Width in characters.")
@click.option("--height", type=click.IntRange(5, 10000), help="Height in characters.")
@click.option("--json", "as_json", is_flag=True, help="Print the downsampled series as JSON.")
@settings("spool")
def plot(
    run: str, x_axis: str, config_file: Path | None, spool: str | None, **options: Any
) -> None:
    """Draw METRICs of RUN from its spools: all ranks, all processes of the run.

    RUN is a run id or a prefix of one, METRIC may contain * and ?. Without METRIC: list the metrics
    of the run. Without RUN: list the runs. --spool may also name a single spool.
    """
    from shipper.plot.plot import PlotOptions
    from shipper.plot.plot import plot as draw

    config = load_config({"spool": spool}, config_file)
    need_readable(config.spool)
    report_missing_root(config.spool)
    options |= {"by_time": x_axis == "time", "step_keys": config.keys_of_steps}
    sys.exit(draw(PlotOptions(places=(config.spool,), run=run, **options)))

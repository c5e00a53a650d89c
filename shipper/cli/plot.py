"""`lens-ship plot`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, need_readable, settings


@click.command()
@click.argument("run", required=False, default="")
@click.argument("patterns", metavar="[METRIC]...", nargs=-1)
@click.option("--rank", "ranks", type=int, multiple=True, help="Only this rank; may be repeated.")
@click.option(
    "--x",
    type=click.Choice(["step", "time", "wall"]),
    default="step",
    show_default=True,
    help="What runs to the right: steps, time since the first one, or the clock.",
)
@click.option("--log", is_flag=True, help="Logarithmic; values of 0 and below are left out.")
@click.option("--smooth", type=click.IntRange(0), default=0, help="Mean over so many points.")
@click.option("--width", type=click.IntRange(20, 10000), help="Characters, or pixels with --png.")
@click.option("--height", type=click.IntRange(5, 10000), help="Characters, or pixels with --png.")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a picture instead; needs lens-ship[plot].",
)
@click.option("-f", "--follow", "on", is_flag=True, help="Draw anew as records come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="For machines: the curves, thinned.")
@settings("spool")
def plot(
    run: str,
    patterns: tuple[str, ...],
    width: int | None,
    height: int | None,
    config_file: Path | None,
    spool: str | None,
    **wish: Any,
) -> None:
    """Draw METRICs of RUN straight from its spools: all ranks, all processes it had.

    RUN is a run's id or the beginning of one; METRIC may hold * and ?. Without METRIC: what there
    is to draw. Without RUN: the runs there are. --spool may also be one spool.
    """
    from shipper.plot.plot import Wish
    from shipper.plot.plot import plot as draw

    if wish["on"] and (not patterns or wish["png"] or wish["as_json"]):
        raise click.UsageError("--follow draws METRICs in the terminal: not with --png or --json")
    root = load_config({"spool": spool}, config_file).spool
    need_readable(root)
    sizes = (width or 0, height or 0)
    sys.exit(draw(Wish(places=(root,), run=run, patterns=patterns, sizes=sizes, **wish)))

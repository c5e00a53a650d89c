"""`lens-ship tail`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, need_readable, one_of, settings


@click.command()
@click.argument("places", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
@click.option("-f", "--follow", "on", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--last",
    "count",
    type=click.IntRange(0, 1_000_000),
    default=10,
    show_default=True,
    help="How many of the last records to begin with.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    callback=one_of("spooler.records"),
    help="Only records of this kind; may be repeated.",
)
@click.option("--run", default="", help="Only this run; the beginning of its id is enough.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Only this rank; may be repeated.")
@click.option("--workload", default="", help="Only this workload.")
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object a line.")
@settings("spool")
def tail(
    places: tuple[Path, ...],
    on: bool,
    count: int,
    as_json: bool,
    config_file: Path | None,
    spool: str | None,
    **conditions: Any,
) -> None:
    """Print records of the spools at or below PLACES as they are written, one line each.

    Without PLACES: those below --spool. Reads only, also beside the processes that write and ship.
    """
    from shipper.inspection.tail import Wanted
    from shipper.inspection.tailing import tail as print_tail

    roots = places or (load_config({"spool": spool}, config_file).spool,)
    need_readable(*roots)
    sys.exit(print_tail(roots, Wanted(**conditions), count=count, on=on, as_json=as_json))

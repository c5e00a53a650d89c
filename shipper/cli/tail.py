"""`lens-ship tail`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import (
    NamedPath,
    load_config,
    need_readable,
    report_missing_root,
    settings,
    word,
)
from spooler.records import REGISTRY


@click.command()
@click.argument("places", nargs=-1, type=NamedPath(path_type=Path, file_okay=False))
@click.option("-f", "--follow", is_flag=True, help="Follow new records until interrupted.")
@click.option(
    "-n",
    "--last",
    "count",
    type=click.IntRange(0, 1_000_000),
    default=10,
    show_default=True,
    help="Number of last records to print first.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(list(REGISTRY)),
    help="Only records of this kind. Repeatable.",
)
@word("--run", help="Only this run, a prefix of its id is enough.")
@click.option("--rank", "ranks", type=int, multiple=True, help="Only this rank. Repeatable.")
@word("--workload", help="Only this workload.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@settings("spool")
def tail(
    places: tuple[Path, ...],
    follow: bool,
    count: int,
    as_json: bool,
    config_file: Path | None,
    spool: str | None,
    **conditions: Any,
) -> None:
    """Print records of the spools at or below PLACES, one line each.

    Without PLACES: the spools below --spool. Reads only, safe while jobs write and the service
    ships.
    """
    from shipper.inspection.tail import RecordFilter
    from shipper.inspection.tail import tail as print_tail

    config = load_config({"spool": spool}, config_file, needs_spool=not places)
    roots = places or (config.spool,)
    need_readable(*roots)
    for root in roots:
        report_missing_root(root)
    wanted = RecordFilter(**conditions, step_keys=config.keys_of_steps)
    sys.exit(print_tail(roots, wanted, count=count, follow=follow, as_json=as_json))

"""`lens-ship inspect`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--verify", is_flag=True, help="Read and check every record of large spools too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def inspect(paths: tuple[Path, ...], verify: bool, as_json: bool) -> None:
    """Show the contents and problems of spools, segments or spool roots.

    Reads only, safe while jobs write and the service ships. Exits 1 if there is an error or a path
    is not a spool.
    """
    from shipper.inspection.report import inspect_paths

    sys.exit(inspect_paths(paths, verify=verify, as_json=as_json))

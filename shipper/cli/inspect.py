"""`lens-ship inspect`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--verify", is_flag=True, help="Read and check every record, however many there are.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON list.")
def inspect(paths: tuple[Path, ...], verify: bool, as_json: bool) -> None:
    """Say what PATHS are and hold: spools, single segments, or roots of spools.

    Reads only, also beside the processes that write and ship. Exit 1 when something is wrong with
    one of them, or when one is no spool.
    """
    from shipper.inspection.inspect import inspect_paths

    sys.exit(inspect_paths(paths, verify=verify, as_json=as_json))

"""`lens-ship init-root`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from shipper.cli.options import NamedPath

# Readability is not checked: uid 0 without capabilities cannot read it, and need not.
_DIRECTORY = NamedPath(file_okay=False, readable=False, path_type=Path)


@click.command("init-root")
@click.argument("root", type=_DIRECTORY)
@click.option("--owner", required=True, metavar="UID:GID", help="User and group of the service.")
@click.option("--state", type=_DIRECTORY, help="State directory to give to the service as well.")
def init_root(root: Path, owner: str, state: Path | None) -> None:
    """Create a shared spool root ROOT with per-user isolation. Must be run as root.

    Every user may create directories in ROOT. Only that user and the service can read them.
    """
    from shipper.discovery.layout import pod_directories
    from shipper.install.spool_root import prepare, prepare_state, repair_pod

    ids = re.fullmatch(r"(\d{1,10}):(\d{1,10})", owner)
    if ids is None:
        raise click.BadParameter(f"{owner!r} is not UID:GID (two numbers)", param_hint="--owner")
    uid, gid = int(ids[1]), int(ids[2])
    lines = prepare(root.absolute(), uid=uid, gid=gid)
    for directory in pod_directories(root.absolute()):
        lines += repair_pod(directory, gid=gid)
    if state is not None:
        lines += prepare_state(state.absolute(), uid=uid, gid=gid)
    for line in lines:
        click.echo(line)

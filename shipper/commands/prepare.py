"""`lens-ship prepare`."""

from __future__ import annotations

import re
from pathlib import Path

import click


@click.command()
@click.argument("root", type=click.Path(file_okay=False, path_type=Path))
@click.option("--owner", required=True, metavar="UID:GID", help="User and group of the service.")
def prepare(root: Path, owner: str) -> None:
    """Make ROOT a spool root that users and pods share without trusting each other; as root.

    Everybody may make folders in it; each is that user's and the service's alone.
    """
    from shipper.shared_root import prepare as make

    given = re.fullmatch(r"(\d{1,10}):(\d{1,10})", owner)
    if given is None:
        raise click.BadParameter(f"{owner!r} is not UID:GID, two numbers", param_hint="--owner")
    for line in make(root.absolute(), uid=int(given[1]), gid=int(given[2])):
        click.echo(line)

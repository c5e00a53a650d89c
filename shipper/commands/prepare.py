"""`lens-ship prepare`."""

from __future__ import annotations

import re
from pathlib import Path

import click

# Not asked whether it can be read: uid 0 without capabilities cannot, and need not.
_FOLDER = click.Path(file_okay=False, readable=False, path_type=Path)


@click.command()
@click.argument("root", type=_FOLDER)
@click.option("--owner", required=True, metavar="UID:GID", help="User and group of the service.")
@click.option("--state", type=_FOLDER, help="State directory to hand to the service, too.")
def prepare(root: Path, owner: str, state: Path | None) -> None:
    """Make ROOT a spool root that users and pods share without trusting each other; as root.

    Everybody may make folders in it; each is that user's and the service's alone.
    """
    from shipper.install.spool_root import prepare as prepare_root
    from shipper.install.spool_root import prepare_state

    given = re.fullmatch(r"(\d{1,10}):(\d{1,10})", owner)
    if given is None:
        raise click.BadParameter(f"{owner!r} is not UID:GID, two numbers", param_hint="--owner")
    uid, gid = int(given[1]), int(given[2])
    lines = prepare_root(root.absolute(), uid=uid, gid=gid)
    if state is not None:
        lines += prepare_state(state.absolute(), uid=uid, gid=gid)
    for line in lines:
        click.echo(line)

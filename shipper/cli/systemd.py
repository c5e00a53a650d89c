"""`lens-ship systemd install|uninstall|show`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import Group, NamedPath


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which service is meant."""
    for option in (
        click.option("--user", is_flag=True, help="A service of this user's own manager."),
        click.option(
            "--root",
            type=NamedPath(file_okay=False, path_type=Path),
            default=Path("/"),
            show_default=True,
            help="Prefix of every path, as for an image.",
        ),
        click.option(
            "--spool",
            default="",
            help="Spool root.  [default: /var/spool/lens-ship, ~/.local/share/lens-ship/spool]",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=Group)
def systemd() -> None:
    """The systemd service for the lens-ship of this Python environment."""


@systemd.command("install")
@click.option("--force", is_flag=True, help="Replace files that were changed by hand, too.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@_which
def systemd_install(force: bool, dry_run: bool, user: bool, root: Path, spool: str) -> None:
    """Write the unit, the user, the rules of the spool root and an environment file.

    Starts nothing. Run it again after an upgrade or a move. A file that was changed by hand is not
    replaced without --force. The environment file is never replaced.
    """
    from shipper.install.systemd import install, next_steps, plan

    spool = _spool(spool, user)
    planned = plan(user=user, root=root, spool=spool)
    for line in install(planned, force=force, dry_run=dry_run):
        click.echo(line)
    if dry_run:
        return
    if not user:
        _warn_about_hidden("the Python", os.path.realpath(sys.executable))
        _warn_about_hidden("--spool", spool)
    click.echo("\nNext:")
    for step in next_steps(user=user, root=root, spool=spool):
        click.echo(f"  {step}")


@systemd.command("uninstall")
@click.option("--force", is_flag=True, help="Delete files that were changed by hand, too.")
@_which
def systemd_uninstall(force: bool, user: bool, root: Path, spool: str) -> None:
    """Delete what `install` wrote, and the link of `systemctl enable`.

    Spools, state, the user of the service and a changed environment file stay.
    """
    from shipper.install.systemd import plan, uninstall

    lines = uninstall(plan(user=user, root=root, spool=_spool(spool, user)), force=force)
    for line in lines or ["nothing is installed there"]:
        click.echo(line)
    if lines and root == Path("/"):
        manager = "systemctl --user" if user else "systemctl"
        click.echo(
            "\nA service that was started still runs, and delivers. Next:"
            f"\n  {manager} stop lens-ship\n  {manager} daemon-reload"
        )


@systemd.command("show")
@_which
def systemd_show(user: bool, root: Path, spool: str) -> None:
    """Print the files that `install` would write."""
    from shipper.install.systemd import plan

    for file in plan(user=user, root=root, spool=_spool(spool, user)):
        click.echo(f"# {file.path}\n{file.text}")


def _spool(given: str, user: bool) -> str:
    from shipper.install.systemd import DEFAULT_SPOOL, home_of_user

    if given:
        return str(Path(given).expanduser().absolute())
    return str(home_of_user() / ".local/share/lens-ship/spool") if user else DEFAULT_SPOOL


def _warn_about_hidden(what: str, path: str) -> None:
    """A system service sees no home directories, and has temporary directories of its own."""
    homes, temporary = ("/home/", "/root/", "/run/user/"), ("/tmp/", "/var/tmp/")
    for setting, places in (("ProtectHome", homes), ("PrivateTmp", temporary)):
        if path.startswith(places):
            click.echo(
                f"\nwarning: {what} is in {path}, which the service cannot see ({setting}=yes)."
                " Use /var/spool/lens-ship for spools, and for Python a place such as"
                " /opt/lens-ship: /usr/bin/python3 -m venv /opt/lens-ship",
                err=True,
            )

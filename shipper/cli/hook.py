"""`lens-ship hook status|install|uninstall|export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from shipper.cli.options import Group


@click.group(cls=Group)
def hook() -> None:
    """The zero-code hook of this Python environment."""


@hook.command("status")
def hook_status() -> None:
    """Say whether Python processes of this environment are hooked, and why not."""
    from shipper.install.pth import report

    lines, active = report(os.environ)
    for line in lines:
        click.echo(line)
    sys.exit(0 if active else 1)


@hook.command("install")
def hook_install() -> None:
    """Put the .pth file in place where it is missing or damaged."""
    from shipper.install.pth import install

    click.echo(install())


@hook.command("uninstall")
def hook_uninstall() -> None:
    """Take the .pth file away; the package stays."""
    from shipper.install.pth import uninstall

    click.echo(uninstall())


@hook.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def hook_export(folder: Path) -> None:
    """Write FOLDER, which hooks any Python that has it in PYTHONPATH; replaces its own older one.

    For training images that cannot be changed: nothing has to be installed in them.
    """
    from shipper.install.pth import export

    click.echo(export(folder.absolute()))

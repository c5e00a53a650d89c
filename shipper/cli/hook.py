"""`lens-ship hook status|install|uninstall|export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from shipper.cli.options import Group, NamedPath


@click.group(cls=Group)
def hook() -> None:
    """The zero-code hooks of this Python environment."""


@hook.command("status")
def hook_status() -> None:
    """Show which trackers have a hook in this environment, whether it is active, and why not."""
    from shipper.install.pth import report

    lines, active = report(os.environ)
    for line in lines:
        click.echo(line)
    sys.exit(0 if active else 1)


@hook.command("install")
def hook_install() -> None:
    """Write the .pth file that loads the hook, or repair it."""
    from shipper.install.pth import install

    click.echo(install())


@hook.command("uninstall")
def hook_uninstall() -> None:
    """Delete the .pth file. The package stays installed."""
    from shipper.install.pth import uninstall

    click.echo(uninstall())


@hook.command("export")
@click.argument("directory", type=NamedPath(file_okay=False, path_type=Path))
def hook_export(directory: Path) -> None:
    """Write DIRECTORY, which loads the hook in any Python that has it in PYTHONPATH.

    For training images that cannot be changed. Replaces an older export.
    """
    from shipper.install.pth import export

    click.echo(export(directory.absolute()))

"""`lens-ship config show|default`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shipper.cli.options import Group, json_flag, load_config, settings


@click.group(cls=Group)
def config() -> None:
    """Show the settings of the service."""


@config.command("show")
@json_flag
@click.option("--toml", "as_toml", is_flag=True, help="Print a commented file for --config.")
@settings()
def config_show(as_json: bool, as_toml: bool, config_file: Path | None, **flags: Any) -> None:
    """Print every setting that `lens-ship run` would use here, and where it comes from."""
    from shipper.cli.render import print_json, print_settings
    from shipper.config.render import effective, values_of

    loaded = load_config(flags, config_file, needs_spool=False)
    if as_toml:
        click.echo(effective(loaded), nl=False)
        return
    values, given = values_of(loaded), loaded.given
    if as_json:
        print_json(
            {
                name: {"value": value, "from": given.get(name, "default")}
                for name, value in values.items()
            }
        )
    else:
        print_settings(values, given)


@config.command("default")
def config_default() -> None:
    """Print a commented file of all settings with their defaults."""
    from shipper.config.render import defaults

    click.echo(defaults(), nl=False)

"""`lens-ship config show|default`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shipper.cli.options import Group, load_config, settings


@click.group(cls=Group)
def config() -> None:
    """The settings: what they are now and where they came from."""


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
@click.option("--toml", "as_toml", is_flag=True, help="A commented file that --config takes.")
@settings()
def config_show(as_json: bool, as_toml: bool, config_file: Path | None, **flags: Any) -> None:
    """Print every setting as `lens-ship run` would have it here, and where it came from."""
    from shipper.cli.render import print_json, print_settings
    from shipper.config.render import effective, values_of

    loaded = load_config(flags, config_file, needs_spool=False)
    if as_toml:
        click.echo(effective(loaded), nl=False)
        return
    rows = values_of(loaded)
    if as_json:
        print_json(
            {
                name: {"value": value, "from": loaded.given.get(name, "default")}
                for name, value in rows.items()
            }
        )
        return
    print_settings(rows, loaded.given)


@config.command("default")
def config_default() -> None:
    """Print a commented file of all settings with their defaults."""
    from shipper.config.render import defaults

    click.echo(defaults(), nl=False)

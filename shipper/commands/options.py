"""What several commands have in common: options for settings, the ledger, the log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


def settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options for these settings, from the one table of them."""
    from shipper.config import SETTINGS

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS):
            if names and setting.name not in names:
                continue
            default = "" if setting.default in (None, "") else f"  [default: {setting.default}]"
            command = click.option(
                setting.flag, setting.name, metavar="VALUE", help=setting.help + default
            )(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(dir_okay=False, path_type=Path),
            envvar="LENS_SHIP_CONFIG",
            help="TOML file with any of these settings.",
        )(command)

    return decorate


def load_config(flags: dict[str, Any], config_file: Path | None) -> Any:
    """The settings for a command."""
    from shipper.config import load

    return load(flags, os.environ, config_file)


@contextmanager
def ledger_of(state: str | None, config_file: Path | None) -> Iterator[Any]:
    """The ledger of the given state directory, beside a service that may be running."""
    from shipper.dead_letters import open_ledger

    # These commands need no spool root; the table of settings wants one.
    ledger = open_ledger(load_config({"state": state, "spool": "."}, config_file))
    try:
        yield ledger
    finally:
        ledger.close()


def start_logging(level: str) -> None:
    """Log to stderr from `level` on."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("watchdog").setLevel(logging.WARNING)

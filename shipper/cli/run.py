"""`lens-ship run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, settings

log = logging.getLogger(__name__)


@click.command()
@click.option("--once", is_flag=True, help="Deliver what is in the spools now, then exit.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    envvar="LENS_SHIP_TIMEOUT",
    help="With --once: seconds after which to stop.",
)
@settings()
def run(once: bool, timeout: float, config_file: Path | None, **flags: Any) -> None:
    """Deliver the spools below a root until SIGTERM or Ctrl-C.

    With --once: exits 0 if everything was delivered, 1 if records are still pending.
    """
    from shipper.log import fields, start
    from shipper.service import Service, ship_once

    config = load_config(flags, config_file, warn=False, sends=True)
    start(config.log_level, config.log_format, config.log_repeat_seconds)
    for warning in config.warnings:
        name, _, problem = warning.partition(": ")
        log.warning("setting ignored", extra=fields(reason=name, detail=problem))
    if once:
        pending = ship_once(config, timeout=timeout)
        for line in pending:
            click.echo(f"lens-ship: still pending: {line}", err=True)
        sys.exit(1 if pending else 0)
    service = Service(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    # A worker's thread may still be in a request; do not wait for it.
    logging.shutdown()
    os._exit(0)

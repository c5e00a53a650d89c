"""`lens-ship run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import load_config, settings, start_logging

log = logging.getLogger(__name__)


@click.command()
@click.option("--once", is_flag=True, help="Ship what is there and end.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    envvar="LENS_SHIP_TIMEOUT",
    help="With --once: seconds after which to give up.",
)
@settings()
def run(once: bool, timeout: float, config_file: Path | None, **flags: Any) -> None:
    """Ship the spools below a root until told to stop (SIGTERM, Ctrl-C).

    With --once: exit 0 when nothing is left to send, 1 when something is.
    """
    from shipper.log import fields
    from shipper.service import Service, ship_once

    config = load_config(flags, config_file, warn=False, sends=True)
    start_logging(config.log_level, config.log_format, config.log_repeat_seconds)
    for warning in config.warnings:
        log.warning("%s", warning, extra=fields(reason=warning.partition(":")[0]))
    if once:
        pending = ship_once(config, timeout=timeout)
        for line in pending:
            click.echo(f"lens-ship: still pending: {line}", err=True)
        sys.exit(1 if pending else 0)
    service = Service(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    # A worker may still hang in a request; its thread is not worth waiting for.
    logging.shutdown()
    os._exit(0)

"""`lens-ship run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import Number, load_config, open_ledger, settings

log = logging.getLogger(__name__)


if TYPE_CHECKING:
    from shipper.config.schema import Config
    from shipper.ledger.totals import LedgerTotals


@click.command()
@click.option("--once", is_flag=True, help="Deliver what is in the spools now, then exit.")
@click.option(
    "--timeout",
    type=Number(0.1),
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
    from shipper.service import Service

    config = load_config(flags, config_file, warn=False, sends=True)
    start(config.log_level, config.log_format, config.log_repeat_seconds)
    for warning in config.warnings:
        name, _, problem = warning.partition(": ")
        log.warning("setting ignored", extra=fields(reason=name, detail=problem))
    try:
        if once:
            sys.exit(_ship_once(config, timeout))
        service = Service(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stop())
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, _on_hangup)
        service.run()
    finally:
        logging.shutdown()
    # A worker's thread may still be in a request; do not wait for it.
    os._exit(0)


def _ship_once(config: Config, timeout: float) -> int:
    """Deliver what is there, and print what became of it; the exit code."""
    from shipper.humanize import by_reason, counted, sanitize
    from shipper.service import ship_once

    before = _totals(config)
    pending = ship_once(config, timeout=timeout)
    logging.shutdown()  # what follows is below the log
    totals = _totals(config)
    for line in pending:
        click.echo(f"lens-ship: still pending: {sanitize(line, None)}", err=True)
    delivered = totals.delivered - before.delivered
    text = f"{counted(delivered.total(), 'record')} delivered"
    text += f": {by_reason(delivered)}" if len(+delivered) > 1 else ""
    kept = sum(count for (_, _, state), count in totals.dead.items() if state == "kept")
    if kept:
        text += f". {counted(kept, 'dead letter')} kept, see `lens-ship dead-letter list`"
    click.echo(text)
    return 1 if pending else 0


def _totals(config: Config) -> LedgerTotals:
    from shipper.ledger.database import exists
    from shipper.ledger.totals import NO_TOTALS, read_totals

    if not exists(config.state):
        return NO_TOTALS
    with open_ledger(config) as ledger:
        return read_totals(ledger)


def _on_hangup(*_: object) -> None:
    """A terminal that closes, or `kill -HUP`, which other services take for a reload."""
    from shipper.log import fields

    log.warning("SIGHUP ignored, settings are read at the start", extra=fields(reason="hangup"))

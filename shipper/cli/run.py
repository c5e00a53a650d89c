"""`lens-ship run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import Number, load_config, more_sinks, open_ledger, settings

log = logging.getLogger(__name__)


if TYPE_CHECKING:
    from shipper.config.schema import Config
    from shipper.ledger.totals import LedgerTotals
    from shipper.service import Service


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
@click.option(
    "--stop-on-eof",
    is_flag=True,
    help="Take the end of standard input for a SIGTERM, as of a program that started this.",
)
@more_sinks
@settings()
def run(
    once: bool, timeout: float, stop_on_eof: bool, config_file: Path | None, **flags: Any
) -> None:
    """Deliver the spools below a root until SIGTERM or Ctrl-C.

    Then go on for up to --drain-seconds. A second signal ends the service at once.

    With --once: exits 0 if everything was delivered, 1 if records are still pending.
    """
    numbers = _signals()
    # The service gets them once it can answer them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK if once else signal.SIG_BLOCK, numbers)
    from shipper.launch.keeper import log_of
    from shipper.log import fields, start
    from shipper.service import Service

    config = load_config(flags, config_file, warn=False, sends=True)
    own = log_of(config.state)
    start(config.log_level, config.log_format, config.log_repeat_seconds, own)
    for warning in config.warnings:
        name, _, problem = warning.partition(": ")
        log.warning("setting ignored", extra=fields(reason=name, detail=problem))
    try:
        if once:
            sys.exit(_ship_once(config, timeout))
        service = Service(config)
        _await_signals(numbers, service)
        if stop_on_eof:
            threading.Thread(target=_read_to_end, args=(service,), daemon=True).start()
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


def _signals() -> set[signal.Signals]:
    """Those that the service answers."""
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        numbers.remove(signal.SIGHUP)
    return numbers


def _await_signals(numbers: set[signal.Signals], service: Service) -> None:
    """Answer signals on a thread: a handler could interrupt what holds a lock that it needs.

    They come through a pipe, whichever thread the kernel interrupts: libraries have some.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    threading.Thread(target=_answer, args=(read, service), daemon=True).start()


def _answer(pipe: int, service: Service) -> None:
    from shipper.log import fields

    while True:
        for number in os.read(pipe, 64):
            if number == signal.SIGHUP:
                # A terminal that closes, or `kill -HUP`, which other services take for a reload.
                why = fields(reason="hangup")
                log.warning("SIGHUP ignored, settings are read at the start", extra=why)
            else:
                service.end()


def _read_to_end(service: Service) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    service.end()

"""`lens-ship status`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import Number, load_config, report_missing_root, settings, word

if TYPE_CHECKING:
    from shipper.status.collect import StatusCollector
    from shipper.status.model import Status
    from shipper.status.summary import Summary


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with --watch one object a line.")
@click.option("--all", "everything", is_flag=True, help="Show every spool, not only the worst.")
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value="2",
    type=Number(0.2),
    help="Repeat until Ctrl-C, every 2 seconds by default.",
)
@word("--spool-id", "only", metavar="PREFIX", help="Show only these spools.")
@click.option(
    "--max-dead-letters",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Exit 0 with up to N dead letters.",
)
@settings("spool", "state")
def status(
    config_file: Path | None, spool: Path | None, state: Path | None, **options: Any
) -> None:
    """Show delivery status: backlog, lag, errors and losses per sink and spool.

    Reads only, and can run next to the service. Exits 1 if operator action is required, otherwise
    0. A spool root that does not exist is an error.

    What requires action is listed by `lens-ship docs monitoring`.
    """
    from shipper.status.collect import StatusCollector

    options["everything"] |= bool(options["only"])
    config = load_config({"spool": spool, "state": state}, config_file)
    with StatusCollector(config) as collector:
        if not options["watch"]:
            action_required = _show(collector, options)
            sys.exit(1 if report_missing_root(config.spool) or action_required else 0)
        with suppress(KeyboardInterrupt):
            _watch(collector, options)


def _show(collector: StatusCollector, options: dict[str, Any]) -> bool:
    """Print the status once; whether operator action is required."""
    from shipper.cli.render import print_json
    from shipper.status.terminal import render
    from shipper.tables import console

    status, summary = _collect(collector, options)
    if options["as_json"]:
        facts = {"status": summary.to_map(), **status.to_map()}
        print_json(facts, on_one_line=bool(options["watch"]))
    else:
        out = console()
        out.print(render(status, summary, width=out.width, everything=options["everything"]))
    return summary.action_required


def _watch(collector: StatusCollector, options: dict[str, Any]) -> None:
    """Print it repeatedly, in place on a terminal."""
    from rich.live import Live

    from shipper.status.terminal import render
    from shipper.tables import console

    out = console()
    if options["as_json"] or not out.is_terminal:
        while True:
            _show(collector, options)
            time.sleep(options["watch"])
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            found, everything = _collect(collector, options), options["everything"]
            live.update(render(*found, width=out.width, everything=everything), refresh=True)
            time.sleep(options["watch"])


def _collect(collector: StatusCollector, options: dict[str, Any]) -> tuple[Status, Summary]:
    from shipper.status.summary import summarize

    found = collector.collect(only=options["only"])
    if options["only"] and not found.spools:
        raise click.ClickException(
            f"no spool under {found.root} has an id with this prefix: {options['only']}"
        )
    return found, summarize(found, max_dead_letters=options["max_dead_letters"])

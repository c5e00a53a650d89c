"""`lens-ship dead-letter list|show|retry|drop`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import Group, ledger_of, load_config, one_of, settings

_SEE = "see `lens-ship dead-letter list`"


@click.group("dead-letter", cls=Group)
def dead_letter() -> None:
    """Records that a receiver has refused for good."""


def _selection(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("numbers", nargs=-1, type=int),
        click.option(
            "--sink",
            default="",
            callback=one_of("shipper.sinks"),
            help="Only those of this sink.",
        ),
        click.option("--reason", default="", help="Only those refused for this reason."),
        click.option("--of", "spool_id", default="", help="Only those of this spool."),
    ):
        command = option(command)
    return command


def _chosen(ledger: Any, numbers: tuple[int, ...], sink: str, reason: str, spool_id: str) -> Any:
    from shipper.dead_letters import Selection, select

    kept = {row["id"] for row in select(ledger, Selection(numbers=numbers))}
    unknown = [str(number) for number in numbers if number not in kept]
    if unknown:
        told = ", ".join(unknown)
        many = f"letter {told} is" if len(unknown) == 1 else f"letters {told} are"
        raise click.ClickException(f"no dead {many} kept; {_SEE}")
    return select(ledger, Selection(numbers=numbers, sink=sink, reason=reason, spool=spool_id))


@dead_letter.command("list")
@click.option("--json", "as_json", is_flag=True, help="For machines: a JSON list.")
@_selection
@settings("state")
def dead_letter_list(
    as_json: bool, config_file: Path | None, state: str | None, **selection: Any
) -> None:
    """List dead letters, oldest first."""
    from shipper.cli.render import print_dead_letters

    with ledger_of(state, config_file) as ledger:
        print_dead_letters(_chosen(ledger, **selection), as_json=as_json)


@dead_letter.command("show")
@click.argument("number", type=int)
@settings("state")
def dead_letter_show(number: int, config_file: Path | None, state: str | None) -> None:
    """Print one dead letter with the receiver's answer and the record itself, as JSON."""
    from shipper.cli.render import print_json
    from shipper.dead_letters import Selection, select, show

    with ledger_of(state, config_file) as ledger:
        rows = select(ledger, Selection(numbers=(number,)))
        if not rows:
            raise click.ClickException(f"no dead letter {number} is kept; {_SEE}")
        print_json(show(ledger, rows[0]))


@dead_letter.command("retry")
@_selection
@settings()
def dead_letter_retry(
    numbers: tuple[int, ...],
    sink: str,
    reason: str,
    spool_id: str,
    config_file: Path | None,
    **flags: Any,
) -> None:
    """Send dead letters again; exit 1 when one is refused again. Without numbers: all of them."""
    from shipper.dead_letters import retry
    from shipper.humanize import sanitize
    from shipper.sinks import build_sinks
    from shipper.sinks.outcome import Disposition

    config = load_config(flags, config_file, needs_spool=False, sends=True)
    with ledger_of(str(config.state), None) as ledger:
        rows = _chosen(ledger, numbers, sink, reason, spool_id)
        done = retry(ledger, rows, build_sinks(config))
    failed = [one for one in done if one.outcome.disposition is not Disposition.DELIVERED]
    for one in failed:
        said = f"{one.number}: {one.outcome.reason}: {one.outcome.detail}"
        click.echo(sanitize(said, 2000), err=True)
    click.echo(f"{len(done) - len(failed)} delivered, {len(failed)} kept as they were")
    sys.exit(1 if failed else 0)


@dead_letter.command("drop")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_selection
@settings("state")
def dead_letter_drop(
    yes: bool, config_file: Path | None, state: str | None, **selection: Any
) -> None:
    """Give dead letters up for good; they stay counted. Without numbers: all of them."""
    from shipper.dead_letters import drop

    with ledger_of(state, config_file) as ledger:
        rows = _chosen(ledger, **selection)
        if rows and not yes:
            click.confirm(f"Give up {len(rows)} of them for good?", abort=True)
        click.echo(f"{drop(ledger, rows)} given up")

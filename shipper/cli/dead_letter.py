"""`lens-ship dead-letter list|show|retry|drop`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shipper.cli.options import (
    Group,
    json_flag,
    load_config,
    open_ledger,
    settings,
    word,
    yes_flag,
)


@click.group("dead-letter", cls=Group)
def dead_letter() -> None:
    """Records that a receiver has rejected permanently."""


def _selection(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("numbers", nargs=-1, type=int),
        word("--sink", help="Only those of this sink."),
        word("--reason", help="Only those rejected for this reason."),
        word("--of", "spool_id", help="Only those of this spool."),
    ):
        command = option(command)
    return command


def _selected(ledger: Any, numbers: tuple[int, ...], sink: str, reason: str, spool_id: str) -> Any:
    """The kept dead letters with these numbers and words, oldest first; "" and () select all."""
    from shipper.sinks import DEFAULT
    from shipper.sinks.outcome import Reason

    rows = ledger.dead_letters()
    conditions = (
        ("--sink", "sink", sink, ledger.sinks() or DEFAULT),
        ("--reason", "reason", reason, [one.word for one in Reason]),
        ("--of", "spool", spool_id, [row["id"] for row in ledger.spools()]),
    )
    for option, column, chosen, known in conditions:
        _need_known(option, chosen, {row[column] for row in rows}.union(known))
    rows = [row for row in rows if row["state"] == "kept"]
    unknown = ", ".join(map(str, (n for n in numbers if all(row["id"] != n for row in rows))))
    if unknown:
        raise click.ClickException(f"no dead letter {unknown}; see `lens-ship dead-letter list`")
    return [
        row
        for row in rows
        if (not numbers or row["id"] in numbers)
        and all(chosen in ("", row[column]) for _, column, chosen, _ in conditions)
    ]


def _need_known(option: str, word: str, known: set[str]) -> None:
    """Refuse a word that no dead letter can have: it would look as if there were none.

    Raises:
        BadParameter: with similar words.
    """
    import difflib

    if word and word not in known:
        similar = difflib.get_close_matches(word, known, n=3) or sorted(known)[:10]
        names = ", ".join(map(repr, similar))
        raise click.BadParameter(f"{word!r} is not known here. Similar: {names}", param_hint=option)


def _config(state: str | None, config_file: Path | None) -> Any:
    return load_config({"state": state}, config_file, needs_spool=False)


@dead_letter.command("list")
@json_flag
@_selection
@settings("state")
def dead_letter_list(
    as_json: bool, config_file: Path | None, state: str | None, **selection: Any
) -> None:
    """List dead letters, oldest first."""
    from shipper.cli.render import print_dead_letters

    with open_ledger(_config(state, config_file)) as ledger:
        print_dead_letters(_selected(ledger, **selection), as_json=as_json)


@dead_letter.command("show")
@click.argument("number", type=int)
@settings("state")
def dead_letter_show(number: int, config_file: Path | None, state: str | None) -> None:
    """Print one dead letter with the receiver's answer and the record, as JSON."""
    from shipper.cli.render import print_json
    from spooler.errors import BodyUnreadable
    from spooler.spool import codec

    with open_ledger(_config(state, config_file)) as ledger:
        (row,) = _selected(ledger, (number,), "", "", "")
        body = ledger.dead_letter_body(number) or b""
        try:
            decoded: Any = codec.unpack(body)
        except BodyUnreadable:
            decoded = body.hex()
        print_json({**row, "body": decoded})


@dead_letter.command("retry")
@_selection
@click.option(
    "--overwrite-newer",
    is_flag=True,
    help="Also send those of steps that were recorded again since.",
)
@settings()
def dead_letter_retry(
    numbers: tuple[int, ...],
    sink: str,
    reason: str,
    spool_id: str,
    overwrite_newer: bool,
    config_file: Path | None,
    **flags: Any,
) -> None:
    """Send dead letters again. Without numbers: all of them.

    Exits 1 if one is kept: it is rejected again, its receiver fails, or it would overwrite newer
    values.
    """
    from shipper.humanize import sanitize
    from shipper.replay.rejected import RetryContext, retry_letters
    from shipper.sinks import build_sinks, enabled_sinks
    from shipper.sinks.outcome import Disposition

    config = load_config(flags, config_file, needs_spool=False, sends=True)
    with open_ledger(config) as ledger, ledger.replaying():
        rows = _selected(ledger, numbers, sink, reason, spool_id)
        sinks = build_sinks(enabled_sinks(config))
        context = RetryContext(
            ledger=ledger, config=config, sinks=sinks, overwrite_newer=overwrite_newer
        )
        done = retry_letters(rows, context)
    kept = 0
    for number, outcome in done.items():
        if outcome.disposition is not Disposition.DELIVERED:
            kept += 1
            text = f"{number}: {outcome.reason}: {outcome.detail}"
            click.echo(sanitize(text, 2000), err=True)
    click.echo(f"{len(done) - kept} delivered, {kept} kept")
    sys.exit(1 if kept else 0)


@dead_letter.command("drop")
@yes_flag
@_selection
@settings("state")
def dead_letter_drop(
    yes: bool, config_file: Path | None, state: str | None, **selection: Any
) -> None:
    """Discard dead letters permanently. Without numbers: all of them.

    They remain in the counters.
    """
    from shipper.humanize import counted

    with open_ledger(_config(state, config_file)) as ledger:
        rows = _selected(ledger, **selection)
        if rows and not yes:
            click.confirm(f"Discard {counted(len(rows), 'dead letter')} permanently?", abort=True)
        ledger.resolve_dead_letters([row["id"] for row in rows], "dropped")
        click.echo(f"{len(rows)} discarded")

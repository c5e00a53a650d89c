"""What commands print: tables for people, JSON for machines.

Names and answers come from elsewhere: they are shown as they are, never as rich's markup, and
nothing in them reaches the terminal as a command.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shipper.audit.account import Account, Totals, total
from shipper.finding import Finding
from shipper.humanize import counted, sanitize
from shipper.ledger import ranges
from shipper.retention.quarantine import Report
from shipper.tables import Column, console, fitted

_ANSWER = 2000  # characters of an answer that are shown


_ACCOUNT_COLUMNS = (
    Column("spool", gives=True, tail=8),
    *(Column(name, right=True) for name in ("written", "delivered", "not for it", "pending")),
    *(Column(name, right=True, spare="0") for name in ("dead", "corrupt")),
    # Told in words below the table, too.
    *(Column(name, right=True, spare="0", rank=1) for name in ("evicted", "given up")),
    Column("missing", right=True, spare="0"),
)
_LETTER_COLUMNS = (
    Column("id", right=True),
    Column("when"),
    Column("sink", gives=True),
    Column("reason", rank=3),  # told below the table, too
    Column("spool", gives=True, tail=8),
    Column("record", right=True),
    Column("kind", rank=2),
    Column("bytes", right=True, rank=1),
)
_QUARANTINE_COLUMNS = (
    Column("name"),
    Column("when", rank=1),
    *(Column(name, right=True) for name in ("bytes", "holds", "missing")),
)


def print_json(value: Any, *, on_one_line: bool = False) -> None:
    """JSON on standard output, indented unless it is one line of many."""
    option = 0 if on_one_line else orjson.OPT_INDENT_2
    print(orjson.dumps(value, option=option, default=str).decode(), flush=on_one_line)  # noqa: T201


def print_accounts(
    accounts: list[Account],
    *,
    receipts: Sequence[Mapping[str, Any]] = (),
    closed: Mapping[str, str] | None = None,
    as_json: bool,
) -> None:
    """The account of every spool, sink by sink, with totals; and what became of receipts."""
    sinks = sorted({account.sink for account in accounts})
    by_sink = {sink: [a for a in accounts if a.sink == sink] for sink in sinks}
    if as_json:
        totals = {sink: total(group) for sink, group in by_sink.items()}
        listed = [account.to_map() for account in accounts]
        told = {"accounts": listed, "totals": totals, "receipts": receipts, "closed": closed or {}}
        print_json(told)
        return
    out = console()
    for sink, group in by_sink.items():
        out.print(Text(sink, style="italic"))
        out.print(_account_table(group, out.width))
    _print_lost(out, accounts)
    wrong = [account for account in accounts if not account.balances]
    for account in wrong:
        out.print(
            f"{sanitize(account.directory)}, {account.sink}: does not balance: {account.difference}"
            f" unaccounted for, {account.missing} missing from the files",
            style="bold red",
        )
    for folder, why in (closed or {}).items():
        text = f"{sanitize(folder)} {why}: what lies there is not accounted for"
        out.print(text, style="bold red")
    if not accounts:
        out.print("no spools: nothing to account for")
    elif not wrong and not closed:
        out.print("every record is accounted for")
    _print_receipts(out, receipts)


def _print_receipts(out: Console, receipts: Sequence[Mapping[str, Any]]) -> None:
    """Of those that hold only how many there are."""
    if not receipts:
        return
    holding = sum(receipt["state"] == "holds" for receipt in receipts)
    out.print(f"{holding} of {len(receipts)} replay receipts agree with what lies on disk")
    for receipt in receipts:
        if receipt["state"] != "holds":
            cannot = "differs" if receipt["state"] == "differs" else "cannot be checked any more"
            out.print(
                f"{sanitize(receipt['spool'])}, {receipt['sink']}: {receipt['records']:,} records"
                f" replayed from {sanitize(receipt['directory'])}: {cannot}:"
                f" {sanitize(receipt['why'])}",
                style="bold red" if receipt["state"] == "differs" else "",
            )


def _print_lost(out: Console, accounts: list[Account]) -> None:
    """What will never arrive, and why."""
    dropped = {account.spool: account.dropped for account in accounts if account.dropped}
    for spool, reasons in sorted(dropped.items()):
        out.print(f"{sanitize(spool)}: dropped by the training process: {_told(reasons)}")
    for account in accounts:
        if account.evicted:
            told = _told(account.evicted)
            out.print(f"{sanitize(account.spool)}: deleted before {account.sink} had it: {told}")
        if account.given_up:
            told = _told(account.given_up)
            out.print(f"{sanitize(account.spool)}: not sent to {account.sink}: {told}")
        if account.again:
            out.print(
                f"{sanitize(account.spool)}: sent again to {account.sink}, which had restarted and"
                f" forgotten: {account.again}"
            )


def _told(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {sanitize(reason)}" for reason, count in sorted(reasons.items()))


def print_dead_letters(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """One line for each dead letter."""
    rows = list(rows)
    if as_json:
        print_json(rows)
        return
    out = console()
    if rows:
        out.print(fitted(_LETTER_COLUMNS, [_letter(row) for row in rows], out.width))
        answers: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            answers.setdefault((row["reason"], row["detail"]), []).append(row["id"])
        for (reason, detail), numbers in answers.items():
            text = f"{_numbers(numbers)}: {sanitize(reason)}: {sanitize(detail, _ANSWER)}"
            out.print(Text(text), soft_wrap=True)
    out.print(counted(len(rows), "dead letter"))


def _letter(row: Mapping[str, Any]) -> tuple[Text, ...]:
    return (
        Text(str(row["id"])),
        Text(_clock(row["time"])),
        Text(sanitize(row["sink"])),
        Text(sanitize(row["reason"])),
        Text(sanitize(row["spool"])),
        Text(str(row["seq"])),
        Text(sanitize(row["kind"])),
        Text(f"{row['bytes']:,}"),
    )


def _numbers(numbers: Iterable[int]) -> str:
    """As `dead-letter show` takes them, one by one: 1 to 3, 5."""
    pieces = ranges.of_numbers(numbers)
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in pieces)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    """One entry for each finding: how it stands, what about, and what to do next."""
    count = {level: sum(one.level == level for one in findings) for level in _STYLES}
    if as_json:
        print_json({"findings": [asdict(one) for one in findings], **count})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        text = Text(sanitize(one.text, None))
        if one.next:
            text.append(f"\n→ {sanitize(one.next, None)}", style="bold")
        table.add_row(Text(one.level, style=_STYLES[one.level]), one.about, text)
    out = console()
    out.print(table)
    out.print(", ".join(f"{number} {level}" for level, number in count.items()))


def print_settings(values: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """One line for each setting: its value, and where that came from."""
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for name, value in values.items():
        text = "" if value is None else str(value)
        if isinstance(value, bool):
            text = text.lower()
        source = given.get(name, "default")
        table.add_row(name, Text(text), Text(source, style="" if name in given else "dim"))
    console().print(table)


def print_quarantine(reports: Iterable[tuple[Report, int]], *, as_json: bool) -> None:
    """One line for each segment that was set aside, with its bytes."""
    reports = list(reports)
    if as_json:
        print_json([{**asdict(report), "bytes": size} for report, size in reports])
        return
    out = console()
    if reports:
        rows = [_set_aside(report, size) for report, size in reports]
        out.print(fitted(_QUARANTINE_COLUMNS, rows, out.width))
        for report, _ in reports:
            text = f"{sanitize(report.name)}: {sanitize(report.reason, _ANSWER)}"
            out.print(Text(text), soft_wrap=True)
    verb = "is" if len(reports) == 1 else "are"
    out.print(f"{counted(len(reports), 'damaged segment')} {verb} set aside")


def _set_aside(report: Report, size: int) -> tuple[Text, ...]:
    return (
        Text(sanitize(report.name)),
        Text(_clock(report.time)),
        Text("deleted" if report.dropped else f"{size:,}"),
        Text(f"{ranges.size(report.holds):,}"),
        Text(f"{ranges.size(report.missing):,}" + ("+" if report.last else "")),
    )


def _account_table(accounts: list[Account], width: int) -> Table:
    rows = [_row(sanitize(account.spool), account) for account in accounts]
    return fitted(_ACCOUNT_COLUMNS, [*rows, _row("total", total(accounts))], width)


def _row(name: str, counts: Account | Totals) -> tuple[Text, ...]:
    evicted, given_up = counts.evicted, counts.given_up
    numbers = (
        counts.written,
        counts.delivered,
        counts.passed,
        counts.pending,
        counts.dead,
        counts.corrupt,
        evicted if isinstance(evicted, int) else sum(evicted.values()),
        given_up if isinstance(given_up, int) else sum(given_up.values()),
        counts.missing,
    )
    style = "bold" if isinstance(counts, Totals) else ""
    return tuple(Text(text, style=style) for text in (name, *(f"{one:,}" for one in numbers)))

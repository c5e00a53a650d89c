"""What commands print: tables for people, JSON for machines.

Names and answers come from elsewhere: they are shown as they are, never as rich's markup, and
nothing in them reaches the terminal as a command.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shipper.accounts.account import Account, total
from shipper.contents.shown import shown
from shipper.disk.quarantine import Report
from shipper.finding import Finding
from shipper.ledger import ranges
from shipper.logs import escaped

_WIDTH = 120
_ANSWER = 2000  # characters of an answer that are shown


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
        out.print(_account_table(sink, group))
    _print_lost(out, accounts)
    wrong = [account for account in accounts if not account.balances]
    for account in wrong:
        out.print(
            f"{shown(account.directory)}, {account.sink}: does not balance: {account.difference}"
            f" unaccounted for, {account.missing} missing from the files",
            style="bold red",
        )
    for folder, why in (closed or {}).items():
        text = f"{shown(folder)} {why}: what lies there is not accounted for"
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
                f"{shown(receipt['spool'])}, {receipt['sink']}: {receipt['records']:,} records"
                f" replayed from {shown(receipt['directory'])}: {cannot}: {shown(receipt['why'])}",
                style="bold red" if receipt["state"] == "differs" else "",
            )


def _print_lost(out: Console, accounts: list[Account]) -> None:
    """What will never arrive, and why."""
    dropped = {account.spool: account.dropped for account in accounts if account.dropped}
    for spool, reasons in sorted(dropped.items()):
        out.print(f"{shown(spool)}: dropped by the training process: {_told(reasons)}")
    for account in accounts:
        if account.evicted:
            told = _told(account.evicted)
            out.print(f"{shown(account.spool)}: deleted before {account.sink} had it: {told}")
        if account.given_up:
            told = _told(account.given_up)
            out.print(f"{shown(account.spool)}: not sent to {account.sink}: {told}")
        if account.again:
            out.print(
                f"{shown(account.spool)}: sent again to {account.sink}, which had restarted and"
                f" forgotten: {account.again}"
            )


def _told(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {shown(reason)}" for reason, count in sorted(reasons.items()))


def print_dead_letters(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """One line for each dead letter."""
    rows = list(rows)
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "when", "sink", "reason", "record", "bytes", "answer"):
        table.add_column(
            column,
            justify="right" if column in ("id", "bytes") else "left",
            no_wrap=column != "answer",
            overflow="fold",
        )
    for row in rows:
        table.add_row(
            str(row["id"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"])),
            shown(row["sink"]),
            shown(row["reason"]),
            shown(f"{row['spool']}/{row['seq']} {row['kind']}"),
            str(row["bytes"]),
            shown(row["detail"], _ANSWER),
        )
    out = console()
    if rows:
        out.print(table)
    out.print(_counted(len(rows), "dead letter"))


_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    """One entry for each finding: how it stands, what about, and what to do next."""
    count = {level: sum(one.level == level for one in findings) for level in _STYLES}
    if as_json:
        print_json({"findings": [one.to_map() for one in findings], **count})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        text = Text(escaped(one.text))
        if one.next:
            text.append(f"\n→ {escaped(one.next)}", style="bold")
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
    table = Table(box=None, pad_edge=False)
    for column in ("name", "when", "bytes", "holds", "missing", "why"):
        right = column in ("bytes", "holds", "missing")
        justify: Literal["left", "right"] = "right" if right else "left"
        table.add_column(column, justify=justify, no_wrap=column != "why", overflow="fold")
    for report, size in reports:
        table.add_row(
            shown(report.name),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.time)),
            "deleted" if report.dropped else f"{size:,}",
            f"{ranges.size(report.holds):,}",
            f"{ranges.size(report.missing):,}" + ("+" if report.last else ""),
            shown(report.reason, _ANSWER),
        )
    out = console()
    if reports:
        out.print(table)
    verb = "is" if len(reports) == 1 else "are"
    out.print(f"{_counted(len(reports), 'damaged segment')} {verb} set aside")


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _account_table(sink: str, accounts: list[Account]) -> Table:
    table = Table(title=sink, title_justify="left", box=None, pad_edge=False, show_footer=True)
    sums = total(accounts)
    table.add_column("spool", footer="total", overflow="fold")
    for name, label in (
        ("written", "written"),
        ("delivered", "delivered"),
        ("passed", "not for it"),
        ("pending", "pending"),
        ("dead", "dead"),
        ("corrupt", "corrupt"),
        ("evicted", "evicted"),
        ("given_up", "given up"),
        ("missing", "missing"),
    ):
        table.add_column(label, justify="right", footer=f"{getattr(sums, name):,}")
    for account in accounts:
        names = ("written", "delivered", "passed", "pending", "dead", "corrupt")
        cells = [getattr(account, name) for name in names]
        cells += [sum(account.evicted.values()), sum(account.given_up.values()), account.missing]
        table.add_row(shown(account.spool), *(f"{cell:,}" for cell in cells))
    return table


class _Out(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line: rich would end with code 1, which says something else."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output: as wide as the terminal, or 120 columns where it is none."""
    out = _Out(markup=False, emoji=False)
    return out if out.is_terminal else _Out(width=_WIDTH, markup=False, emoji=False)

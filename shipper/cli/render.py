"""What commands print: tables for people, JSON for machines.

Names and answers come from other programs: they are printed as text, never as rich's markup, and
control characters in them are escaped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from shipper.audit.account import Account, total
from shipper.finding import FAIL, OK, WARN, Finding
from shipper.humanize import by_reason, clock, counted, sanitize, to_json
from shipper.ledger import ranges
from shipper.sinks.outcome import Reason
from shipper.tables import Column, cells, console, fitted, numbers

if TYPE_CHECKING:
    from shipper.ledger.ledger import Ledger, Receipt
    from shipper.replay.plan import ReplayPart, ReplayPlan
    from shipper.replay.verify import Checked
    from shipper.retention.quarantine import QuarantineReport

NO_WORKLOAD = "it names neither workload nor pod: give --as-workload or --as-pod"

_ANSWER = 2000  # characters of an answer that are shown
_MOST_RUNS = 5  # that are named
_PROGRESS_SECONDS = 30.0  # between two lines
_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}

_ACCOUNT_COLUMNS = (
    Column("spool", gives=True, tail=8),
    *numbers("written", "delivered", "skipped", "pending"),
    *(Column(name, right=True, spare="0") for name in ("dead letters", "corrupt")),
    Column("dropped", right=True, spare="0", rank=1),  # also printed below the table
    Column("unaccounted", right=True, spare="0"),
)
_LETTER_COLUMNS = (
    Column("id", right=True),
    Column("when"),
    Column("sink", gives=True),
    Column("reason", rank=3),  # also printed below the table
    Column("spool", gives=True, tail=8),
    Column("record", right=True),
    Column("kind", rank=2),
    Column("bytes", right=True, rank=1),
)
_PLAN_COLUMNS = (
    Column("source", gives=True, tail=8),
    Column("to", gives=True),
    Column("run", gives=True),
    Column("steps", rank=2, spare=""),
    Column("records", right=True),
    Column("bytes", right=True, rank=1),
    *numbers("done", "to send"),
)
_QUARANTINE_COLUMNS = (
    Column("name"),
    Column("when", rank=1),
    *numbers("bytes", "holds", "missing"),
)


def print_json(value: Any, *, on_one_line: bool = False) -> None:
    """JSON on standard output, indented unless it is one line of many."""
    print(to_json(value, indent=not on_one_line).decode(), flush=on_one_line)  # noqa: T201


def print_accounts(
    accounts: Sequence[Account],
    *,
    receipts: Sequence[Checked] = (),
    closed: Mapping[str, str] | None = None,
    as_json: bool,
) -> None:
    """The account of every spool by sink, then what is wrong. `closed`: directory -> problem."""
    closed = closed or {}
    by_sink: dict[str, list[Account]] = {}
    for account in sorted(accounts, key=lambda account: account.sink):
        by_sink.setdefault(account.sink, []).append(account)
    if as_json:
        totals = {sink: _total_map(sink, group) for sink, group in by_sink.items()}
        listed = [account.to_map() for account in accounts]
        checked = [asdict(receipt) for receipt in receipts]
        print_json({"accounts": listed, "totals": totals, "receipts": checked, "closed": closed})
        return
    out = console()
    for sink, group in by_sink.items():
        rows = [_account_row(account) for account in group]
        rows.append(_account_row(total(sink, group), style="bold"))
        out.print(Text(sink, style="italic"))
        out.print(fitted(_ACCOUNT_COLUMNS, rows, out.width))
    _print_losses(out, accounts)
    wrong = [account for account in accounts if not account.balances]
    for account in wrong:
        out.print(
            f"{sanitize(account.directory)}, {account.sink}: does not balance:"
            f" {account.unaccounted} unaccounted, difference {account.difference}",
            style="bold red",
        )
    for folder, why in closed.items():
        text = f"{sanitize(folder)} {why}: its records are not accounted for"
        out.print(text, style="bold red")
    if not accounts:
        out.print("no spools: nothing to account for")
    elif not wrong and not closed:
        out.print("every record is accounted for")
    _print_receipts(out, receipts)


def _total_map(sink: str, accounts: Sequence[Account]) -> dict[str, Any]:
    sums = total(sink, accounts).to_map()
    for name in ("spool", "sink", "directory", "balances"):
        del sums[name]
    return {**sums, "unbalanced": sum(not account.balances for account in accounts)}


def _account_row(account: Account, style: str = "") -> tuple[Text, ...]:
    return cells(
        account.spool,
        account.written,
        account.delivered,
        account.skipped,
        account.pending,
        account.dead_letters,
        account.corrupt,
        sum(account.dropped_by_policy.values()),
        account.unaccounted,
        style=style,
    )


def _print_losses(out: Console, accounts: Sequence[Account]) -> None:
    producers = {one.spool: one.dropped_by_producer for one in accounts if one.dropped_by_producer}
    for spool, reasons in sorted(producers.items()):
        out.print(f"{sanitize(spool)}: dropped by producer: {by_reason(reasons)}")
    for account in accounts:
        where = f"{sanitize(account.spool)}, {account.sink}"
        if account.dropped_by_policy:
            out.print(f"{where}: dropped by policy: {by_reason(account.dropped_by_policy)}")
        if account.resent:
            out.print(f"{where}: {account.resent:,} resent after a restart of the receiver")


def _print_receipts(out: Console, receipts: Sequence[Checked]) -> None:
    """A count of those that hold, and a line for each of the others."""
    if not receipts:
        return
    holding = sum(not receipt.why for receipt in receipts)
    out.print(f"{holding} of {len(receipts)} replay receipts match the records on disk")
    for receipt in receipts:
        if receipt.why:
            differs = receipt.state == "differs"
            problem = "differs" if differs else "cannot be checked any more"
            out.print(
                f"{sanitize(receipt.spool)}, {receipt.sink}: {receipt.records:,} records"
                f" replayed from {sanitize(receipt.directory)}: {problem}: {sanitize(receipt.why)}",
                style="bold red" if differs else "",
            )


def print_dead_letters(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """One line for each dead letter, then the answers of the receivers."""
    if as_json:
        print_json(rows)
        return
    out = console()
    if rows:
        table = [
            cells(
                str(row["id"]),
                clock(row["time"]),
                row["sink"],
                row["reason"],
                row["spool"],
                str(row["seq"]),
                row["kind"],
                row["bytes"],
            )
            for row in rows
        ]
        out.print(fitted(_LETTER_COLUMNS, table, out.width))
        answers: dict[tuple[str, str], list[int]] = {}
        for row in rows:
            answers.setdefault((row["reason"], row["detail"]), []).append(row["id"])
        for (reason, detail), ids in answers.items():
            pieces = ranges.of_numbers(ids)
            named = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in pieces)
            text = f"{named}: {sanitize(reason)}: {sanitize(detail, _ANSWER)}"
            out.print(Text(text), soft_wrap=True)
    out.print(counted(len(rows), "dead letter"))


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """One entry for each finding, and how many there are of each level."""
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
    """One line for each setting: its value, and where it comes from."""
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


def print_quarantine(reports: Sequence[tuple[QuarantineReport, int]], *, as_json: bool) -> None:
    """One line for each damaged segment with its size in bytes, then what is wrong with it."""
    if as_json:
        print_json([{**asdict(report), "bytes": size} for report, size in reports])
        return
    out = console()
    if reports:
        rows = [
            cells(
                report.name,
                clock(report.time),
                "deleted" if report.dropped else size,
                ranges.size(report.holds),
                f"{ranges.size(report.missing):,}{'+' if report.last else ''}",
            )
            for report, size in reports
        ]
        out.print(fitted(_QUARANTINE_COLUMNS, rows, out.width))
        for report, _ in reports:
            text = f"{sanitize(report.name)}: {sanitize(report.reason, _ANSWER)}"
            out.print(Text(text), soft_wrap=True)
    out.print(f"{counted(len(reports), 'damaged segment')} in quarantine")


def print_plan(
    plan: ReplayPlan,
    destinations: Collection[str],
    lost: Collection[str] = (),
    unknown: Collection[str] = (),
) -> None:
    """What a replay would send, and what not and why.

    `lost` are spools without an address, `unknown` those without workload and pod.
    """
    out = console()
    rows = [
        cells(
            part.spool,
            part.sink,
            ", ".join(part.runs),
            f"{part.steps[0]} to {part.steps[1]}" if part.steps else "",
            part.records,
            part.bytes,
            part.delivered,
            part.to_send,
        )
        for part in plan.parts
        if part.records + part.overwriting
    ]
    nothing = "nothing to send: no selected record is of a kind that these sinks take"
    nothing = nothing if plan.parts else "nothing found to replay"
    out.print(fitted(_PLAN_COLUMNS, rows, out.width) if rows else nothing)
    for line in (*_left_out(plan.parts), *plan.notes):
        out.print(sanitize(line, 1000), soft_wrap=True)
    for problem in plan.problems:
        out.print(f"not replayed: {sanitize(problem, 1000)}", style="red")
    for spool in unknown:
        out.print(f"{sanitize(spool)}: {NO_WORKLOAD}", style="red")
    places = [sanitize(place) for place in sorted(destinations)]
    places += [f"{counted(len(lost), 'source')} without an address"] if lost else []
    if rows and places:
        out.print(f"receiver: {', '.join(places)}")


def _left_out(parts: Sequence[ReplayPart]) -> Iterator[str]:
    """What is not sent, or not yet."""
    for part in parts:
        if part.overwriting:
            yield (
                f"{part.spool}: {part.overwriting:,} steps are left out. A later process of the"
                " same workload has written them since. --overwrite-newer --resend-delivered sends"
                " them"
            )
    if any(part.delivered and not part.resend for part in parts):
        yield (
            "delivered records, and those that were dropped, are sent again only with"
            " --resend-delivered. They are known from the state directory, receivers are not asked"
        )
    if letters := sum(part.letters for part in parts):
        yield (
            f"{counted(letters, 'dead letter')} left out: `lens-ship dead-letter retry` sends them."
            " For spools that name no workload, give --as-workload here"
        )
    if any(part.pending for part in parts):
        yield "pending records are left to the service"
    open_runs = dict.fromkeys(
        run for part in parts if part.to_send and not part.ended for run in part.runs
    )
    if open_runs:
        more = ", …" if len(open_runs) > _MOST_RUNS else ""
        yield (
            f"{counted(len(open_runs), 'run')} without an end:"
            f" {', '.join([*open_runs][:_MOST_RUNS])}{more}. If it is still being written, the same"
            " command sends the rest later"
        )


def print_sent(
    parts: Sequence[ReplayPart], receipts: Sequence[Receipt], dropped: Counter[Any], ledger: Ledger
) -> int:
    """What became of the records of finished parts; how many of them were rejected.

    `dropped` counts records by spool, entry and reason.
    """
    out = console()
    by_entry = {(part.spool, part.entry): part for part in parts}
    reasons: dict[tuple[str, str], None] = {}
    rejected = 0
    for receipt in receipts:
        key = receipt.spool, receipt.entry
        part = by_entry[key]
        why = {reason: count for (*of, reason), count in dropped.items() if (*of,) == key}
        before = 0 if part.resend else part.delivered
        sent = max(0, receipt.records - before - sum(why.values()))
        whole = f" The receipt is of {receipt.records:,}:" if before else ""
        out.print(
            f"sent {counted(sent, 'record')} of {sanitize(part.spool)} to {part.sink}"
            f"{'.' if before else ':'}{whole} {receipt.first} to {receipt.last},"
            f" sha256 {receipt.digest[:16]}"
        )
        for reason, count in why.items():
            out.print(f"{counted(count, 'record')} dropped: {_why(part.sink, reason)}")
        rejected += part.records - receipt.records
        reasons |= {
            (part.sink, row["reason"]): None
            for row in ledger.dead_letters(part.spool)
            if row["sink"] == part.sink and row["state"] == "kept"
        }
    if rejected:
        out.print(
            f"{counted(rejected, 'record')} rejected and kept as dead letters, see `lens-ship"
            " dead-letter list`. The same command sends them again."
            f" {'. '.join(_why(sink, reason) for sink, reason in reasons)}",
            style="red",
        )
    return rejected


def _why(sink: str, word: str) -> str:
    """A reason, with what the receiver does and what to do."""
    known = Reason.of(word)
    if known is None:
        return sanitize(word)
    advice = known.advice.partition(", then")[0]  # a retry is for the records of the service
    return f"{word}: {sink} {known.sentence}: {advice}"


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, or a line from time to time where that is not a terminal.

    The value is called with the number of records done.
    """
    out = Console(stderr=True)
    due = time.monotonic() + _PROGRESS_SECONDS
    with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("replay", total=total)

        def advance(records: int) -> None:
            nonlocal due
            progress.advance(task, records)
            if not out.is_terminal and time.monotonic() >= due:
                due = time.monotonic() + _PROGRESS_SECONDS
                sent = int(progress.tasks[task].completed)
                click.echo(f"lens-ship: {sent:,} of {counted(total, 'record')} sent", err=True)

        yield advance

"""What a replay prints: its plan, a bar while it goes on, its receipts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from shipper.accounts.report import console
from shipper.contents.shown import shown
from shipper.ledger.ledger import Receipt
from shipper.replay.plan import Part


def print_plan(parts: Iterable[Part], problems: Iterable[str], url: str) -> None:
    """What a replay would send, and what it would not, and why."""
    out = console()
    table = Table(box=None, pad_edge=False)
    for column in ("source", "to", "run", "steps", "records", "bytes", "delivered", "to send"):
        right = column in ("records", "bytes", "delivered", "to send")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    parts = list(parts)
    for part in parts:
        if not part.records + part.overwriting:
            continue
        table.add_row(
            shown(part.spool),
            part.sink,
            shown(", ".join(part.runs)),
            f"{part.steps[0]} to {part.steps[1]}" if part.steps else "",
            f"{part.records:,}",
            f"{part.bytes:,}",
            f"{part.delivered:,}",
            f"{part.to_send:,}",
        )
    out.print(table if table.row_count else "nothing found to replay")
    _print_left(out, parts)
    for problem in problems:
        out.print(f"cannot be read: {shown(problem, 1000)}", style="red")
    if table.row_count:
        out.print(f"destination: {url or 'what each job recorded'}")


def _print_left(out: Console, parts: Iterable[Part]) -> None:
    """What is not sent unless it is asked for."""
    parts = list(parts)
    for part in parts:
        if part.overwriting:
            out.print(
                f"{shown(part.spool)}: {part.overwriting:,} steps are left out, as a later process"
                " of the same workload has written them since; --overwrite sends them"
            )
    if any(part.delivered and not part.again for part in parts):
        out.print("what is delivered already is sent again only with --again")


def print_receipts(receipts: Iterable[Receipt]) -> None:
    """What was sent, for the record."""
    out = console()
    for receipt in receipts:
        out.print(
            f"sent {receipt.records:,} records of {shown(receipt.spool)} to"
            f" {receipt.entry.partition('~')[0]}: {receipt.first} to {receipt.last},"
            f" sha256 {receipt.digest[:16]}"
        )


@contextmanager
def progress_bar(whole: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while records go out; the value given is called with each advance."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=whole)
        yield lambda records: progress.advance(task, records)

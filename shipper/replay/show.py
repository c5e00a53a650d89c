"""What a replay prints: its plan, a bar while it goes on, its receipts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from shipper.humanize import counted, sanitize
from shipper.ledger.ledger import Receipt
from shipper.replay.plan import ReplayPart
from shipper.tables import Column, console, fitted

NO_WORKLOAD = "it names neither workload nor pod: give --as-workload or --as-pod"

_COLUMNS = (
    Column("source", gives=True, tail=8),
    Column("to", gives=True),
    Column("run", gives=True),
    Column("steps", rank=2, spare=""),
    Column("records", right=True),
    Column("bytes", right=True, rank=1),
    Column("delivered", right=True),
    Column("to send", right=True),
)


def print_plan(
    parts: Iterable[ReplayPart],
    problems: Iterable[str],
    destinations: Collection[str],
    lost: Collection[str] = (),
    unknown: Collection[str] = (),
) -> None:
    """What a replay would send, and what it would not, and why.

    `lost` are sources without an address, `unknown` those without workload and pod.
    """
    out = console()
    parts = list(parts)
    rows = [
        (
            Text(sanitize(part.spool)),
            Text(part.sink),
            Text(sanitize(", ".join(part.runs))),
            Text(f"{part.steps[0]} to {part.steps[1]}" if part.steps else ""),
            Text(f"{part.records:,}"),
            Text(f"{part.bytes:,}"),
            Text(f"{part.delivered:,}"),
            Text(f"{part.to_send:,}"),
        )
        for part in parts
        if part.records + part.overwriting
    ]
    out.print(fitted(_COLUMNS, rows, out.width) if rows else "nothing found to replay")
    _print_left(out, parts)
    for problem in problems:
        out.print(f"cannot be read: {sanitize(problem, 1000)}", style="red")
    for spool in unknown:
        out.print(f"{sanitize(spool)}: {NO_WORKLOAD}", style="red")
    if rows:
        places = ", ".join(sanitize(place, 200) for place in sorted(destinations))
        if lost:
            places += f"{'; ' if places else ''}{counted(len(lost), 'source')} without an address"
        out.print(f"destination: {places}")


def _print_left(out: Console, parts: Iterable[ReplayPart]) -> None:
    """What is not sent unless it is asked for."""
    parts = list(parts)
    for part in parts:
        if part.overwriting:
            out.print(
                f"{sanitize(part.spool)}: {part.overwriting:,} steps are left out, as a later"
                " process of the same workload has written them since; --overwrite-newer sends them"
            )
    if any(part.delivered and not part.resend for part in parts):
        out.print("what is delivered already is sent again only with --resend-delivered")


def print_receipts(receipts: Iterable[Receipt]) -> None:
    """What was sent, for the record."""
    out = console()
    for receipt in receipts:
        out.print(
            f"sent {counted(receipt.records, 'record')} of {sanitize(receipt.spool)} to"
            f" {receipt.entry.partition('~')[0]}: {receipt.first} to {receipt.last},"
            f" sha256 {receipt.digest[:16]}"
        )


def print_rejected(count: int) -> None:
    console().print(
        f"{counted(count, 'record')} rejected and kept as dead letters, see `lens-ship dead-letter"
        " list`. The same command sends them again",
        style="red",
    )


@contextmanager
def progress_bar(whole: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while records go out; the value given is called with each advance."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=whole)
        yield lambda records: progress.advance(task, records)

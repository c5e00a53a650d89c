"""What the demo shows: one line per event, then the table, the curve and the result.

Rules: nothing is wider than 80 columns; without a terminal there are no colours and nothing moves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from shipper.demo import curve
from shipper.demo.count import Account

_WIDEST = 80
_CURVE_LINES = 14
_FIRST_WIDTH = 10  # of a table's first column, so that one stands below the other
_COLUMNS = ("written", "recorded", "delivered", "duplicated", "lost", "changed", "disordered")
_RECORDING = ("written", "recorded")
_FAULTS = ("lost", "changed", "disordered")
_HEADS = {"duplicated": "dupli-\ncated", "disordered": "out of\norder"}


class Screen:
    """The terminal, with a clock that starts with it."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        self._console = console
        if console.width > _WIDEST or not console.is_terminal:
            console.width = _WIDEST
        self._began = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._status = self._console.status("", spinner="dots")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.still()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def still(self) -> None:
        """End the moving line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def head(self, seed: int, left_out: str) -> None:
        """Say what is about to happen, and what is not."""
        self._console.print(
            Text.assemble(
                ("lens-ship demo", "bold"),
                f": a training job, its failures, and a count. Seed {seed}.",
            )
        )
        if left_out:
            self.note(left_out)
        self._console.print()

    def tell(self, who: str, what: str, style: str = "") -> None:
        """One event."""
        line = Text.assemble((f"{self.seconds:5.1f} s  ", "dim"), (f"{who:<12}", "bold"))
        line.append(what, style)
        self._console.print(line)

    def progress(self, text: str) -> None:
        """The moving line at the bottom, on a terminal."""
        if self._status is not None:
            self._status.update(Text(text, "dim"))

    def table(
        self,
        what: str,
        accounts: Sequence[tuple[str, Account]],
        *,
        has_total: bool = True,
        arrived: bool = True,
    ) -> None:
        """The count, one row each, the last one the total; `arrived`: there was a receiver."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(what, vertical="bottom", min_width=_FIRST_WIDTH)
        for name in _COLUMNS:
            table.add_column(_HEADS.get(name, name), justify="right", vertical="bottom")
        for number, (name, account) in enumerate(accounts, 1):
            last = has_total and number == len(accounts)
            cells = [
                _cell(column, getattr(account, column))
                if arrived or column in _RECORDING
                else Text("-", "dim")
                for column in _COLUMNS
            ]
            table.add_row(name, *cells, style="bold" if last else None)
        self._console.print(table)

    def loss(self, points: Sequence[curve.Point], restart: int) -> None:
        """The curve, where the terminal can show it."""
        if not points or not self._console.encoding.lower().startswith("utf"):
            return
        drawing = curve.Drawing(
            title="loss, as the receiver has it (upright line: the restart)",
            points=points,
            mark=(restart, f"step {restart:,}"),
            width=min(self._console.width, _WIDEST) - 2,
            height=_CURVE_LINES,
        )
        text = Text(curve.draw(drawing), no_wrap=True)
        text.highlight_regex("[\u2801-\u28ff]+", "cyan")
        text.highlight_regex("┊", "yellow")
        self._console.print(text)

    def note(self, text: str) -> None:
        """A remark below the table."""
        self._console.print(Text(text, "dim"), soft_wrap=True)

    def result(self, text: str, *, good: bool) -> None:
        """The last word."""
        self._console.print()
        self._console.print(Text(text, "bold green" if good else "bold red"))

    def failure(self, text: str, tails: Sequence[tuple[Path, Sequence[str]]]) -> None:
        """Why the story could not go on, and what its processes said last."""
        self.still()
        self._console.print(Text(f"The demo could not go on: {text}", "bold red"))
        for path, lines in tails:
            if lines:
                self._console.print(Text(f"\n{path.name}, last lines:", "bold"))
                self._console.print(Text("\n".join(lines)), soft_wrap=True)


def _cell(column: str, number: int) -> Text:
    style = ""
    if column in _FAULTS:
        style = "red" if number else "green"
    return Text(f"{number:,}", style)

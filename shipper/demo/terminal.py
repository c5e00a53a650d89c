"""Prints the demo: one line for each event, the table, the curve and the verdict.

Nothing is wider than 80 columns. Without a terminal there are no colours and nothing moves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from shipper.demo.count import StepCounts
from shipper.plot.downsample import Series
from shipper.plot.terminal import Chart, draw

_WIDTH = 80
_CURVE_LINES = 14
_FAULTS = ("lost", "changed", "disordered")
_HEADS = {"duplicated": "dupli-\ncated", "disordered": "out of\norder"}


class Terminal:
    """The output of the demo. Its clock starts with it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if self._console.width > _WIDTH or not self._console.is_terminal:
            self._console.width = _WIDTH
        self._began = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            self._status = self._console.status("", spinner="dots")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_progress()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def stop_progress(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def head(self, seed: int) -> None:
        text = f": train, kill every process once, count what arrives. Seed {seed}."
        self._console.print(Text.assemble(("lens-ship demo", "bold"), text))
        self._console.print()

    def event(self, process: str, text: str, style: str = "") -> None:
        line = Text.assemble((f"{self.seconds:5.1f} s  ", "dim"), (f"{process:<12}", "bold"))
        self._console.print(line.append(text, style))

    def progress(self, text: str) -> None:
        """The moving line at the bottom of a terminal."""
        if self._status is not None:
            self._status.update(Text(text, "dim"))

    def table(self, rows: Sequence[tuple[str, StepCounts]]) -> None:
        """One row for each process. The last row is the total."""
        columns = [field.name for field in fields(StepCounts)]
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("steps of", vertical="bottom")
        for name in columns:
            table.add_column(_HEADS.get(name, name), justify="right", vertical="bottom")
        for number, (name, counts) in enumerate(rows, 1):
            cells = [_cell(column, getattr(counts, column)) for column in columns]
            table.add_row(name, *cells, style="bold" if number == len(rows) else None)
        self._console.print(table)

    def curve(self, title: str, points: Mapping[int, float], mark: int) -> None:
        """Draw means of the points by step and a line at `mark`, if the terminal can show them."""
        if not points or not self._console.encoding.lower().startswith("utf"):
            return
        width = self._console.width - 2
        series = Series()
        for step, value in points.items():
            series.add(step, value)
        chart = Chart(
            title=title,
            series={"": [series.means(2 * width)]},
            width=width,
            height=_CURVE_LINES,
            colours=self._console.is_terminal,
            mark=mark,
            ticks={step: f"{step:,}" for step in (min(points), mark, max(points))},
        )
        self._console.print()
        self._console.print(Text.from_ansi(draw(chart)), no_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(Text(text, "dim"), soft_wrap=True)

    def verdict(self, text: str, *, good: bool) -> None:
        self._console.print()
        self._console.print(Text(text, "bold green" if good else "bold red"))

    def failure(self, text: str, logs: Mapping[str, Sequence[str]]) -> None:
        """Why the demo stopped, and the last log lines of its processes."""
        self.stop_progress()
        self._console.print(Text(f"The demo failed: {text}", "bold red"))
        for name, lines in logs.items():
            if lines:
                self._console.print(Text(f"\nLast lines of {name}:", "bold"))
                self._console.print(Text("\n".join(lines)), soft_wrap=True)


def _cell(column: str, number: int) -> Text:
    style = ("red" if number else "green") if column in _FAULTS else ""
    return Text(f"{number:,}", style)

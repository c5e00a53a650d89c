"""Tables for a terminal. Names are cut to the width, numbers never are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from shipper.humanize import sanitize

_GAP = 2  # columns of space between two
_WIDTH = 120  # where there is no terminal
_MIN_NAME = 12  # a name cut shorter than this says nothing


@dataclass(frozen=True)
class Column:
    """One column; of those with a `rank` the lowest is left out first where space is short.

    A column whose cells all are `empty` is not shown, one whose cells all are `spare` only where
    there is space. A column that `gives` may be cut, with `tail` in its middle: ends of ids differ.
    """

    name: str
    right: bool = False
    gives: bool = False
    rank: int = 0  # 0: never left out
    empty: str | None = None
    spare: str | None = None
    tail: int = 0  # characters of the end that a cut leaves


def numbers(*names: str) -> tuple[Column, ...]:
    """Columns of numbers, aligned to the right."""
    return tuple(Column(name, right=True) for name in names)


def cells(*values: object, style: str = "") -> tuple[Text, ...]:
    """A row: integers with separators, text made safe, a `Text` as it is."""
    return tuple(
        value
        if isinstance(value, Text)
        else Text(f"{value:,}" if isinstance(value, int) else sanitize(value), style=style)
        for value in values
    )


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Table:
    """A table of these rows in `width` columns."""

    def are_all(place: int, what: str | None) -> bool:
        return what is not None and all(row[place].plain == what for row in rows)

    wanted = [place for place, column in enumerate(columns) if not are_all(place, column.empty)]
    full = {p: max(len(columns[p].name), *(row[p].cell_len for row in rows), 0) for p in wanted}
    least = {p: min(full[p], _MIN_NAME) if columns[p].gives else full[p] for p in wanted}
    spare = [place for place in wanted if are_all(place, columns[place].spare)]
    ranked = [place for place in wanted if columns[place].rank and place not in spare]
    ranked.sort(key=lambda place: columns[place].rank)
    for place in (*reversed(spare), *ranked):
        if sum(least[p] + _GAP for p in wanted) - _GAP <= width:
            break
        wanted.remove(place)
    left = max(0, width + _GAP - sum(least[p] + _GAP for p in wanted))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    widths = {}
    for place in wanted:  # names share what numbers leave, the first of them first
        more = min(left, full[place] - least[place])
        left -= more
        widths[place] = least[place] + more
        table.add_column(
            columns[place].name,
            justify="right" if columns[place].right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=widths[place],
        )
    for row in rows:
        table.add_row(*(_cut(row[p], widths[p], columns[p].tail) for p in wanted))
    return table


class _Output(Console):
    """The one way of text to a terminal: tenants, receivers and file names wrote parts of it."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """With everything escaped that a terminal acts upon; styles are not in the text."""
        for text, style, control in super().render(renderable, options):
            if text.isprintable() or control:
                yield Segment(text, style, control)
            else:
                lines = text.split("\n")
                yield Segment("\n".join(sanitize(line, None) for line in lines), style)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line: rich would exit with code 1."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output, as wide as the terminal, or 120 columns where it is none."""
    out = _Output(markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out.width = _WIDTH
    return out


def _cut(text: Text, room: int, tail: int) -> Text:
    """Without its middle, if it is too long; with no `tail` rich cuts the end."""
    if not tail or text.cell_len <= room or room < tail + 2:
        return text
    return Text(f"{text.plain[: room - tail - 1]}…{text.plain[-tail:]}", style=text.style)

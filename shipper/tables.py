"""Tables for a terminal. Names are cut to the width, numbers never are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shipper.humanize import sanitize

_GAP = 2  # columns of space between two
_WIDTH = 120  # where there is no terminal
_MIN_NAME = 12  # a name cut shorter than this says nothing


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How wide a column is, and how narrow it may become."""

    width: int
    least: int


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
    shapes = {place: _shape(columns[place], [row[place] for row in rows]) for place in wanted}
    spare = [place for place in wanted if are_all(place, columns[place].spare)]
    ranked = sorted(
        (place for place in wanted if columns[place].rank and place not in spare),
        key=lambda place: columns[place].rank,
    )
    for place in (*reversed(spare), *ranked):
        if _least(shapes[place] for place in wanted) <= width:
            break
        wanted.remove(place)
    widths = _share([shapes[place] for place in wanted], width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for place, room in zip(wanted, widths, strict=True):
        table.add_column(
            columns[place].name,
            justify="right" if columns[place].right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=room,
        )
    for row in rows:
        table.add_row(
            *(_cut(row[p], room, columns[p].tail) for p, room in zip(wanted, widths, strict=True))
        )
    return table


class _Output(Console):
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


def _shape(column: Column, column_cells: Sequence[Text]) -> _Shape:
    width = max([len(column.name), *(cell.cell_len for cell in column_cells)])
    return _Shape(width=width, least=min(width, _MIN_NAME) if column.gives else width)


def _least(shapes: Iterable[_Shape]) -> int:
    """The width of a table whose names are all cut as far as possible."""
    return sum(shape.least + _GAP for shape in shapes) - _GAP


def _share(shapes: Sequence[_Shape], width: int) -> list[int]:
    """The width of each: names share what numbers leave, the first of them first."""
    left = width - _least(shapes)
    widths = []
    for shape in shapes:
        more = min(max(0, left), shape.width - shape.least)
        left -= more
        widths.append(shape.least + more)
    return widths

"""Tables that fit: what says nothing is left out, names are cut, numbers never are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

_GAP = 2  # columns of space between two
_NAME = 12  # a name that is cut shorter than this tells nothing


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How much a column takes, and whether its cells may be cut."""

    width: int
    gives: bool


@dataclass(frozen=True)
class Column:
    """One column; of those with a `rank` the lowest goes first where there is no room for all.

    A column whose cells all are `empty` is not shown; one that `gives` may be cut.
    """

    name: str
    right: bool = False
    gives: bool = False
    rank: int = 0  # 0: never left out
    empty: str | None = None


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Table:
    """A table of these rows in `width` columns."""
    wanted = [
        place
        for place, column in enumerate(columns)
        if column.empty is None or any(row[place].plain != column.empty for row in rows)
    ]
    shapes = {place: _shape(columns[place], rows, place) for place in wanted}
    while _least(shapes[place] for place in wanted) > width:
        ranked = [place for place in wanted if columns[place].rank]
        if not ranked:
            break
        wanted.remove(min(ranked, key=lambda place: columns[place].rank))
    widths = _share([shapes[place] for place in wanted], width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for place, room in zip(wanted, widths, strict=True):
        column = columns[place]
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=room,
        )
    for row in rows:
        table.add_row(*(row[place] for place in wanted))
    return table


def _shape(column: Column, rows: Sequence[Sequence[Text]], place: int) -> _Shape:
    cells = [row[place].cell_len for row in rows]
    return _Shape(width=max([len(column.name), *cells]), gives=column.gives)


def _least(shapes: Iterable[_Shape]) -> int:
    """What columns take when every name is cut as far as it may be."""
    return sum(_floor(shape) + _GAP for shape in shapes) - _GAP


def _floor(shape: _Shape) -> int:
    return min(shape.width, _NAME) if shape.gives else shape.width


def _share(shapes: Sequence[_Shape], width: int) -> list[int]:
    """The width of each: names share what numbers leave, the first of them first."""
    left = width - _least(shapes)
    widths = []
    for shape in shapes:
        more = min(max(0, left), shape.width - _floor(shape))
        left -= more
        widths.append(_floor(shape) + more)
    return widths

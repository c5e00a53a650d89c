"""What is printed for people: tables that fit. Names are cut, numbers never are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = 2  # columns of space between two
_WIDTH = 120  # where there is no terminal
_NAME = 12  # a name that is cut shorter than this tells nothing


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How much a column takes, and whether its cells may be cut."""

    width: int
    gives: bool


@dataclass(frozen=True)
class Column:
    """One column; of those with a `rank` the lowest goes first where there is no room for all.

    A column whose cells all are `empty` is not shown, one whose cells all are `spare` only where
    there is room for it; one that `gives` may be cut, by `tail` in its middle: ends of ids differ.
    """

    name: str
    right: bool = False
    gives: bool = False
    rank: int = 0  # 0: never left out
    empty: str | None = None
    spare: str | None = None
    tail: int = 0  # characters of the end that a cut leaves


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Table:
    """A table of these rows in `width` columns."""
    wanted = [n for n, column in enumerate(columns) if not _are_all(rows, n, column.empty)]
    shapes = {place: _shape(columns[place], rows, place) for place in wanted}
    spare = [place for place in wanted if _are_all(rows, place, columns[place].spare)]
    ranked = sorted(place for place in wanted if columns[place].rank and place not in spare)
    ranked.sort(key=lambda place: columns[place].rank)
    for place in (*reversed(spare), *ranked):
        if _least(shapes[place] for place in wanted) <= width:
            break
        wanted.remove(place)
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
        table.add_row(
            *(_cut(row[p], room, columns[p].tail) for p, room in zip(wanted, widths, strict=True))
        )
    return table


class _Out(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line: rich would end with code 1, which says something else."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output: as wide as the terminal, or 120 columns where it is none."""
    out = _Out(markup=False, emoji=False, highlight=False)
    if not out.is_terminal:
        out.width = _WIDTH
    return out


def _cut(text: Text, room: int, tail: int) -> Text:
    """Without its middle, where that is needed; with no `tail` rich cuts the end."""
    if not tail or text.cell_len <= room or room < tail + 2:
        return text
    return Text(f"{text.plain[: room - tail - 1]}…{text.plain[-tail:]}", style=text.style)


def _are_all(rows: Sequence[Sequence[Text]], place: int, what: str | None) -> bool:
    return what is not None and all(row[place].plain == what for row in rows)


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

"""Training lines: numbers that frameworks print to a log. Pure.

A parser is one module and one line in `REGISTRY`, with samples in `tests/golden/loglines`. It has:

- `MARKS`: texts of which each of its lines holds one. Other lines are never parsed.
- `SOLE_WRITER`: whether one rank of a job prints these lines, see `spooler.hooks.names`.
- `parse(line)`: the `Row` in one line, or None.

`parse` gets a line without colours and line end, of `LINE_LIMIT` characters at most. It raises
nothing, and its time is proportional to the line: repetitions in its patterns are bounded. Names
are those that the framework's own tracker writes for the same number, where it has one. Others stay
as they are printed. `spooler.loglines.reader` cuts a log into lines.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Protocol

REGISTRY: dict[str, str] = {
    "megatron": "spooler.loglines.megatron",
    "torchtitan": "spooler.loglines.torchtitan",
    "deepspeed": "spooler.loglines.deepspeed",
    "transformers": "spooler.loglines.transformers",
}
"""Name -> module. The first that finds a row in a line counts."""

LINE_LIMIT = 16 * 1024  # characters of a line that may hold numbers


class Row(NamedTuple):
    """The numbers of one line."""

    step: int | None  # None: the line has none, see `reader`
    values: dict[str, float]


class Parser(Protocol):
    """A module of `REGISTRY`, or an operator's own pattern."""

    MARKS: tuple[str, ...]
    SOLE_WRITER: bool

    def parse(self, line: str) -> Row | None: ...


def parsers() -> dict[str, Parser]:
    """Those of the registry, by name."""
    return {name: import_module(place) for name, place in REGISTRY.items()}

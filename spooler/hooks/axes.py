"""The axes of one run in the training process: definitions, and the last value of each axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spooler.errors import BodyUnreadable
from spooler.records import axes
from spooler.records.step import flatten
from spooler.records.values import careful

_KEPT = 256  # sets of names that rows have
_KEPT_NAMES = 1000  # of one of them


class RunAxes:
    """Says of each row what its record carries; see `spooler.records.axes`.

    `first` is what a row gets that lacks an axis before its first value: 0, or None for nothing.
    """

    def __init__(self, first: int | None) -> None:
        self.records: list[dict[str, Any]] = []  # bodies of the definitions that changed something
        self._first = first
        self._definitions = axes.Definitions()
        self._latest: dict[str, int | float | None] = {}
        self._groups: dict[tuple[str, ...], tuple[axes.AxisGroup, ...]] = {}

    def define(self, body: dict[str, Any]) -> bool:
        """Apply the body of an "axis" record; whether it changes anything."""
        arguments = {name: value for name, value in body.items() if name not in ("run", "time")}
        before, self._definitions = self._definitions, self._definitions.define(**arguments)
        if before == self._definitions:
            return False
        self.records.append(body)
        self._groups = {}
        for axis in self._definitions.axes:
            self._latest.setdefault(axis, self._first)
        return True

    def of_step(self, data: Mapping[str, Any]) -> axes.AxesOfStep | None:
        """What the record of `data` carries. Called in the order of the tracker's own calls."""
        if any(issubclass(kind, dict) for kind in set(map(type, data.values()))):
            try:
                data = flatten(
                    {key: dict(one) if isinstance(one, dict) else one for key, one in data.items()}
                )
            except BodyUnreadable:
                return None  # as every reader will find
        names = tuple(data)
        groups = self._groups.get(names)
        if groups is None:
            groups, self._definitions = self._definitions.groups(names)
            if len(self._groups) >= _KEPT:
                self._groups = {}
            if len(names) <= _KEPT_NAMES:
                self._groups[names] = groups
        values = {axis: _number(data[axis]) for axis in self._definitions.axes if axis in data}
        for axis, value in values.items():
            if value is not None:
                self._latest[axis] = value
            if type(value) is float:  # else it is no fraction
                self._definitions = self._definitions.after(values)
        return self._definitions.of_step(groups, data, self._latest)


def _number(value: Any) -> int | float | None:
    """The value as a record has it if that is a number."""
    if type(value) is int:
        return value
    value = careful(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if isinstance(value, float) else int(value)

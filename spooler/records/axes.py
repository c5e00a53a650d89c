"""Which step the values of a row belong to: the axes of wandb's `define_metric`. Pure.

A metric that has an axis is drawn over the values of another metric, and not over wandb's own count
of calls. Receivers key their rows by the step, so a row has the step that its user draws it at:

- The definition of a name goes before those that end in `*`. Of these the one with the longest
  beginning counts, and a name keeps the one that it was first logged with. Axes and names that
  begin with `_` have only definitions of their own.
- An axis stands in its own row, if no definition of its own gives it another axis.
- A row that lacks the axis gets its last value, if the definition says so (`step_sync`): wandb adds
  the axis to such rows. Before the first value that is 0, or nothing with wandb's older service.
- Values with several axes are several rows.
- The tracker's own number is the step of all others: values without an axis, and those whose axis
  is missing or not a whole number from 0 to 2**31-1, the range of the telemetry-processor's key. An
  axis that has once been a fraction is not used again by its run: steps and counts would overwrite
  each other's rows.

The training process decides which names have which axis, and a step record carries that, as later
records do not: `{axis: [last value, names]}`. The value is None if the record itself has the axis
or the last value does not count. Names is None if all names of the record have this axis.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from spooler.errors import MalformedBody

# Values that are the step of a row where no axis was defined and the caller named no step.
STEP_KEYS = ("train/global_step", "trainer/global_step", "global_step")

AxesOfStep = dict[str, list[Any]]
Row = tuple[int, Mapping[str, Any]]  # step, name -> value

_STEPS = 2**31
_NAMES = 10_000  # of a run, as far as they keep the definition that they were first logged with
# Wandb's own names: its number of the row, which a row without an axis has, and clocks.
_OWN = frozenset({"_step", "_runtime", "_timestamp"})


class Definition(NamedTuple):
    """The axis of a name, "" without one."""

    axis: str = ""
    sync: bool = False


class AxisGroup(NamedTuple):
    """Names of a row with one axis, None where these are all; see `Definitions.groups`."""

    axis: str
    sync: bool
    names: list[str] | None


_NONE = Definition()


class Definitions(NamedTuple):
    """The definitions of a run. Never changed: methods return the definitions that follow."""

    exact: Mapping[str, Definition] = {}
    globs: Mapping[str, Definition] = {}  # beginning of names -> definition, the longest first
    axes: tuple[str, ...] = ()
    fractions: frozenset[str] = frozenset()  # axes that are not used again

    def define(
        self, name: str, step_metric: str = "", step_sync: bool = False, overwrite: bool = False
    ) -> Definitions:
        """After a call of `define_metric`; what it leaves out stays as an earlier one said."""
        axis = "" if step_metric in _OWN else step_metric
        is_glob = name.endswith("*")
        key, known = (name[:-1], self.globs) if is_glob else (name, self.exact)
        before = _NONE if overwrite else known.get(key, _NONE)
        new = {**known, key: Definition(axis or before.axis, step_sync or before.sync)}
        axes = self.axes if not axis or axis in self.axes else (*self.axes, axis)
        if not is_glob:
            return self._replace(exact=new, axes=axes)
        longest = dict(sorted(new.items(), key=lambda one: -len(one[0])))
        return self._replace(globs=longest, axes=axes)

    def groups(self, names: Collection[str]) -> tuple[tuple[AxisGroup, ...], Definitions]:
        """The names of a flat row by their axes; and the definitions with names that are new."""
        homes: dict[str, str] = {}  # name -> axis
        synced: set[str] = set()
        new: dict[str, Definition] = {}
        for name in names:
            definition = self._of(name)
            if definition.sync and definition.axis not in names:
                synced.add(definition.axis)
            home = definition.axis or (name if name in self.axes else "")
            if home:
                homes[name] = home
            if definition is not _NONE and name not in self.exact:
                new[name] = definition
        homes |= {axis: self._of(axis).axis or axis for axis in synced if axis}
        kept = new and len(self.exact) < _NAMES
        following = self._replace(exact={**self.exact, **new}) if kept else self
        return _groups(names, homes, synced), following

    def _of(self, name: str) -> Definition:
        given = self.exact.get(name)
        if given is not None or name in self.axes or name.startswith("_"):
            return given or _NONE
        matched = (one for start, one in self.globs.items() if name.startswith(start))
        return next(matched, _NONE)

    def after(self, values: Mapping[str, Any]) -> Definitions:
        """After a row with these values: what an axis has in it decides whether it is used."""
        new = {axis for axis in self.axes if _is_fraction(values.get(axis))} - self.fractions
        return self._replace(fractions=self.fractions | new) if new else self

    def of_step(
        self, groups: Iterable[AxisGroup], data: Mapping[str, Any], latest: Mapping[str, Any]
    ) -> AxesOfStep:
        """What the record of a step carries. `latest` has the last values of axes."""
        axes: AxesOfStep = {}
        for axis, sync, names in groups:
            last = latest.get(axis) if sync and axis not in data else None
            axes[axis] = [last, [] if axis in self.fractions else names]
        return axes


def _groups(
    names: Iterable[str], homes: Mapping[str, str], synced: Collection[str]
) -> tuple[AxisGroup, ...]:
    members: dict[str, list[str]] = {axis: [] for axis in sorted({*homes.values(), *synced} - {""})}
    for name, axis in homes.items():
        members[axis].append(name)
    left = [name for name in names if name not in homes]
    private = all(name.startswith("_") for name in left)
    if len(members) == 1 and private:
        return tuple(AxisGroup(axis, axis in synced, None) for axis in members)
    if members and private:  # no row of its own for what wandb does not show
        members[min(members)] += left
    return tuple(AxisGroup(axis, axis in synced, found) for axis, found in members.items())


def as_step(value: Any) -> int | None:
    """The value of an axis as a step, None where it is none."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value) if 0 <= value < _STEPS else None
    return None


def _is_fraction(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and not value.is_integer()


# --- in readers -----------------------------------------------------------------------------------


def checked(axes: Mapping[Any, Any]) -> None:
    """Raise `MalformedBody` unless it is what a step record carries."""
    for axis, entry in axes.items():
        if not isinstance(axis, str) or not isinstance(entry, list) or len(entry) != 2:
            raise MalformedBody("axes is not a map of axis to last value and names")
        last, names = entry
        if last is not None and type(last) not in (int, float):
            raise MalformedBody("axes has a last value that is not a number")
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            raise MalformedBody("axes has names that are not a list of texts")


class StepRows(NamedTuple):
    """The rows of a step, that of the highest step first."""

    rows: tuple[Row, ...]
    counted: bool = False  # the tracker's own number is the step of one of them


def rows(
    number: int, data: Mapping[str, Any], axes: AxesOfStep | None, keys: Sequence[str]
) -> StepRows:
    """The rows of flat data.

    Args:
        number: the tracker's own.
        data: name -> value.
        axes: what the record of the step carries, None where no axis was defined.
        keys: names of values that are the step then; of these the first that has one.
    """
    if axes is None:
        steps = (as_step(data.get(key)) for key in keys)
        return _row(number, data, next((step for step in steps if step is not None), None))
    missing = {
        axis: last for axis, (last, _) in axes.items() if last is not None and axis not in data
    }
    data = {**data, **missing} if missing else data
    if len(axes) == 1:
        ((axis, (_, names)),) = axes.items()
        if names is None:
            return _row(number, data, as_step(data.get(axis)))
    return _split(number, data, axes)


def _row(number: int, data: Mapping[str, Any], step: int | None) -> StepRows:
    return StepRows(((number if step is None else step, data),), step is None)


def _split(number: int, data: Mapping[str, Any], axes: AxesOfStep) -> StepRows:
    home = {name: axis for axis, (_, names) in axes.items() for name in names or ()}
    steps = {axis: as_step(data.get(axis)) for axis in axes}
    split: dict[int, dict[str, Any]] = {}
    counted = not data
    for name, value in data.items():
        step = steps.get(home.get(name, ""))
        counted |= step is None
        split.setdefault(number if step is None else step, {})[name] = value
    return StepRows(tuple(sorted(split.items(), reverse=True)) or ((number, data),), counted)


def merged(parts: Sequence[tuple[Iterable[str], AxesOfStep | None]]) -> AxesOfStep | None:
    """The axes of a step that was logged in parts, each with its names."""
    known = [(names, axes) for names, axes in parts if axes is not None]
    if not known:
        return None
    found: AxesOfStep = {}
    alone = len({axis for _, axes in known for axis in axes}) == 1 and all(
        members is None for _, axes in known for _, members in axes.values()
    )
    for names, axes in known:
        for axis, (last, members) in axes.items():
            entry = found.setdefault(axis, [last, None if alone else []])
            if entry[0] is None:
                entry[0] = last
            if not alone:
                entry[1] += names if members is None else members
    return found

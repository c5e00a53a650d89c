"""Rows have the step at which wandb draws them, and the values that wandb stores of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from shipper.importers import open_imports
from shipper.steps import collect_steps
from tests.contract.wandb.ran import Ran, alike
from tests.kit import spools

Rows = dict[int, Mapping[str, Any]]
PROGRAMS = {"AXES_SEED": "7", "AXES_RUNS": "20"}


def recorded(ran: Ran, run: str) -> list[Rows]:
    """The rows of each step of a run, as the service sends them."""
    (directory,) = ran.spools
    steps = collect_steps(spools.read_whole(directory).records).complete
    return [dict(step.rows()) for step in steps if step.run == run]


def replayed(ran: Ran, run: str) -> list[Rows]:
    """The same, from wandb's own file."""
    (path,) = ran.wandb.glob(f"wandb/*run-*/run-{run}.wandb")
    (source,) = open_imports(path)
    steps = collect_steps(source.read(0, 1000).records).complete
    return [
        {number: {k: v for k, v in data.items() if k[0] != "_"} for number, data in step.rows()}
        for step in steps
    ]


def drawn(ran: Ran, run: str) -> Iterator[Rows]:
    """Where wandb draws the values that it has stored: by the definitions in its file."""
    exact: dict[str, Any] = {}
    globs: dict[str, Any] = {}
    chosen: dict[str, Any] = {}  # what a name matched first
    axes: set[str] = set()
    fractions: set[str] = set()
    stored = iter(ran.stored(run).items())
    for kind, record in ran.in_order(run):
        if kind == "metric":
            metric = record.metric
            if not metric.options.defined:
                continue
            place, name = (exact, metric.name) if metric.name else (globs, metric.glob_name[:-1])
            before = "" if metric._control.overwrite else place.get(name, "") or ""
            if metric.name and not metric._control.overwrite:
                before = before or chosen.get(name, "")
            place[name] = metric.step_metric or before
            axes |= {metric.step_metric} - {""}
        if kind != "history":
            continue
        number, data = next(stored)
        rows: dict[int, dict[str, Any]] = {}
        fractions |= {axis for axis in axes if 0 < (data.get(axis) or 0) % 1 < 1}
        for name, value in data.items():
            matched = [axis for start, axis in globs.items() if name.startswith(start)]
            if name not in exact and name not in axes and matched:
                chosen.setdefault(name, matched[0])
            axis = exact.get(name, chosen.get(name, "")) or (name if name in axes else "")
            x = data.get(axis)
            usable = axis not in fractions and type(x) in (int, float) and 0 <= x < 2**31
            rows.setdefault(int(x) if usable else number, {})[name] = value
        yield rows


def assert_same(ours: list[Rows], theirs: list[Rows]) -> None:
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys(), (our, their)
        for number, data in our.items():
            assert data.keys() == their[number].keys(), (number, data, their)
            assert all(alike(value, their[number][name]) for name, value in data.items())


@pytest.mark.promise("G3")
def test_rows_are_where_wandb_draws_them(run: Callable[..., Ran]) -> None:
    ran = run("axes", **PROGRAMS)
    split = 0
    for one in ran.report["runs"]:
        ours = recorded(ran, one)
        assert_same(ours, list(drawn(ran, one)))
        split += sum(len(rows) > 1 for rows in ours)
    assert split > 10


@pytest.mark.promise("G3")
def test_a_replay_gives_the_rows_that_the_hook_has_recorded(run: Callable[..., Ran]) -> None:
    ran = run("axes", **PROGRAMS)
    for one in ran.report["runs"]:
        assert_same(replayed(ran, one), recorded(ran, one))

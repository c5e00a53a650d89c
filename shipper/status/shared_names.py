"""Finds runs of one workload that write the same names into the same rows.

Receivers with one row for a workload and a step keep the later value. After a restart that is
meant: it goes on with later steps than those with which the run before it began. Nothing else knows
of two processes that share names otherwise: each decides for itself (`spooler.hooks.names`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from shipper.steps import step_of
from spooler.errors import BodyUnreadable
from spooler.records import step
from spooler.records.axes import STEP_KEYS
from spooler.spool import codec
from spooler.spool.stored import Stored

RECORDS = 32  # of a spool that are read
_NAMES = 16  # of them that are compared
_WRITERS = 50  # of one workload and rank that are compared, the newest


class FirstSteps(NamedTuple):
    """How the first run of a spool begins."""

    run: str
    step: int
    names: frozenset[str]
    sole_writer: bool
    run_prefix: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NameWriter:
    """A spool with steps; times are Unix seconds."""

    workload: str
    rank: int | None
    began: float
    newest: float | None  # time of its last record
    steps: FirstSteps


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedNames:
    """Run `later` writes names of run `earlier`, `at_once` or from its own first step `step` on."""

    workload: str
    earlier: str
    later: str
    ranks: tuple[int | None, int | None]
    step: int
    at_once: bool
    names: tuple[str, ...]


def first_steps(
    records: Sequence[Stored], step_keys: Sequence[str] = STEP_KEYS
) -> FirstSteps | None:
    """From the first records of a spool; None if they are deleted or hold no step."""
    found, names = None, set[str]()
    for stored in records if records and records[0].seq == 1 else ():
        if stored.kind != step.NAME:
            continue
        try:
            record = step.decode(codec.unpack(stored.body))
            one = step_of(record, step.flatten(record.data), (stored.seq,), step_keys)
        except BodyUnreadable:
            continue
        found = found or one
        if one.run == found.run:
            names.update(one.data)
    if found is None:
        return None
    compared = frozenset(sorted(names)[:_NAMES])
    return FirstSteps(found.run, found.step, compared, found.sole_writer, found.run_prefix)


def find_shared(writers: Iterable[NameWriter]) -> tuple[SharedNames, ...]:
    """The newest pair of each workload that shares names otherwise than by a restart."""
    rows = defaultdict[tuple[str, int], list[NameWriter]](list)
    for one in writers:
        if not one.steps.run_prefix:
            rank = 0 if one.steps.sole_writer else one.rank or 0
            rows[one.workload, rank].append(one)
    found: dict[str, SharedNames] = {}
    for (workload, _), all_of_rank in sorted(rows.items()):
        newest_first = sorted(all_of_rank, key=lambda one: -one.began)[:_WRITERS]
        pairs = (_shared(earlier, later) for later, earlier in combinations(newest_first, 2))
        if shared := next(filter(None, pairs), None):
            found.setdefault(workload, shared)
    return tuple(found.values())


def _shared(earlier: NameWriter, later: NameWriter) -> SharedNames | None:
    names = earlier.steps.names & later.steps.names
    at_once = earlier.newest is not None and later.began < earlier.newest
    repeats = later.steps.step <= earlier.steps.step
    if earlier.steps.run == later.steps.run or not names or not (at_once or repeats):
        return None
    return SharedNames(
        workload=later.workload,
        earlier=earlier.steps.run,
        later=later.steps.run,
        ranks=(earlier.rank, later.rank),
        step=later.steps.step,
        at_once=at_once,
        names=tuple(sorted(names)[:3]),
    )

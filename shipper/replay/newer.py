"""The steps that were written again since, for receivers that keep one value of a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shipper.delivery.readable import Records
from shipper.replay.find import FoundSource
from shipper.replay.source import decode, own_names, records_in, rows_of
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored


class NewerSteps:
    """Steps in later spools of the same workload and rank, by whose names they have."""

    def __init__(self, found: Iterable[FoundSource], step_keys: Sequence[str]) -> None:
        self._found = list(found)
        self.step_keys = step_keys
        self._steps: dict[str, dict[str, set[int]]] = {}

    def later(self, one: FoundSource) -> list[FoundSource]:
        """Sources that a later process has written, to the same rows of the receiver."""
        return [
            other
            for other in self._found
            if other.identity.created > one.identity.created
            and other.spool != one.spool
            and _rows(other.identity) == _rows(one.identity) is not None
        ]

    def than(self, one: FoundSource) -> dict[str, set[int]]:
        """The steps in these: what `own_names` says -> numbers."""
        found = defaultdict[str, set[int]](set)
        for other in self.later(one):
            for own, steps in self._of(other).items():
                found[own] |= steps
        return dict(found)

    def _of(self, other: FoundSource) -> dict[str, set[int]]:
        if other.spool not in self._steps:
            self._steps[other.spool] = _steps(other.reader, self.step_keys)
        return self._steps[other.spool]


class RecordedStep(NamedTuple):
    """What a step record would overwrite at a receiver: in each of its rows these names."""

    run: str
    own_names: str
    rows: Mapping[int, frozenset[str]]

    @classmethod
    def of(cls, stored: Stored, step_keys: Sequence[str]) -> RecordedStep:
        body = decode(stored)
        rows = {step: frozenset(data) for step, data in rows_of(stored, body, step_keys)}
        return cls(run=str(body.get("run", "")), own_names=own_names(body), rows=rows)


def replaced(
    reader: Records, steps: Mapping[int, RecordedStep], step_keys: Sequence[str]
) -> set[int]:
    """Those of `steps`, by seq, of which a later record that is none of them has values."""
    by_step = defaultdict(list)
    for seq, one in steps.items():
        for step, names in one.rows.items():
            by_step[one.run, step].append((seq, names))
    found: set[int] = set()
    for stored in records_in(reader) if steps else ():
        if stored.kind == "step" and stored.seq not in steps:
            later = RecordedStep.of(stored, step_keys)
            for step, values in later.rows.items():
                before = by_step.get((later.run, step), ())
                found.update(seq for seq, names in before if seq < stored.seq and names & values)
    return found


def _rows(identity: Identity) -> tuple[str, int] | None:
    """Spools with the same key write to the same rows of the receiver; None: to none."""
    owner = identity.workload_uid or identity.pod_name
    return (owner, identity.rank or 0) if owner else None


def _steps(reader: Records, step_keys: Sequence[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for stored in records_in(reader):
        body = decode(stored)
        for step, _ in rows_of(stored, body, step_keys):
            found.setdefault(own_names(body), set()).add(step)
    return found

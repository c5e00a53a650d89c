"""The plan of a replay: the records of each source for each sink, and how many would be sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from shipper.ledger.ledger import Ledger
from shipper.replay.find import FoundSource, Places, about, find_sources
from shipper.replay.newer import NewerSteps, RecordedStep, replaced
from shipper.replay.source import (
    EVERYTHING,
    Kinds,
    RecordRange,
    Selection,
    carries,
    decode,
    records_in,
)
from shipper.sinks import Overwrites, Sink, carried
from spooler.errors import SpoolError
from spooler.records import finish
from spooler.records.axes import STEP_KEYS


@dataclass(frozen=True, kw_only=True)
class ReplayRequest:
    """The options of the command."""

    places: Places
    sinks: Mapping[str, Sink]
    selection: Selection = EVERYTHING
    resend_delivered: bool = False
    overwrite_newer: bool = False
    step_keys: Sequence[str] = STEP_KEYS


@dataclass(frozen=True, kw_only=True)
class ReplayPart:
    """One source for one sink. Counts are of records; `entry` is its name in the ledger."""

    source: RecordRange
    sink: str
    kinds: Kinds  # that the sink carries
    entry: str
    records: int
    bytes: int
    delivered: int  # or dropped already, and therefore not sent without `resend`
    overwriting: int  # steps left out because a later process has written them since
    steps: tuple[int, int] | None  # lowest and highest
    runs: tuple[str, ...]
    resend: bool
    unfinished: bool  # it was begun before, and has no receipt
    oldest: float = 0.0  # Unix seconds of the oldest record; 0: none has a time
    ended: bool = True  # the run has its end
    pending: bool = False  # the service has not delivered all of it
    letters: int = 0  # dead letters of the service, which are not sent

    @property
    def to_send(self) -> int:
        left_out = 0 if self.resend else self.delivered + self.letters
        return self.records - left_out

    @property
    def spool(self) -> str:
        return self.source.identity.spool


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """All parts in the order in which they are sent, and a message for each unreadable source."""

    parts: list[ReplayPart] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sending(self) -> list[ReplayPart]:
        """The parts of which something is left to do."""
        return [part for part in self.parts if part.to_send or part.unfinished]


def make_plan(request: ReplayRequest, ledger: Ledger) -> ReplayPlan:
    found = find_sources(request.places, ledger)
    plan = ReplayPlan(problems=found.problems, notes=found.notes)
    if request.selection.run and found.sources:
        given = request.selection.run
        runs = _matching_runs(found.sources.values(), given)
        if len(runs) != 1:
            several = f"several runs begin with {given}: {', '.join(runs[:10])}"
            plan.problems.append(several if runs else f"no run begins with {given}")
            return plan
        request = replace(request, selection=replace(request.selection, run=runs[0]))
    newer = NewerSteps(found.sources.values(), request.step_keys)
    for one in sorted(found.sources.values(), key=lambda one: (one.identity.created, one.spool)):
        if request.selection.workload not in ("", one.identity.workload_uid):
            continue
        try:
            for sink in request.sinks.values():
                keeps = isinstance(sink, Overwrites) and not request.overwrite_newer
                later = newer.than(one) if keeps else {}
                plan.parts.extend(_parts(request, ledger, one, sink, later))
        except (SpoolError, OSError) as error:
            plan.problems.append(about(one.place, error))
    return plan


def _matching_runs(found: Iterable[FoundSource], run: str) -> list[str]:
    """The run with the id `run`, else all whose id begins with it."""
    names = set[str]()
    for one in found:
        with suppress(SpoolError, OSError):  # the plan of this source says it
            names.update(str(decode(stored).get("run", "")) for stored in records_in(one.reader))
    return [run] if run in names else sorted(name for name in names if name.startswith(run))


def _parts(
    request: ReplayRequest,
    ledger: Ledger,
    found: FoundSource,
    sink: Sink,
    newer: Mapping[str, Collection[int]],
) -> Iterator[ReplayPart]:
    """One part; a second one for records that the receiver rejected before.

    Rejected records of a live spool are sent only if the request says whose they are.
    """
    position = ledger.position(found.spool, sink.name)
    source = RecordRange(
        reader=found.reader,
        identity=found.identity,
        through=position.seq if found.live else found.reader.last_seq(),
        selection=request.selection,
        newer=newer,
        step_keys=request.step_keys,
    )
    pending = found.live and found.reader.last_seq() > position.seq
    if request.resend_delivered:
        yield _part(request, ledger, source, sink, resend=True, pending=pending)
        return
    kept = found.live and not found.named
    rejected = frozenset() if kept else rejected_in(ledger, found.spool, sink.name)
    first = replace(source, without=rejected)
    yield _part(request, ledger, first, sink, resend=False, pending=pending)
    if rejected and isinstance(sink, Overwrites) and not request.overwrite_newer:
        only = replace(source, only=rejected, newer={})
        steps = {
            one.seq: RecordedStep.of(one, request.step_keys)
            for one in records_in(only)
            if one.kind == "step"
        }
        rejected -= replaced(found.reader, steps, request.step_keys)
    if rejected:
        yield _part(request, ledger, replace(source, only=rejected), sink, resend=True)


def _part(
    request: ReplayRequest,
    ledger: Ledger,
    source: RecordRange,
    sink: Sink,
    *,
    resend: bool,
    pending: bool = False,
) -> ReplayPart:
    """What `sink` gets from `source`, under an entry of its own in the ledger if not all of it.

    The position of a source says that everything before it is delivered. A selection cannot.
    """
    spool, entry, counted = source.identity.spool, sink.name, source
    kinds = carried(sink.kinds)
    delivered_to = ledger.position(spool, entry).seq if source.only is None else 0
    rejected = frozenset() if resend else rejected_in(ledger, spool, sink.name)
    letters = rejected.difference(source.without)
    if resend:
        more = ["overwrite" if request.overwrite_newer else ""]
        more += ["rejected"] if source.only is not None else []
        again = request.selection.digest(sink.name, *more)
        entry = f"{sink.name}~{again}~{ledger.open_replay(spool, sink.name, again)}"
    elif replace(request.selection, workload="") != EVERYTHING:
        entry = f"{sink.name}~{request.selection.digest(sink.name, 'first')}"
        source = replace(source, beyond=delivered_to)
        delivered_to = max(delivered_to, ledger.position(spool, entry).seq)
    return ReplayPart(
        source=source,
        sink=sink.name,
        kinds=kinds,
        entry=entry,
        resend=resend,
        unfinished=ledger.is_unfinished(spool, entry),
        pending=pending,
        **_count(counted, kinds, delivered_to, letters),
    )


def rejected_in(ledger: Ledger, spool: str, sink: str) -> frozenset[int]:
    """Seqs of the records that are kept as dead letters."""
    return frozenset(
        row["seq"]
        for row in ledger.dead_letters(spool)
        if row["sink"] == sink and row["state"] == "kept"
    )


def _count(
    source: RecordRange, kinds: Kinds, delivered_to: int, letters: Collection[int]
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    steps: list[int] = []
    runs: dict[str, None] = {}
    # Of single records it is not known whether their runs have ended, and nothing of them follows.
    oldest, ended = 0.0, source.only is not None
    for stored in records_in(replace(source, newer={})):
        ended = ended or stored.kind == finish.NAME
        if not carries(kinds, stored.kind):
            continue
        body = decode(stored)
        if source.overwrites(stored, body):
            counts["overwriting"] += 1
            continue
        counts["records"] += 1
        counts["bytes"] += len(stored.body)
        rejected = stored.seq in letters
        counts["letters"] += rejected
        counts["delivered"] += not rejected and stored.seq <= delivered_to
        runs.setdefault(str(body.get("run", "")))
        numbers = [*steps, *(step for step, _ in source.rows(stored, body))]
        steps = [min(numbers), max(numbers)] if numbers else steps
        if isinstance(body.get("time"), float) and stored.seq > delivered_to:
            oldest = min(oldest or body["time"], body["time"])
    return {
        "records": counts["records"],
        "bytes": counts["bytes"],
        "delivered": counts["delivered"],
        "letters": counts["letters"],
        "overwriting": counts["overwriting"],
        "steps": (steps[0], steps[1]) if steps else None,
        "runs": tuple(runs),
        "oldest": oldest,
        "ended": ended,
    }

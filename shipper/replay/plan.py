"""The plan of a replay: the records of each source for each sink, and how many would be sent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from shipper.delivery.readable import Records
from shipper.discovery.layout import find_spools, identity_of, why_unreadable
from shipper.discovery.same_spool import is_missing, is_same_place, replaces
from shipper.errors import Misplaced
from shipper.importers import open_imports
from shipper.ledger.ledger import Ledger
from shipper.replay.selection import Kinds, Selection, carries
from shipper.replay.source import RecordRange, decode, records_in
from spooler.errors import SpoolError
from spooler.spool import format as fmt
from spooler.spool.identity import Identity, from_spool_id
from spooler.spool.reader import Reader, Stored


@dataclass(frozen=True, kw_only=True)
class ReplayRequest:
    """The options of the command."""

    root: Path | None  # where the service ships; None: paths to spools cannot be judged
    pod_directories: bool = False
    paths: tuple[Path, ...] = ()
    selection: Selection = field(default_factory=Selection)
    sinks: Mapping[str, Kinds]  # what each sink carries
    resend_delivered: bool = False
    overwrite_newer: bool = False
    workload_uid: str = ""
    pod_name: str = ""


@dataclass(frozen=True, kw_only=True)
class ReplayPart:
    """One source for one sink. Counts are of records; `entry` is its name in the ledger."""

    source: RecordRange
    sink: str
    kinds: Kinds  # that the sink carries
    entry: str
    records: int
    bytes: int
    delivered: int  # already, and therefore not sent without `resend`
    overwriting: int  # steps left out because a later process has written them since
    steps: tuple[int, int] | None  # lowest and highest
    runs: tuple[str, ...]
    resend: bool
    unfinished: bool  # it was begun before, and has no receipt

    @property
    def to_send(self) -> int:
        return self.records if self.resend else self.records - self.delivered

    @property
    def spool(self) -> str:
        return self.source.identity.spool


@dataclass(frozen=True, kw_only=True)
class FoundSource:
    """Records that are on disk, and whose they are."""

    reader: Records
    identity: Identity
    live: bool  # the service ships it

    @property
    def spool(self) -> str:
        return self.identity.spool


def make_plan(request: ReplayRequest, ledger: Ledger) -> tuple[list[ReplayPart], list[str]]:
    """All parts in the order in which they are sent, and a message for each unreadable source."""
    found, problems = _find(request, ledger)
    newer = NewerSteps(found)
    parts: list[ReplayPart] = []
    for one in sorted(found, key=lambda one: (one.identity.created, one.identity.spool)):
        if request.selection.workload not in ("", one.identity.workload_uid):
            continue
        try:
            later = newer.than(one) if not request.overwrite_newer else frozenset()
            for sink in request.sinks:
                parts += _parts(request, ledger, one, sink, later)
        except (SpoolError, OSError) as error:
            problems.append(_about(one.reader.directory, error))
    return parts, problems


def _find(request: ReplayRequest, ledger: Ledger) -> tuple[list[FoundSource], list[str]]:
    problems: list[str] = []
    found: dict[str, FoundSource] = {}
    directories = list(find_spools(request.root)) if request.root and not request.paths else []
    for path in request.paths:
        if fmt.is_spool_id(path.name):
            directories.append(path)
            continue
        spools = list(find_spools(path)) if path.is_dir() else []
        directories.extend(spools)
        try:
            for source in open_imports(
                path, workload_uid=request.workload_uid, pod_name=request.pod_name
            ):
                found[source.spool] = FoundSource(
                    reader=source, identity=source.identity(), live=False
                )
        except (SpoolError, OSError) as error:
            problems.append(_about(path, error))
    shipped = _shipped(request.root, ledger) if request.root else {}
    for directory in directories:
        place = shipped.get(directory.name)
        live = place is not None and is_same_place(place, directory)
        if why := "" if live else _why_not(request, place):
            problems.append(f"{directory}: {why}")
            continue
        reader = Reader(directory)
        try:
            identity = remembered(_identity(reader, request, live=live), ledger)
        except (SpoolError, Misplaced, OSError) as error:
            problems.append(_about(directory, error))
            continue
        found[identity.spool] = FoundSource(reader=reader, identity=identity, live=live)
    return list(found.values()), problems


def _shipped(root: Path, ledger: Ledger) -> dict[str, Path]:
    """Where the service finds each spool, or found it if that cannot be told now."""
    away = is_missing(root) or bool(why_unreadable(root))
    places: dict[str, Path] = {}
    for path in find_spools(root):
        known = places.setdefault(path.name, path)
        if known != path and replaces(Reader(path), Reader(known)):
            places[path.name] = path
    known_places = ledger.present().items()
    return places | {name: one for name, one in known_places if away or not is_missing(one)}


def _why_not(request: ReplayRequest, place: Path | None) -> str:
    """Why a spool that the service does not find in this directory is not replayed, "" if it is."""
    if request.root is None:
        return (
            "a spool: give --spool ROOT, the root that the service ships, so that what of it is"
            " delivered already is known"
        )
    if place is None or request.resend_delivered:
        return ""
    return (
        f"a copy of {place}, which the service ships: its pending records are left to the service,"
        " and --resend-delivered sends all of the copy"
    )


def _about(path: Path, error: Exception) -> str:
    """A message that names the path once."""
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def _identity(reader: Reader, request: ReplayRequest, *, live: bool) -> Identity:
    """The spool's own, completed from the request where it names neither workload nor pod."""
    try:
        if live and request.pod_directories and request.root:
            below = Reader(reader.directory.resolve())
            identity = identity_of(below, request.root.resolve(), by_directory=True)
        else:
            identity = reader.identity()
    except SpoolError:
        if not (request.workload_uid or request.pod_name):
            raise
        identity = from_spool_id(reader.spool)
    if identity.workload_uid or identity.pod_name:
        return identity
    return replace(identity, workload_uid=request.workload_uid, pod_name=request.pod_name)


def _parts(
    request: ReplayRequest, ledger: Ledger, found: FoundSource, sink: str, newer: frozenset[int]
) -> Iterator[ReplayPart]:
    """One part; a second one for records that the receiver rejected in an earlier replay."""
    position = ledger.position(found.identity.spool, sink)
    source = RecordRange(
        reader=found.reader,
        identity=found.identity,
        through=position.seq if found.live else found.reader.last_seq(),
        selection=request.selection,
        newer=newer,
    )
    if request.resend_delivered:
        yield _part(request, ledger, source, sink, position.seq, resend=True)
        return
    rejected = frozenset() if found.live else rejected_in(ledger, found.identity.spool, sink)
    first = replace(source, without=rejected)
    yield _part(request, ledger, first, sink, position.seq, resend=False)
    if rejected and not request.overwrite_newer:
        only = replace(source, only=rejected, newer=())
        steps = {one.seq: RecordedStep.of(one) for one in records_in(only) if one.kind == "step"}
        rejected -= replaced(found.reader, steps)
    if rejected:
        yield _part(request, ledger, replace(source, only=rejected), sink, 0, resend=True)


def _part(
    request: ReplayRequest,
    ledger: Ledger,
    source: RecordRange,
    sink: str,
    delivered_to: int,
    *,
    resend: bool,
) -> ReplayPart:
    """What `sink` gets from `source`; with `resend` under an entry of its own in the ledger."""
    spool, entry = source.identity.spool, sink
    if resend:
        more = ["overwrite" if request.overwrite_newer else ""]
        more += ["rejected"] if source.only is not None else []
        again = request.selection.digest(sink, *more)
        entry = f"{sink}~{again}~{ledger.open_replay(spool, sink, again)}"
    return ReplayPart(
        source=source,
        sink=sink,
        kinds=request.sinks[sink],
        entry=entry,
        resend=resend,
        unfinished=ledger.is_unfinished(spool, entry),
        **_count(source, request.sinks[sink], delivered_to),
    )


def rejected_in(ledger: Ledger, spool: str, sink: str) -> frozenset[int]:
    """Seqs of the records that are kept as dead letters."""
    return frozenset(
        row["seq"]
        for row in ledger.dead_letters(spool)
        if row["sink"] == sink and row["state"] == "kept"
    )


def _count(source: RecordRange, kinds: Kinds, delivered_to: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    steps: list[int] = []
    runs: dict[str, None] = {}
    for stored in records_in(replace(source, newer=())):
        if not carries(kinds, stored.kind):
            continue
        body = decode(stored)
        if stored.kind == "step" and body.get("step") in source.newer:
            counts["overwriting"] += 1
            continue
        counts["records"] += 1
        counts["bytes"] += len(stored.body)
        counts["delivered"] += stored.seq <= delivered_to
        runs.setdefault(str(body.get("run", "")))
        if isinstance(body.get("step"), int):
            steps = [min([*steps, body["step"]]), max([*steps, body["step"]])]
    return {
        "records": counts["records"],
        "bytes": counts["bytes"],
        "delivered": counts["delivered"],
        "overwriting": counts["overwriting"],
        "steps": (steps[0], steps[1]) if steps else None,
        "runs": tuple(runs),
    }


class NewerSteps:
    """Step numbers in later spools of the same workload and rank."""

    def __init__(self, found: Iterable[FoundSource]) -> None:
        self._found = list(found)
        self._steps: Mapping[str, frozenset[int]] = {}

    def later(self, one: FoundSource) -> list[FoundSource]:
        """Sources that a later process has written, to the same rows of the receiver."""
        return [
            other
            for other in self._found
            if other.identity.created > one.identity.created
            and other.spool != one.spool
            and _rows(other.identity) == _rows(one.identity)
        ]

    def than(self, one: FoundSource) -> frozenset[int]:
        """The steps in these."""
        return frozenset().union(*(self._of(other) for other in self.later(one)))

    def _of(self, other: FoundSource) -> frozenset[int]:
        spool = other.identity.spool
        if spool not in self._steps:
            self._steps = {**self._steps, spool: frozenset(_steps(other.reader))}
        return self._steps[spool]


class RecordedStep(NamedTuple):
    """What a step record would overwrite at a receiver."""

    run: str
    step: Any
    names: frozenset[str]

    @classmethod
    def of(cls, stored: Stored) -> RecordedStep:
        body = decode(stored)
        data = body.get("data")
        names = frozenset(data) if isinstance(data, dict) else frozenset()
        return cls(run=str(body.get("run", "")), step=body.get("step"), names=names)


def replaced(reader: Records, steps: Mapping[int, RecordedStep]) -> set[int]:
    """Those of `steps`, by seq, of which a later record that is none of them has values."""
    by_step = defaultdict(list)
    for seq, one in steps.items():
        by_step[one.run, one.step].append((seq, one.names))
    found = set()
    for stored in records_in(reader) if steps else ():
        if stored.kind == "step" and stored.seq not in steps:
            later = RecordedStep.of(stored)
            for seq, names in by_step.get((later.run, later.step), ()):
                if seq < stored.seq and names & later.names:
                    found.add(seq)
    return found


def remembered(identity: Identity, ledger: Ledger) -> Identity:
    """With the workload that was found for its pod while it was alive."""
    uids = ledger.workload(identity.spool).split()
    if identity.workload_uid or not uids:
        return identity
    return replace(identity, workload_uid=uids[0])


def _rows(identity: Identity) -> tuple[str, int]:
    """Spools with the same key write to the same rows of the receiver."""
    return identity.workload_uid or identity.pod_name, identity.rank or 0


def _steps(reader: Records) -> Iterable[int]:
    for stored in records_in(reader):
        step = decode(stored).get("step") if stored.kind == "step" else None
        if isinstance(step, int):
            yield step

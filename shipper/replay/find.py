"""Finds what a replay is asked to send: spools, and the files of other tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from shipper.delivery.readable import Records
from shipper.discovery.layout import (
    collect_unreadable,
    find_spools,
    identity_of,
    why_unreadable,
)
from shipper.discovery.same_spool import is_missing, is_same_place, replaces
from shipper.errors import Misplaced
from shipper.importers import ImportSource, known_files, open_imports
from shipper.ledger.ledger import Ledger
from shipper.replay.source import records_in
from spooler.errors import SpoolError
from spooler.spool import format as fmt
from spooler.spool.identity import Identity, from_spool_id
from spooler.spool.reader import Reader

_FAILURES = (SpoolError, Misplaced, OSError)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where to look.

    Attributes:
        root: where the service ships; None: it is not known what the service ships.
        served: the service sends to the sink. Otherwise its spools are sources like any other.
        whole: copies of what the service ships are sent too.
        workload_uid: of sources that name none.
        pod_name: of sources that name neither workload nor pod.
    """

    root: Path | None
    pod_directories: bool = False
    paths: tuple[Path, ...] = ()
    served: bool = True
    whole: bool = False
    workload_uid: str = ""
    pod_name: str = ""


@dataclass(frozen=True, kw_only=True)
class FoundSource:
    """Records that are on disk, and whose they are."""

    reader: Records
    place: Path
    identity: Identity
    live: bool  # the service ships it
    named: bool = False  # the request names its workload or pod, which the spool does not

    @property
    def spool(self) -> str:
        return self.identity.spool


@dataclass(kw_only=True)
class FoundSources:
    """All that was found, a message for each unreadable source, and what else a user may ask."""

    sources: dict[str, FoundSource] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, source: FoundSource) -> None:
        self.sources[source.spool] = source


def find_sources(places: Places, ledger: Ledger) -> FoundSources:
    """The spools below the root, or all that is at the paths."""
    found = FoundSources()
    if not places.paths and places.root:
        _add_spools(found, places, ledger, find_spools(places.root))
    for path in places.paths:
        spools = [path] if fmt.is_spool_id(path.name) else []
        if not spools and path.is_dir():
            closed: dict[str, str] = {}
            spools = list(find_spools(path, collect_unreadable(closed)))
            found.problems.extend(f"{folder} {why}" for folder, why in closed.items())
        _add_spools(found, places, ledger, spools)
        try:
            owner = {"workload_uid": places.workload_uid, "pod_name": places.pod_name}
            files = [] if spools == [path] else open_imports(path, **owner)
        except _FAILURES as error:
            found.problems.append(about(path, error))
            continue
        _add_files(found, files)
        if not spools and not files and not why_unreadable(path):
            found.problems.append(f"{path} holds none of these: spools, {known_files()}")
    return found


def about(path: Path, error: Exception) -> str:
    """A message that names the path once."""
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


def remembered(identity: Identity, ledger: Ledger) -> Identity:
    """With the workload that was found for its pod while it was alive."""
    uids = ledger.workload(identity.spool).split()
    if identity.workload_uid or not uids:
        return identity
    return replace(identity, workload_uid=uids[0])


# --- files of other tools -------------------------------------------------------------------------


def _add_files(found: FoundSources, files: list[ImportSource]) -> None:
    for file in files:
        try:
            identity, first = file.identity(), file.read(0, 1)
            if first.at_end and not first.records and not first.damage:
                found.notes.append(f"{file.path} has no complete record yet")
                continue
            copied = _copied(found, file, identity)
        except _FAILURES as error:
            found.problems.append(about(file.path, error))
            continue
        if copied is not None:
            found.notes.append(f"{file.path} and {copied.place} are copies. One of them is sent")
            if file.last_seq() <= copied.reader.last_seq():
                continue
            del found.sources[copied.spool]
        found.add(FoundSource(reader=file, place=file.path, identity=identity, live=False))


def _copied(found: FoundSources, file: ImportSource, identity: Identity) -> FoundSource | None:
    """The source of which this file has the records, or which has some of its records."""
    for other in found.sources.values():
        if replace(other.identity, spool="") != replace(identity, spool=""):
            continue
        # Without the first one, which also has the name of the folder.
        pairs = zip(records_in(file, 1), records_in(other.reader, 1), strict=False)
        if other.spool != file.spool and all(one == its for one, its in pairs):
            return other
    return None


# --- spools ---------------------------------------------------------------------------------------


def _add_spools(
    found: FoundSources, places: Places, ledger: Ledger, directories: Iterator[Path] | list[Path]
) -> None:
    shipped = _shipped(places.root, ledger) if places.root else {}
    for directory in directories:
        place = shipped.get(directory.name)
        below = place is not None and is_same_place(place, directory)
        if why := "" if below or not places.served else _why_not(places, place):
            found.problems.append(f"{directory}: {why}")
            continue
        reader = Reader(directory)
        try:
            own = remembered(_identity(reader, places, below=below), ledger)
        except _FAILURES as error:
            found.problems.append(about(directory, error))
            continue
        identity = _completed(own, places)
        found.add(
            FoundSource(
                reader=reader,
                place=directory,
                identity=identity,
                live=below and places.served,
                named=identity != own,
            )
        )


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


def _why_not(places: Places, place: Path | None) -> str:
    """Why a spool that the service does not find in this directory is not replayed, "" if it is."""
    if places.root is None:
        return (
            "a spool: give --spool ROOT, the root that the service ships, so that what of it is"
            " delivered already is known"
        )
    if place is None or places.whole:
        return ""
    return (
        f"a copy of {place}, which the service ships: its pending records are left to the service,"
        " and --resend-delivered sends all of the copy"
    )


def _identity(reader: Reader, places: Places, *, below: bool) -> Identity:
    """The spool's own; what its name says, where the request says whose it is."""
    try:
        if below and places.pod_directories and places.root:
            there = Reader(reader.directory.resolve())
            return identity_of(there, places.root.resolve(), by_directory=True)
        return reader.identity()
    except SpoolError:
        if not (places.workload_uid or places.pod_name):
            raise
        return from_spool_id(reader.spool)


def _completed(own: Identity, places: Places) -> Identity:
    """With the workload of the request where a spool names none, and its pod likewise."""
    if own.workload_uid:
        return own
    pod_name = own.pod_name or places.pod_name
    return replace(own, workload_uid=places.workload_uid, pod_name=pod_name)

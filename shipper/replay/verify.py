"""Compares the records on disk with the receipts of finished replays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.delivery.readable import Records
from shipper.importers import open_imports
from shipper.ledger.ledger import DigestRange, Ledger
from shipper.replay.source import Kinds, carries, records_in
from spooler.errors import SpoolError
from spooler.spool import format as fmt
from spooler.spool.reader import Reader, Stored

HOLDS = "holds"
DIFFERS = "differs"  # the records on disk are not those that were sent
UNCHECKED = "unchecked"  # it cannot be compared any more, see `why`

_PIECE_RECORDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result for one receipt; `why` is "" if it holds."""

    spool: str
    sink: str
    directory: str
    records: int
    state: str
    why: str


def check_receipts(ledger: Ledger, sinks: Mapping[str, Kinds]) -> list[Checked]:
    """Every receipt of a finished replay, the oldest first.

    `sinks` has what each sink carries, for receipts of earlier versions.
    """
    return [_check(row, sinks) for row in ledger.replays() if row["ended"] is not None]


def pieces_of(records: Iterable[Stored]) -> Iterator[DigestRange]:
    """Count and digest of each range of records without a gap, and of `_PIECE_RECORDS` at most.

    The digest is SHA-256 over seq (8 bytes, big-endian), kind and body of each.
    """
    digest, first, last = hashlib.sha256(), 0, 0
    for stored in records:
        if first and (stored.seq != last + 1 or last - first + 1 >= _PIECE_RECORDS):
            yield DigestRange(first=first, last=last, digest=digest.hexdigest())
            digest, first = hashlib.sha256(), 0
        digest.update(stored.seq.to_bytes(8, "big") + stored.kind.encode() + stored.body)
        first, last = first or stored.seq, stored.seq
    if first:
        yield DigestRange(first=first, last=last, digest=digest.hexdigest())


def _check(row: Mapping[str, Any], sinks: Mapping[str, Kinds]) -> Checked:
    sink = row["entry"].partition("~")[0]
    state, why = UNCHECKED, "its sink is not configured any more"
    if row["kinds"]:
        kinds = json.loads(row["kinds"])
        state, why = _compare(row, None if kinds is None else frozenset(kinds))
    elif sink in sinks:
        state, why = _compare(row, sinks[sink])
    return Checked(
        spool=row["spool"],
        sink=sink,
        directory=row["directory"],
        records=row["records"],
        state=state,
        why=why,
    )


def _compare(row: Mapping[str, Any], kinds: Kinds) -> tuple[str, str]:
    if row["records"] and not row["pieces"]:
        return UNCHECKED, "an earlier version wrote it, without digests of its ranges"
    try:
        source = _open(Path(row["directory"]), row["spool"])
        if source is None:
            return UNCHECKED, "the files are not there any more"
        for piece in row["pieces"]:
            found = next(pieces_of(_records(source, piece, kinds)), None)
            if found != piece:
                return _difference(source, piece, found)
    except (SpoolError, OSError) as error:
        return UNCHECKED, str(error)
    return HOLDS, ""


def _difference(source: Records, piece: DigestRange, found: DigestRange | None) -> tuple[str, str]:
    span = f"records {piece.first} to {piece.last}"
    if isinstance(source, Reader) and source.first_seq() > piece.first:
        return UNCHECKED, f"{span}: their segments are deleted"
    if found is None or (found.first, found.last) != (piece.first, piece.last):
        return DIFFERS, f"{span} are not all there"
    return DIFFERS, f"{span} have changed since they were sent"


def _open(directory: Path, spool: str) -> Records | None:
    if not directory.exists():
        return None
    if fmt.is_spool_id(directory.name):
        return Reader(directory)
    sources = open_imports(directory, workload_uid="", pod_name="")
    return next((source for source in sources if source.spool == spool), None)


def _records(source: Records, piece: DigestRange, kinds: Kinds) -> Iterator[Stored]:
    for stored in records_in(source, piece.first - 1):
        if stored.seq > piece.last:
            return
        if carries(kinds, stored.kind):
            yield stored

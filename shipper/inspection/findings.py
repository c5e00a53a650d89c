"""The problems of a spool, decided from what an inspection has read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from shipper.inspection.segment import UNSUPPORTED, InspectedSegment
from shipper.inspection.stats import RecordStats
from shipper.ledger import ranges
from spooler.spool import format as fmt

if TYPE_CHECKING:
    from shipper.inspection.spool import InspectedSpool

ERROR, NOTE = "error", "note"

_BESIDE_SEGMENT = re.compile(r"([0-9]{8,}\.sqlite)-(wal|shm|journal)")
_OWN_FILES = (fmt.OWNER_NAME, fmt.OWNER_DRAFT_NAME, fmt.SCRATCH_NAME)
_DRAFT = re.compile(r"\.[0-9]{8,}\.new(-wal|-shm|-journal)?")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An `error` needs an operator, a `note` does not. `where` is a file or directory."""

    level: str
    where: str
    what: str


def spool_problems(spool: InspectedSpool, files: Sequence[str]) -> list[Problem]:
    """All problems of a spool whose directory holds `files`, errors first."""
    found = [
        *_directory_problems(spool, files),
        *(problem for segment in spool.segments for problem in segment_problems(segment)),
        *_identity_problems(spool),
        *_order_problems(spool),
        *_stray_files(spool, files),
        *record_problems(str(spool.path), spool.stats),
    ]
    return sorted(found, key=lambda problem: problem.level != ERROR)


def segment_problems(segment: InspectedSegment) -> Iterator[Problem]:
    where = str(segment.path)
    if not segment.is_readable:
        yield Problem(level=ERROR, where=where, what=f"{segment.state}: {segment.why}")
    if segment.identity_problem:
        yield Problem(level=ERROR, where=where, what=segment.identity_problem)
    for damage in segment.damage:
        one = damage.first == damage.last
        which = f"record {damage.first}" if one else f"records {damage.first} to {damage.last}"
        yield Problem(level=ERROR, where=where, what=f"{which}: {damage.reason}")


def record_problems(where: str, stats: RecordStats) -> Iterator[Problem]:
    """Problems of records whose checksums are correct."""
    for seq, why in stats.undecodable:
        yield Problem(level=ERROR, where=where, what=f"record {seq}: its body is {why}")
    if stats.unknown_kinds:
        kinds = ", ".join(stats.unknown_kinds[:10])
        what = f"records of kinds unknown to this version are kept and not sent: {kinds}"
        yield Problem(level=NOTE, where=where, what=what)


def _directory_problems(spool: InspectedSpool, files: Sequence[str]) -> Iterator[Problem]:
    where = str(spool.path)
    if not fmt.is_spool_id(spool.name):
        what = "the directory name is not a spool id, the service does not find it"
        yield Problem(level=ERROR, where=where, what=what)
    if not spool.segments:
        what = "no segments: everything was delivered, or nothing was recorded"
        yield Problem(level=NOTE, where=where, what=what)
    elif not spool.alive and fmt.OWNER_NAME in files and not spool.stats.clean_shutdown:
        what = "unclean exit: the writer was killed or crashed"  # a clean end removes the file
        yield Problem(level=NOTE, where=where, what=what)


def _identity_problems(spool: InspectedSpool) -> Iterator[Problem]:
    known = [(s.path, s.identity) for s in spool.segments if s.identity is not None]
    for path, identity in known:
        what = ""
        if fmt.is_spool_id(spool.name) and identity.spool != spool.name:
            what = f"belongs to spool {identity.spool}, not to this directory: not shipped"
        elif identity != known[0][1]:
            what = f"its identity differs from that of {known[0][0].name}"
        if what:
            yield Problem(level=ERROR, where=str(path), what=what)


def _order_problems(spool: InspectedSpool) -> Iterator[Problem]:
    """Records are numbered without a gap from segment to segment."""
    reported = ranges.merged([(gap.first, gap.last) for gap in spool.stats.gaps if gap.first])
    for one, following in pairwise(s for s in spool.segments if s.records):
        where = str(following.path)
        if following.first <= one.last:
            what = f"begins at record {following.first}, but {one.path.name} ends at {one.last}"
            yield Problem(level=ERROR, where=where, what=what)
            continue
        missing = ranges.without([(one.last + 1, following.first - 1)], reported)
        if missing and one.is_readable:
            which = ", ".join(f"{first} to {last}" for first, last in missing)
            level, why = _why_missing(spool, one, following)
            yield Problem(level=level, where=where, what=f"records {which} {why}")


def _why_missing(
    spool: InspectedSpool, one: InspectedSegment, following: InspectedSegment
) -> tuple[str, str]:
    between = range((one.number or 0) + 1, following.number or 0)
    for segment in spool.segments:
        if segment.number in between and not segment.is_readable:
            level = NOTE if segment.state == UNSUPPORTED else ERROR
            return level, f"are in {segment.path.name} ({segment.state})"
    if between:
        return NOTE, "were in segments that are deleted; run `lens-ship audit` to see why"
    return ERROR, f"are missing between it and {one.path.name}"


def _stray_files(spool: InspectedSpool, files: Sequence[str]) -> Iterator[Problem]:
    last = max((segment.number or 0 for segment in spool.segments), default=0)
    for name in sorted(files):
        where, level, what = f"{spool.path}/{name}", NOTE, ""
        beside = _BESIDE_SEGMENT.fullmatch(name)
        if name in _OWN_FILES or fmt.segment_number(name) is not None:
            continue
        if beside and beside[1] in files:
            continue
        if beside and beside[2] == "wal":
            # A log beyond the last segment belongs to the next one, which is being prepared.
            number = fmt.segment_number(beside[1]) or 0
            if number > last and (spool.alive or _is_empty(where)):
                continue
            level, what = ERROR, "a log without its segment: its records cannot be read"
        elif beside:
            what = "left over: its segment is deleted"
        elif not _DRAFT.fullmatch(name):
            what = "does not belong to a spool"
        elif not spool.alive:
            what = "an empty segment that was being prepared when its writer died"
        if what:
            yield Problem(level=level, where=where, what=what)


def _is_empty(path: str) -> bool:
    try:
        return os.lstat(path).st_size == 0
    except OSError:
        return False

"""What is wrong with a spool, as complaints. Pure: it decides over what a look has found."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shipper.inspection.segment import NEWER, Segment
from shipper.inspection.stats import Tally
from shipper.ledger import ranges
from spooler.spool import format as fmt

WRONG, NOTE = "wrong", "note"

_BESIDE = re.compile(r"([0-9]{8,}\.sqlite)-(wal|shm|journal)")
_OWN = (fmt.OWNER_NAME, fmt.OWNER_DRAFT_NAME, fmt.SCRATCH_NAME)
_DRAFT = re.compile(r"\.[0-9]{8,}\.new(-wal|-shm|-journal)?")


@dataclass(frozen=True, kw_only=True)
class Complaint:
    """One finding: `wrong` needs somebody, a `note` does not. `where` is a file or folder."""

    level: str
    where: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a look at a spool directory has found; `names` are all files in it."""

    directory: str
    name: str
    alive: bool
    segments: Sequence[Segment]
    names: Sequence[str]
    tally: Tally


def check(facts: Facts) -> list[Complaint]:
    """Every complaint about a spool, the wrong ones first."""
    found = [
        *_about_folder(facts),
        *(one for segment in facts.segments for one in about_segment(segment)),
        *_about_identities(facts),
        *_about_order(facts),
        *_about_leftovers(facts),
        *about_records(facts.directory, facts.tally),
    ]
    return sorted(found, key=lambda one: one.level != WRONG)


def about_segment(segment: Segment) -> Iterable[Complaint]:
    """What is wrong with one segment by itself."""
    where = str(segment.path)
    if not segment.is_readable:
        yield Complaint(level=WRONG, where=where, what=f"{segment.state}: {segment.why}")
    if segment.identity_wrong:
        yield Complaint(level=WRONG, where=where, what=segment.identity_wrong)
    for damage in segment.damage:
        which = f"records {damage.first} to {damage.last}"
        if damage.first == damage.last:
            which = f"record {damage.first}"
        yield Complaint(level=WRONG, where=where, what=f"{which}: {damage.reason}")


def about_records(where: str, tally: Tally) -> Iterable[Complaint]:
    """What is wrong with records whose checksums hold."""
    for seq, why in tally.unreadable:
        yield Complaint(level=WRONG, where=where, what=f"record {seq}: its body is {why}")
    if tally.unknown:
        kinds = ", ".join(tally.unknown[:10])
        what = f"kinds that this version does not know, kept and sent to nobody: {kinds}"
        yield Complaint(level=NOTE, where=where, what=what)


def _about_folder(facts: Facts) -> Iterable[Complaint]:
    def say(level: str, what: str) -> Complaint:
        return Complaint(level=level, where=facts.directory, what=what)

    if not fmt.is_spool_id(facts.name):
        yield say(WRONG, "the folder's name is no spool id: the service does not find it here")
    if not facts.segments:
        yield say(NOTE, "no segment in it: everything is delivered, or nothing was recorded")
    died = not facts.alive and fmt.OWNER_NAME in facts.names  # a clean end removes it
    if died and not facts.tally.goodbye and facts.segments:
        yield say(NOTE, "its process ended without a goodbye: it was killed or has crashed")


def _about_identities(facts: Facts) -> Iterable[Complaint]:
    known = [(s.path, s.identity) for s in facts.segments if s.identity is not None]
    for path, identity in known:
        if fmt.is_spool_id(facts.name) and identity.spool != facts.name:
            what = f"belongs to spool {identity.spool}, not to this folder: it is not shipped"
            yield Complaint(level=WRONG, where=str(path), what=what)
        elif identity != known[0][1]:
            what = f"its identity is not that of {known[0][0].name}"
            yield Complaint(level=WRONG, where=str(path), what=what)


def _about_order(facts: Facts) -> Iterable[Complaint]:
    """Records are numbered without a gap from segment to segment."""
    told = ranges.merged([(gap.first, gap.last) for gap in facts.tally.gaps if gap.first])
    holding = [segment for segment in facts.segments if segment.records]
    for one, following in pairwise(holding):
        where = str(following.path)
        if following.first <= one.last:
            what = f"begins at record {following.first}, but {one.path.name} ends at {one.last}"
            yield Complaint(level=WRONG, where=where, what=what)
            continue
        missing = ranges.without([(one.last + 1, following.first - 1)], told)
        if missing and one.is_readable:
            yield _missing(facts, one, following, missing)


def _missing(
    facts: Facts, one: Segment, following: Segment, missing: Sequence[tuple[int, int]]
) -> Complaint:
    between = range((one.number or 0) + 1, following.number or 0)
    which = ", ".join(f"{first} to {last}" for first, last in missing)
    unreadable = [s for s in facts.segments if s.number in between and not s.is_readable]
    level = WRONG
    if unreadable:
        what = f"records {which} are in {unreadable[0].path.name}, which is {unreadable[0].state}"
        level = NOTE if unreadable[0].state == NEWER else WRONG
    elif between:
        what = f"records {which} were in segments that are deleted; `lens-ship audit` knows why"
        level = NOTE
    else:
        what = f"records {which} are missing between it and {one.path.name}"
    return Complaint(level=level, where=str(following.path), what=what)


def _about_leftovers(facts: Facts) -> Iterable[Complaint]:
    last = max((segment.number or 0 for segment in facts.segments), default=0)
    for name in sorted(facts.names):
        if name in _OWN or fmt.segment_number(name) is not None:
            continue
        where, beside = f"{facts.directory}/{name}", _BESIDE.fullmatch(name)
        if beside is None:
            yield from _about_stray(facts, name, where)
        elif beside[1] in facts.names:
            continue
        elif beside[2] != "wal":
            yield Complaint(level=NOTE, where=where, what="left over: its segment is deleted")
        elif (fmt.segment_number(beside[1]) or 0) <= last or not _is_being_made(facts, name):
            # One beyond the last is the next segment, which is being prepared, or was.
            what = "a log without its segment: what is in it cannot be read"
            yield Complaint(level=WRONG, where=where, what=what)


def _is_being_made(facts: Facts, name: str) -> bool:
    if facts.alive:
        return True
    try:
        return os.lstat(f"{facts.directory}/{name}").st_size == 0
    except OSError:
        return False


def _about_stray(facts: Facts, name: str, where: str) -> Iterable[Complaint]:
    if not _DRAFT.fullmatch(name):
        yield Complaint(level=NOTE, where=where, what="does not belong to a spool")
    elif not facts.alive:
        what = "a segment that was being prepared when its process died; it holds nothing"
        yield Complaint(level=NOTE, where=where, what=what)

"""A whole spool: who wrote it, its segments, what they hold, what is wrong with it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shipper.inspection.findings import WRONG, Complaint, Facts, about_records, about_segment, check
from shipper.inspection.segment import Segment, look
from shipper.inspection.stats import Run, Tally
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

# A spool with more bytes than this is sampled unless all is asked for: about two seconds' reading.
WHOLE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a look at a spool, or at a segment by itself, found.

    `alive` says whether its process lives, None where that cannot be told. With `whole` every
    record was read; otherwise counts by kind are exact, checksums are those of a sample, and steps
    and metrics of runs are what the sample shows.
    """

    path: Path
    name: str
    alive: bool | None
    whole: bool
    identity: Identity | None
    segments: tuple[Segment, ...]
    tally: Tally
    complaints: tuple[Complaint, ...]
    bytes: int

    @property
    def is_wrong(self) -> bool:
        """Whether somebody has to look at it."""
        return any(complaint.level == WRONG for complaint in self.complaints)

    @property
    def records(self) -> int:
        """Records there are, as far as segments can be read."""
        return sum(segment.records for segment in self.segments)

    @property
    def seqs(self) -> tuple[int, int]:
        """First and last seq; 0 and 0 without any record."""
        holding = [segment for segment in self.segments if segment.records]
        return (holding[0].first, holding[-1].last) if holding else (0, 0)

    @property
    def times(self) -> tuple[float | None, float | None]:
        """Time of the first and of the last record."""
        firsts = [s.first_time for s in self.segments if s.first_time is not None]
        lasts = [s.last_time for s in self.segments if s.last_time is not None]
        return (firsts[0] if firsts else None), (lasts[-1] if lasts else None)

    def to_map(self) -> dict[str, Any]:
        """For machines."""
        first, last = self.seqs
        return {
            "path": str(self.path),
            "what": "segment" if self.path.is_file() else "spool",
            "spool": self.name,
            "alive": self.alive,
            "whole": self.whole,
            "identity": self.identity.to_map() if self.identity else None,
            "records": self.records,
            "first": first,
            "last": last,
            "bytes": self.bytes,
            "segments": [_segment_map(segment) for segment in self.segments],
            "kinds": dict(self.tally.kinds),
            "runs": [run_map(run) for run in self.tally.runs.values()],
            "gaps": [asdict(gap) for gap in self.tally.gaps],
            "complaints": [asdict(complaint) for complaint in self.complaints],
            "wrong": self.is_wrong,
        }


def survey(directory: Path, *, verify: bool) -> Survey:
    """Look at a spool directory."""
    reader = Reader(directory)
    # Asked first: what is last is known only once the process is known to be gone.
    alive = reader.is_owned()
    size = reader.bytes()
    whole = verify or size <= WHOLE_BYTES
    segments: list[Segment] = []
    # Backwards: a record in segment n+1 proves that n has got its last one, so that whatever is
    # appended meanwhile makes no gap.
    for number in reversed(reader.segments()):
        try:
            path = reader.path_of(number)
            segments.insert(0, look(path, number, alive=alive, whole=whole))
        except FileNotFoundError:
            continue  # delivered and deleted meanwhile
    tally = Tally()
    for segment in segments:
        tally.add(segment.tally)
    facts = Facts(
        directory=str(directory),
        name=directory.resolve().name,
        alive=alive,
        segments=segments,
        names=_names(directory),
        tally=tally,
    )
    return Survey(
        path=directory,
        name=facts.name,
        alive=alive,
        whole=whole,
        identity=next((s.identity for s in segments if s.identity is not None), None),
        segments=tuple(segments),
        tally=tally,
        complaints=tuple(check(facts)),
        bytes=size,
    )


def survey_segment(path: Path) -> Survey:
    """Look at one segment file by itself, whatever its name."""
    number = fmt.segment_number(path.name)
    at_home = number is not None and fmt.is_spool_id(path.resolve().parent.name)
    alive = Reader(path.parent).is_owned() if at_home else None
    segment = look(path, number, alive=bool(alive), whole=True)
    found = [*about_segment(segment), *about_records(str(path), segment.tally)]
    return Survey(
        path=path,
        name=segment.identity.spool if segment.identity else "",
        alive=alive,
        whole=True,
        identity=segment.identity,
        segments=(segment,),
        tally=segment.tally,
        complaints=tuple(found),
        bytes=segment.bytes,
    )


def run_map(run: Run) -> dict[str, Any]:
    """A run, for machines."""
    return {**asdict(run), "metrics": sorted(run.metrics)}


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _segment_map(segment: Segment) -> dict[str, Any]:
    names = ("number", "state", "why", "records", "first", "last", "bytes")
    values = {name: getattr(segment, name) for name in (*names, "first_time", "last_time")}
    damage = [asdict(damage) for damage in segment.damage]
    return {"path": str(segment.path), **values, "damage": damage}

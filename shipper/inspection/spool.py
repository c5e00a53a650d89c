"""One spool: who wrote it, its segments, their records, and its problems."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shipper.inspection.findings import (
    ERROR,
    Problem,
    record_problems,
    segment_problems,
    spool_problems,
)
from shipper.inspection.segment import InspectedSegment, inspect_segment
from shipper.inspection.stats import RecordStats
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

# Of a spool with more bytes a sample is read unless all is asked for. Takes about two seconds.
WHOLE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class InspectedSpool:
    """What was found in a spool, or in a single segment file.

    `alive` says whether its process is running, None where that is unknown. If `whole` is False a
    sample was read: counts by kind are exact, checksums, steps and metrics are those of the sample.
    """

    path: Path
    name: str
    alive: bool | None
    whole: bool
    identity: Identity | None
    segments: tuple[InspectedSegment, ...]
    stats: RecordStats
    bytes: int
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.level == ERROR]

    @property
    def records(self) -> int:
        """Records in all segments that can be read."""
        return sum(segment.records for segment in self.segments)

    @property
    def seqs(self) -> tuple[int, int]:
        """First and last seq, (0, 0) without any record."""
        holding = [segment for segment in self.segments if segment.records]
        return (holding[0].first, holding[-1].last) if holding else (0, 0)

    @property
    def times(self) -> tuple[float | None, float | None]:
        """Unix time of the first and of the last record."""
        firsts = (s.first_time for s in self.segments if s.first_time is not None)
        lasts = (s.last_time for s in reversed(self.segments) if s.last_time is not None)
        return next(firsts, None), next(lasts, None)

    def to_map(self) -> dict[str, Any]:
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
            "kinds": dict(self.stats.kinds),
            "runs": [run.to_map() for run in self.stats.runs.values()],
            "gaps": [asdict(gap) for gap in self.stats.gaps],
            "problems": [asdict(problem) for problem in self.problems],
            "has_errors": bool(self.errors),
        }


def inspect_spool(directory: Path, *, verify: bool) -> InspectedSpool:
    """Read a spool. `verify` reads every record, however large the spool is."""
    reader = Reader(directory)
    # Before reading: which segment is the last is known only once the process is known to be gone.
    alive = reader.is_owned()
    size = reader.bytes()
    whole = verify or size <= WHOLE_BYTES
    segments = read_segments(reader, alive=alive, whole=whole)
    spool = InspectedSpool(
        path=directory,
        name=directory.resolve().name,
        alive=alive,
        whole=whole,
        identity=next((s.identity for s in segments if s.identity is not None), None),
        segments=tuple(segments),
        stats=merged_stats(segments),
        bytes=size,
    )
    try:
        files = os.listdir(directory)
    except OSError:
        files = []
    return replace(spool, problems=tuple(spool_problems(spool, files)))


def inspect_segment_file(path: Path) -> InspectedSpool:
    """Read a single segment file, whatever its name."""
    number = fmt.segment_number(path.name)
    in_spool = number is not None and fmt.is_spool_id(path.resolve().parent.name)
    alive = Reader(path.parent).is_owned() if in_spool else None
    segment = inspect_segment(path, number, alive=bool(alive), whole=True)
    return InspectedSpool(
        path=path,
        name=segment.identity.spool if segment.identity else "",
        alive=alive,
        whole=True,
        identity=segment.identity,
        segments=(segment,),
        stats=segment.stats,
        bytes=segment.bytes,
        problems=(*segment_problems(segment), *record_problems(str(path), segment.stats)),
    )


def read_segments(reader: Reader, *, alive: bool, whole: bool) -> list[InspectedSegment]:
    """All segments of a spool, in order."""
    segments: list[InspectedSegment] = []
    # Backwards: a record in segment n+1 proves that segment n is complete, so records that are
    # appended meanwhile do not look like a gap.
    for number in reversed(reader.segments()):
        try:
            path = reader.path_of(number)
            segments.insert(0, inspect_segment(path, number, alive=alive, whole=whole))
        except FileNotFoundError:
            continue  # delivered and deleted meanwhile
    return segments


def merged_stats(segments: Sequence[InspectedSegment]) -> RecordStats:
    stats = RecordStats()
    for segment in segments:
        stats.merge(segment.stats)
    return stats


def _segment_map(segment: InspectedSegment) -> dict[str, Any]:
    names = ("number", "state", "why", "records", "first", "last", "bytes")
    values = {name: getattr(segment, name) for name in (*names, "first_time", "last_time")}
    damage = [asdict(damage) for damage in segment.damage]
    return {"path": str(segment.path), **values, "damage": damage}

"""Damaged segments, moved away with a report each once everything readable in them is delivered.

    <root>/quarantine/<spool id>/00000003.sqlite        the segment and its -wal, as they were
    <root>/quarantine/<spool id>/00000003.report.json   what it holds, what is missing, why
    <root>/quarantine/<spool id>/00000003.report.txt    the same, for people

Rules:

- It lies below the root: a rename must stay on one file system, and a user who may delete a segment
  may move it.
- A file that a living process has open for writing is never moved. Neither is one of a newer
  format, which waits for an upgrade.
- The report is written first, then the files are moved: a crash in between repeats both.
- The quarantine has a limit of its own. Beyond it the oldest files are deleted, their reports stay.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from shipper.humanize import sanitize
from shipper.ledger import ranges
from shipper.ledger.ranges import Range
from shipper.log import fields
from spooler.errors import NewerFormat, SpoolDamaged, SpoolError
from spooler.spool import format as fmt
from spooler.spool import safe_open
from spooler.spool.identity import Identity
from spooler.spool.layout import segment_files
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

_JSON = ".report.json"
_TEXT = ".report.txt"
_MOST_AT_ONCE = 100  # segments of one spool in one scan
_UNATTRIBUTED = "its writer is unknown"


@dataclass(frozen=True, kw_only=True)
class QuarantineReport:
    """What is known of one segment in quarantine; ranges are of seqs."""

    spool: str
    segment: int
    path: str  # before it was moved
    time: float  # Unix seconds
    reason: str
    workload: str = ""
    pod: str = ""
    rank: int | None = None
    holds: list[Range]  # records whose checksum holds
    missing: list[Range] = field(default_factory=list)
    last: bool = False  # it was the last segment: what is missing behind it is unknown
    delivered: bool = False  # its readable records were delivered
    dropped: bool = False

    @property
    def name(self) -> str:
        """Its name in commands."""
        return f"{self.spool}/{self.segment}"


class Quarantine:
    """The quarantine of one spool root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / fmt.QUARANTINE_NAME
        self._logged: set[str] = set()

    # --- for the service --------------------------------------------------------------------------

    def move_damaged(
        self,
        reader: Reader,
        identity: Identity,
        through: int,
        known: Iterable[Mapping[str, Any]],
    ) -> set[int]:
        """Move the damaged segments of a spool; return those that cannot be moved yet.

        `through` is the position that every sink has reached, `known` the damage that they met.
        """
        reasons = _met(reader, known) | reader.damaged()
        waiting = set()
        for number in sorted(reasons.keys() & set(reader.segments())):
            following = reader.first_after(number)
            end = reader.last_seq() if following is None else following - 1
            if through < end or not reader.is_movable(number):
                waiting.add(number)
                continue
            report = replace(
                _report(reader, number, reasons[number]),
                workload=identity.workload_uid,
                pod=identity.pod_name,
                rank=identity.rank,
                missing=_missing(reader.path_of(number), known),
                last=following is None,
                delivered=True,
            )
            if not self._move(reader, report):
                waiting.add(number)
        return waiting

    def move_unattributed(self, reader: Reader, error: SpoolError) -> bool:
        """Move a whole spool whose writer is unknown; whether it was done."""
        lasting = isinstance(error, SpoolDamaged) and error.lasting
        if isinstance(error, NewerFormat) or (isinstance(error, SpoolDamaged) and not lasting):
            return False
        if reader.is_owned():
            return False
        numbers = reader.segments()
        for number in numbers[:_MOST_AT_ONCE]:
            report = _report(reader, number, f"{_UNATTRIBUTED}: {error}")
            if not self._move(reader, replace(report, last=number == numbers[-1])):
                return False
        if len(numbers) <= _MOST_AT_ONCE:  # else the next scan continues
            with contextlib.suppress(OSError):
                reader.delete_spool()
        return True

    def trim(self, limit: int) -> None:
        """Delete the oldest files beyond `limit` bytes; their reports stay.

        Does nothing where the quarantine does not exist or belongs to another user.
        """
        try:
            _check_own(self.folder)
        except OSError:
            return
        kept = sorted(self.reports(), key=lambda report: report.time)
        excess = sum(self.bytes_of(report) for report in kept) - limit
        for report in kept:
            if excess <= 0:
                return
            excess -= self.bytes_of(report)
            self.drop(report)
            log.error(
                "quarantine above its limit, damaged segment deleted, its report stays",
                extra=fields(
                    spool=report.spool, path=report.name, bytes=limit, reason="quarantine-limit"
                ),
            )

    # --- for commands -----------------------------------------------------------------------------

    def reports(self, *, dropped: bool = False) -> list[QuarantineReport]:
        """All reports, by name; those of dropped files only on request."""
        found = []
        folder = Path(os.path.realpath(self.folder.parent)) / self.folder.name
        for path in sorted(folder.glob(f"*/*{_JSON}")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                report = QuarantineReport(**orjson.loads(_read(path)))
                if path != _report_of(folder, report):
                    continue  # it names the files of another one
                if dropped or not report.dropped:
                    found.append(_with_tuples(report))
        return found

    def text(self, report: QuarantineReport) -> str:
        return _text(report, self._place(report))

    def bytes_of(self, report: QuarantineReport) -> int:
        total = 0
        for name in segment_files(self._place(report)):
            with contextlib.suppress(OSError):
                total += Path(name).lstat().st_size
        return total

    def drop(self, report: QuarantineReport) -> None:
        """Mark the report as dropped and delete the files.

        Raises:
            OSError: they cannot be deleted.
        """
        self._write(replace(report, dropped=True))
        for name in segment_files(self._place(report)):
            Path(name).unlink(missing_ok=True)

    # --- on disk ----------------------------------------------------------------------------------

    def _place(self, report: QuarantineReport) -> Path:
        return self.folder / report.spool / fmt.segment_name(report.segment)

    def _move(self, reader: Reader, report: QuarantineReport) -> bool:
        folder = self.folder / report.spool
        try:
            for path in (self.folder, folder):
                path.mkdir(mode=_mode(reader.directory), exist_ok=True)
                _check_own(path)
            self._write(report)
            reader.move_segment(report.segment, folder)
        except OSError as error:
            if report.name not in self._logged:
                self._logged.add(report.name)
                log.error(
                    "damaged segment cannot be moved to quarantine, it stays where it is",
                    extra=fields(spool=report.spool, path=report.path, detail=error),
                )
            return False
        log.error(
            "damaged segment moved to quarantine, see lens-ship quarantine show",
            extra=fields(
                spool=report.spool,
                path=report.path,
                name=report.name,
                missing=_listed(report.missing) or None,
                detail=report.reason,
            ),
        )
        return True

    def _write(self, report: QuarantineReport) -> None:
        place = self._place(report)
        for suffix, content in (
            (_TEXT, self.text(report).encode()),
            (_JSON, orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2)),
        ):
            draft = place.with_suffix(suffix + ".new")
            draft.write_bytes(content)
            draft.replace(place.with_suffix(suffix))


def _report(reader: Reader, number: int, reason: str) -> QuarantineReport:
    """What the segment itself tells."""
    return QuarantineReport(
        spool=reader.spool,
        segment=number,
        path=str(reader.path_of(number)),
        time=time.time(),
        reason=reason,
        holds=ranges.of_numbers(reader.seqs_in(number)),
    )


def _report_of(folder: Path, report: QuarantineReport) -> Path:
    return (folder / report.spool / fmt.segment_name(report.segment)).with_suffix(_JSON)


def _read(path: Path) -> bytes:
    """The content of a report.

    Raises:
        OSError: it is not a file, or belongs to a user other than the reader or the owner.
    """
    with os.fdopen(safe_open.open_regular(path), "rb") as file:
        owner = os.fstat(file.fileno()).st_uid
        if owner not in (os.geteuid(), 0, os.lstat(path.parents[1]).st_uid):
            raise PermissionError(errno.EPERM, "belongs to another user", str(path))
        return file.read(fmt.BODY_LIMIT)


def _check_own(folder: Path) -> None:
    """Refuse a link, or a directory of another user, who could then read what others wrote."""
    status, root = os.lstat(folder), os.lstat(folder.parent)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory", str(folder))
    if status.st_uid not in (os.geteuid(), 0, root.st_uid):
        raise PermissionError(errno.EPERM, "belongs to another user; remove it", str(folder))


def _mode(directory: Path) -> int:
    """The mode of the spool's own directory: who may delete there may drop here."""
    return directory.stat().st_mode & 0o7777


def _met(reader: Reader, known: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Segments that a sink has met damage in, and why. A missing segment has no file."""
    met = {}
    for row in known:
        path = Path(row["path"])
        number = fmt.segment_number(path.name)
        own = row["reason"] != "missing" and not row["reason"].startswith("dropped:")
        if own and number is not None and path.parent in (reader.directory, reader.place):
            met[number] = row["reason"]
    return met


def _missing(path: Path, known: Iterable[Mapping[str, Any]]) -> list[Range]:
    return ranges.merged((row["first"], row["last"]) for row in known if row["path"] == str(path))


def _with_tuples(report: QuarantineReport) -> QuarantineReport:
    """JSON has no tuples."""
    return replace(
        report,
        holds=[(first, last) for first, last in report.holds],
        missing=[(first, last) for first, last in report.missing],
    )


def _text(report: QuarantineReport, place: Path) -> str:
    whose = [f"workload {report.workload}"] if report.workload else []
    whose += [f"pod {report.pod}"] if report.pod else []
    whose += [f"rank {report.rank}"] if report.rank is not None else []
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.time))
    writer = ", ".join(whose) or "unknown writer"
    lines = [
        f"Segment {report.segment} of spool {report.spool} ({writer})",
        f"was moved to quarantine on {when}.",
        "",
        f"Why:      {report.reason}",
        f"Was at:   {report.path}",
        f"Holds:    {_listed(report.holds) or 'no record with a correct checksum'}",
        f"Missing:  {_listed(report.missing) or 'no record as far as is known'}",
    ]
    if report.last:
        lines.append("          It was the last segment: what came after it is unknown.")
    lines += ["", *_next(report, place)]
    return "".join(f"{sanitize(line, None)}\n" for line in lines)


def _next(report: QuarantineReport, place: Path) -> list[str]:
    root = place.parents[2]
    if report.dropped:
        return ["The files have been deleted."]
    if not report.delivered:
        return [
            "Nothing of it was sent, because its workload is unknown. To send it:",
            f"  lens-ship replay {place.parent} --spool {root} --as-workload WORKLOAD",
        ]
    return [
        "Its records were delivered or are kept as dead letters. No action is required.",
        "To free the disk space:",
        f"  lens-ship quarantine drop {report.name}",
        "To send its records again, after the file was repaired:",
        f"  lens-ship replay {place.parent} --spool {root} --resend-delivered",
    ]


def _listed(pieces: Collection[Range]) -> str:
    if not pieces:
        return ""
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in list(pieces)[:20]]
    more = f" and {len(pieces) - 20} more ranges" if len(pieces) > 20 else ""
    count = ranges.size(pieces)
    return f"{count:,} records: {', '.join(shown)}{more}" if count > 1 else f"record {shown[0]}"

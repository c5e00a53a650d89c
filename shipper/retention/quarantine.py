"""Damaged segments, set aside with a report each, once everything readable in them is delivered.

    <root>/quarantine/<spool id>/00000003.sqlite        the segment and its -wal, as they were
    <root>/quarantine/<spool id>/00000003.report.json   what it holds, what is missing, why
    <root>/quarantine/<spool id>/00000003.report.txt    the same, for people

Rules:

- Below the root, because a rename must stay on one file system, and because whoever may delete a
  segment may move it.
- Never a file that a living process has open for writing; never one of a newer format, which waits
  for an upgrade.
- The report is written first, the files follow: a death in between repeats both.
- The folder has a limit of its own. Beyond it the oldest files go; their reports stay.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

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
_MOST_AT_ONCE = 100  # of one spool: the others wait for it
_UNATTRIBUTED = "who wrote it cannot be told"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of one segment that was set aside; ranges are of seqs."""

    spool: str
    segment: int
    path: str  # where it lay
    time: float  # Unix seconds
    reason: str
    workload: str
    pod: str
    rank: int | None
    holds: list[Range]  # records whose checksum holds
    missing: list[Range]
    last: bool  # nothing follows it: how much is missing behind it cannot be known
    delivered: bool  # what it holds has gone the ordinary way
    dropped: bool = False

    @property
    def name(self) -> str:
        """How commands call it."""
        return f"{self.spool}/{self.segment}"


class Quarantine:
    """The folder below one spool root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / fmt.QUARANTINE_NAME
        self._said: set[str] = set()

    # --- what the service does --------------------------------------------------------------------

    def take(
        self,
        reader: Reader,
        identity: Identity,
        through: int,
        known: Iterable[Mapping[str, Any]],
    ) -> set[int]:
        """Set aside what is damaged of a spool; the segments that are to go, but cannot yet.

        `through` is up to where every sink is, `known` the damage that they met on the way.
        """
        reasons = _met(reader, known) | reader.damaged()
        waiting = set()
        for number in sorted(reasons.keys() & set(reader.segments())):
            following = reader.first_after(number)
            end = reader.last_seq() if following is None else following - 1
            if through < end or not reader.is_movable(number):
                waiting.add(number)
                continue
            report = Report(
                spool=reader.spool,
                segment=number,
                path=str(reader.path_of(number)),
                time=time.time(),
                reason=reasons[number],
                workload=identity.workload_uid,
                pod=identity.pod_name,
                rank=identity.rank,
                holds=ranges.of_numbers(reader.seqs_in(number)),
                missing=_missing(reader.path_of(number), known),
                last=following is None,
                delivered=True,
            )
            if not self._move(reader, report):
                waiting.add(number)
        return waiting

    def take_unattributed(self, reader: Reader, error: SpoolError) -> bool:
        """Set a whole spool aside that nobody can be named for; whether it was done."""
        lasting = isinstance(error, SpoolDamaged) and error.lasting
        if isinstance(error, NewerFormat) or (isinstance(error, SpoolDamaged) and not lasting):
            return False
        if reader.is_owned():
            return False
        numbers = reader.segments()
        for number in numbers[:_MOST_AT_ONCE]:
            report = Report(
                spool=reader.spool,
                segment=number,
                path=str(reader.path_of(number)),
                time=time.time(),
                reason=f"{_UNATTRIBUTED}: {error}",
                workload="",
                pod="",
                rank=None,
                holds=ranges.of_numbers(reader.seqs_in(number)),
                missing=[],
                last=number == numbers[-1],
                delivered=False,
            )
            if not self._move(reader, report):
                return False
        if len(numbers) <= _MOST_AT_ONCE:  # else the next walk goes on
            with contextlib.suppress(OSError):
                reader.delete_spool()
        return True

    def trim(self, limit: int) -> None:
        """Delete the oldest files beyond `limit` bytes; their reports stay.

        Does nothing where the folder is not there, or is another user's.
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
                "%s: deleted from quarantine, which is above its limit of %d bytes; its report"
                " stays",
                report.name,
                limit,
                extra=fields(spool=report.spool, path=report.name, reason="quarantine-limit"),
            )

    # --- what people do ---------------------------------------------------------------------------

    def reports(self, *, dropped: bool = False) -> list[Report]:
        """All reports, by name; of files that were dropped only when asked for."""
        found = []
        folder = Path(os.path.realpath(self.folder.parent)) / self.folder.name
        for path in sorted(folder.glob(f"*/*{_JSON}")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                report = Report(**orjson.loads(_read(path)))
                if path != _report_of(folder, report):
                    continue  # or it would name the files of another
                if dropped or not report.dropped:
                    found.append(_with_tuples(report))
        return found

    def text(self, report: Report) -> str:
        """The report for people."""
        return _text(report, self._place(report))

    def bytes_of(self, report: Report) -> int:
        """Bytes on disk of what was set aside."""
        total = 0
        for name in segment_files(self._place(report)):
            with contextlib.suppress(OSError):
                total += Path(name).lstat().st_size
        return total

    def drop(self, report: Report) -> None:
        """Delete the files, and say so in the report.

        Raises:
            OSError: they cannot be deleted.
        """
        self._write(replace(report, dropped=True))
        for name in segment_files(self._place(report)):
            Path(name).unlink(missing_ok=True)

    # --- how it lies on disk ----------------------------------------------------------------------

    def _place(self, report: Report) -> Path:
        return self.folder / report.spool / fmt.segment_name(report.segment)

    def _move(self, reader: Reader, report: Report) -> bool:
        folder = self.folder / report.spool
        try:
            for path in (self.folder, folder):
                path.mkdir(mode=_mode(reader.directory), exist_ok=True)
                _check_own(path)
            self._write(report)
            reader.move_segment(report.segment, folder)
        except OSError as error:
            if report.name not in self._said:
                self._said.add(report.name)
                log.error(
                    "%s is damaged (%s) and cannot be set aside: %s; it stays where it is",
                    report.path,
                    report.reason,
                    error,
                    extra=fields(spool=report.spool, path=report.path, detail=error),
                )
            return False
        log.error(
            "%s is damaged (%s): set aside in %s, %s missing; see `lens-ship quarantine show %s`",
            report.path,
            report.reason,
            folder,
            _told(report.missing) or "no record",
            report.name,
            extra=fields(spool=report.spool, path=report.path, detail=report.reason),
        )
        return True

    def _write(self, report: Report) -> None:
        place = self._place(report)
        for suffix, content in (
            (_TEXT, self.text(report).encode()),
            (_JSON, orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2)),
        ):
            draft = place.with_suffix(suffix + ".new")
            draft.write_bytes(content)
            draft.replace(place.with_suffix(suffix))


def _report_of(folder: Path, report: Report) -> Path:
    return (folder / report.spool / fmt.segment_name(report.segment)).with_suffix(_JSON)


def _read(path: Path) -> bytes:
    """A report's text.

    Raises:
        OSError: it is not a file, or not of the user who owns the quarantine or reads it.
    """
    with os.fdopen(safe_open.open_regular(path), "rb") as file:
        owner = os.fstat(file.fileno()).st_uid
        if owner not in (os.geteuid(), 0, os.lstat(path.parents[1]).st_uid):
            raise PermissionError(errno.EPERM, "belongs to another user", str(path))
        return file.read(fmt.BODY_LIMIT)


def _check_own(folder: Path) -> None:
    """Refuse a link, or a folder of somebody who would then have what others wrote."""
    status, root = os.lstat(folder), os.lstat(folder.parent)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "is no folder", str(folder))
    if status.st_uid not in (os.geteuid(), 0, root.st_uid):
        raise PermissionError(errno.EPERM, "belongs to another user; remove it", str(folder))


def _mode(directory: Path) -> int:
    """As the spool's own folder: who may delete there may drop here."""
    return directory.stat().st_mode & 0o7777


def _met(reader: Reader, known: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """Segments that a sink has met damage in, and its reason; what is missing whole is no file."""
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


def _with_tuples(report: Report) -> Report:
    """JSON has no tuples."""
    return replace(
        report,
        holds=[(first, last) for first, last in report.holds],
        missing=[(first, last) for first, last in report.missing],
    )


def _text(report: Report, place: Path) -> str:
    whose = [f"workload {report.workload}"] if report.workload else []
    whose += [f"pod {report.pod}"] if report.pod else []
    whose += [f"rank {report.rank}"] if report.rank is not None else []
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.time))
    lines = [
        f"Segment {report.segment} of spool {report.spool} ({', '.join(whose) or 'nobody named'})",
        f"was set aside on {when}.",
        "",
        f"Why:      {report.reason}",
        f"It lay:   {report.path}",
        f"Holds:    {_told(report.holds) or 'no record whose checksum holds'}",
        f"Missing:  {_told(report.missing) or 'none that is known of'}",
    ]
    if report.last:
        lines.append("          It was the last one: what came after cannot be known.")
    lines += ["", *_next(report, place)]
    return "\n".join(lines) + "\n"


def _next(report: Report, place: Path) -> list[str]:
    if report.dropped:
        return ["The files have been deleted since."]
    if not report.delivered:
        return [
            "Nothing of it was sent: it does not say whose it is. If you know, send it with",
            f"  lens-ship replay --as-workload WORKLOAD {place.parent}",
        ]
    return [
        "What it holds was delivered, or is kept as dead letters. Nothing has to be done;",
        f"  lens-ship quarantine drop {report.name}",
        "frees its disk. Should the file be repaired, its records are sent once more with",
        f"  lens-ship replay --resend-delivered {place.parent}",
    ]


def _told(pieces: Collection[Range]) -> str:
    if not pieces:
        return ""
    shown = [str(a) if a == b else f"{a} to {b}" for a, b in list(pieces)[:20]]
    more = f" and {len(pieces) - 20} more ranges" if len(pieces) > 20 else ""
    count = ranges.size(pieces)
    return f"{count:,} records: {', '.join(shown)}{more}" if count > 1 else f"record {shown[0]}"

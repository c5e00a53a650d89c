"""Broken builds of the segments: how they are written, sealed and read while that happens."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

_WRITER = "spooler/spool/writer.py"

SPOOL_BUILDS: dict[str, BrokenBuild] = {
    "log-removed-before-it-is-copied": BrokenBuild(
        meaning="the log of a segment is unlinked before its records are in the segment",
        patches=(
            Patch(
                file=_WRITER,
                old="            db.seal(",
                new='            Path(f"{segment.path}-wal").unlink(missing_ok=True)\n'
                "            db.seal(",
            ),
        ),
    ),
    "log-removed-before-the-sync": BrokenBuild(
        meaning="a segment is not synced before its log is removed",
        patches=(
            Patch(
                file="spooler/spool/db.py",
                old='            connection.execute("PRAGMA synchronous=NORMAL")\n',
                new="            pass\n",
            ),
            Patch(
                file="spooler/spool/db.py",
                old="        _sync(draft, os.O_RDWR)\n",
                new="",
            ),
        ),
    ),
    "open-to-another-sqlite": BrokenBuild(
        meaning="the active segment is not locked against an operator's SQLite",
        patches=(
            Patch(
                file="spooler/spool/db.py",
                old="        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, *_LOCKED))\n",
                new="        pass\n",
            ),
        ),
    ),
    "descriptor-not-checked": BrokenBuild(
        meaning="a record is written to whichever file has the descriptor of the log by now",
        patches=(
            Patch(
                file=_WRITER,
                old="                        if connection.offset() != db.MARK:\n",
                new="                        if False:\n",
            ),
        ),
    ),
    "uncommitted-frames-read": BrokenBuild(
        meaning="every frame of a log is taken for the end of a commit",
        patches=(
            Patch(
                file="spooler/spool/pages.py",
                old="        if size:\n            ends.append(len(numbers))\n",
                new="        ends.append(len(numbers))\n",
            ),
        ),
    ),
    "previous-segment-not-read-again": BrokenBuild(
        meaning="records that came while the reader moved on to the next segment count as missing",
        patches=(
            Patch(
                file="spooler/spool/reader.py",
                old="            if (problem or jumps) and not",
                new="            if problem and not",
            ),
        ),
    ),
    "read-error-taken-for-damage": BrokenBuild(
        meaning="a temporary read error is taken for permanent damage",
        patches=(
            Patch(
                file="spooler/spool/source.py",
                old='{error.filename or path}: {error.strerror}")\n',
                new='{error.filename or path}: {error.strerror}", lasting=True)\n',
            ),
        ),
    ),
}

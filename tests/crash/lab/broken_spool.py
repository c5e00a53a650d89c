"""Broken builds of the segments: how they are written, sealed and read while that happens."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

_WRITER = "spooler/spool/writer.py"

SPOOL_MUTANTS: dict[str, Mutant] = {
    "log-removed-before-it-is-copied": Mutant(
        meaning="the log of a segment is unlinked before the segment has what is in it",
        patches=(
            Patch(
                file=_WRITER,
                old="            db.seal(segment.connection, durable=self._durable)\n",
                new='            Path(f"{segment.path}-wal").unlink(missing_ok=True)\n'
                "            db.seal(segment.connection, durable=self._durable)\n",
            ),
        ),
    ),
    "log-removed-before-the-sync": Mutant(
        meaning="a segment is not synced before its log is removed",
        patches=(
            Patch(
                file="spooler/spool/db.py",
                old='            connection.execute("PRAGMA synchronous=NORMAL")\n',
                new="            pass\n",
            ),
        ),
    ),
    "open-to-another-sqlite": Mutant(
        meaning="the segment that is written is not locked against an operator's SQLite",
        patches=(
            Patch(
                file="spooler/spool/db.py",
                old="        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, *_LOCKED))\n",
                new="        pass\n",
            ),
        ),
    ),
    "descriptor-not-looked-at": Mutant(
        meaning="a record is written to whatever file has the log's descriptor by now",
        patches=(
            Patch(
                file=_WRITER,
                old="                    if connection.offset() != db.MARK:\n",
                new="                    if False:\n",
            ),
        ),
    ),
    "what-is-not-committed-is-read": Mutant(
        meaning="every frame of a log is taken for the end of a commit",
        patches=(
            Patch(
                file="spooler/spool/pages.py",
                old="        if size:\n            ends.append(len(numbers))\n",
                new="        ends.append(len(numbers))\n",
            ),
        ),
    ),
    "the-segment-before-is-not-asked-again": Mutant(
        meaning="what a segment got while the reader stood before the next one counts as missing",
        patches=(
            Patch(
                file="spooler/spool/reader.py",
                old="            if (problem or jumps) and not",
                new="            if problem and not",
            ),
        ),
    ),
    "what-cannot-be-read-is-damaged": Mutant(
        meaning="an error of the disk, which may pass, is taken for damage that lasts",
        patches=(
            Patch(
                file="spooler/spool/source.py",
                old='{error.filename or path}: {error.strerror}")\n',
                new='{error.filename or path}: {error.strerror}", lasting=True)\n',
            ),
        ),
    ),
}

"""The on-disk format of a spool, version 1: the contract between training process and service.

Ownership, in one sentence: the training process that created a spool is the only one that ever
writes or checkpoints its files; the service only reads them, and deletes whole files once they
are delivered (or its configured policy gives them up), or moves damaged ones away when nobody has
them open. A writer, too, may delete whole closed files of its own; see "Limits".

Layout below the spool root::

    full                     written by the service; see "Limits"
    quarantine/              damaged segments that the service has set aside; no spools
    node_<NODE_RANK>/rank_<LOCAL_RANK>/<spool id>/
        owner                write lock of an open file description (fcntl F_OFD_SETLK), held by
                             the writer for as long as it lives; a clean end removes the file. Its
                             text is "<pid> <host> ofd", or "none" where the file system does not
                             lock; older writers hold a POSIX lock and say neither
        .owner.new           the owner file before it is locked
        00000001.sqlite      segment 1; its -wal stands beside it until it is sealed
        00000002.sqlite      segment 2; segments are numbered from 1, names sort by position
        .00000003.new        a segment being prepared; not part of the spool until renamed
        .scratch             stands for a moment where the writer asks why it cannot write

A root that is set-group-id and open to all hands what is made in it to its group: folders are 2770
there and files 0660. In one that is sticky, too (3777), ``uid_<user id>/`` stands above
``node_<NODE_RANK>``: a folder of each user's own, since nobody can share the ones below.

Spool id: ``<UTC start, yyyymmddThhmmss>-<pid>-<8 hex digits>``, unique per process and start,
never used again. One process writes one spool; a forked child starts its own.

A segment is a SQLite 3 database in WAL mode with ``application_id`` 0x4C454E53 ("LENS"),
``user_version`` 1 (this format) and exactly these tables:

    | table    | column   | type    | meaning                                                   |
    |----------|----------|---------|-----------------------------------------------------------|
    | identity | body     | BLOB    | msgpack map: who wrote this (`spooler.spool.identity`)    |
    | identity | checksum | INTEGER | of kind "identity", this body, the segment's number       |
    | record   | seq      | INTEGER | primary key; 1, 2, 3 … across all segments, without a gap |
    | record   | kind     | TEXT    | what the body is (`spooler.records`); unknown ones occur  |
    | record   | body     | BLOB    | msgpack map, at most 64 MiB                               |
    | record   | checksum | INTEGER | of this kind, body and seq                                |

``identity`` holds one row, the same in every segment, so that a segment alone can be attributed.

Checksum: CRC-32 as of zlib (reflected polynomial 0xEDB88320), unsigned, over the bytes
``kind in UTF-8 | 0x00 | body | seq (or segment number) as 8 bytes, big-endian``.

Writing: on every file system the writer has its segment to itself. It opens it with
``locking_mode=EXCLUSIVE``: the index of the log is in its memory, there is no ``-shm``, nothing is
mapped. No other process opens an unsealed segment with SQLite: one that does finds it locked, where
the file system locks.

Commit: each record is one transaction, written to the ``-wal`` with ``synchronous=OFF``: when the
append has returned, the record survives the death of the process. It survives power loss once the
writer has synced the log (`spooler.spool.sync`: about once a second), the segment is sealed or the
operating system has written it back. The log is never begun again: its frames follow one another
from its start. A frame that the writer failed to write is written over by the next one; if it could
be read in between, its number is not used again, so that a number may be missing there.

Sealing: when a segment is full, later records go to the next one. The writer then syncs the log of
the full one, copies it into the ``.sqlite`` file, syncs that and deletes the ``-wal``. A segment
without a ``-wal`` file will not change any more: it has one, be it empty, from before it gets its
name until it is sealed. Until then the ``-wal`` holds all its records, whether its writer lives, is
dead or could not seal it. A record in segment n+1 proves that segment n has got its last record.

Watching: about once a second the writer looks for its files. If only the name of the ``-wal`` was
removed, it seals the segment at once, from the log that it still has open. If the segment was
removed, or the program has closed a descriptor of its files, it goes on in a new spool. That begins
with a ``gap`` (``gone``) of the records committed since the files were last seen.

Limits: the writer keeps its own spool within its limit: it refuses new records, or deletes its
oldest closed segments, each told beforehand in a ``gap`` record with the seqs. What is delivered
is deleted by the service alone, which also keeps the limit of the root. For that it may delete
undelivered segments if its policy says so, or put the file ``full`` into the root: as long as that
was modified less than 60 s ago, by the clock of its host, every writer below the root refuses new
records; in a sticky root only if it belongs to the root's owner or to uid 0. The service touches it
while it holds and removes it afterwards; one that has died stops nobody for longer.

Versions: a writer writes `FORMAT_VERSION`; a reader accepts the versions in `SCHEMAS`: that one and
the one before it. A higher ``user_version`` is "newer than this reader" and is left untouched;
another ``application_id``, or a version from before the list, is "not a spool".
"""

from __future__ import annotations

import re

APPLICATION_ID = 0x4C454E53
FORMAT_VERSION = 1

OWNER_NAME = "owner"
OWNER_DRAFT_NAME = ".owner.new"
ROOT_FULL_NAME = "full"
QUARANTINE_NAME = "quarantine"
ROOT_FULL_SECONDS = 60.0  # how long `full` counts after it was touched
SEGMENT_SUFFIX = ".sqlite"
PAGE_SIZE = 1024  # bytes; a small page keeps the WAL bytes of one small commit small
BODY_LIMIT = 64 * 1024 * 1024  # bytes of one record's body

SCHEMA = (
    "CREATE TABLE identity (body BLOB NOT NULL, checksum INTEGER NOT NULL)",
    (
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
        " body BLOB NOT NULL, checksum INTEGER NOT NULL)"
    ),
)
SCHEMAS = {FORMAT_VERSION: SCHEMA}  # every version that can be read, and what its files hold
INSERT_IDENTITY = "INSERT INTO identity (body, checksum) VALUES (?, ?)"
INSERT_RECORD = "INSERT INTO record (seq, kind, body, checksum) VALUES (?, ?, ?, ?)"
SELECT_IDENTITY = "SELECT body, checksum FROM identity LIMIT 1"
# A body above the limit is no record's: what is larger is not taken into memory.
_BODY = f"CASE WHEN length(body) <= {BODY_LIMIT} THEN body END"
SELECT_RECORDS = (
    f"SELECT seq, kind, {_BODY}, checksum FROM record WHERE seq > ? ORDER BY seq LIMIT ?"
)
SELECT_SEQ = (
    "SELECT seq FROM record WHERE seq > ? AND kind = ? AND body = ? ORDER BY seq DESC LIMIT 1"
)
SELECT_KIND = (
    f"SELECT seq, kind, {_BODY}, checksum FROM record WHERE kind = ? AND seq > 0"
    " ORDER BY seq LIMIT ?"
)
COUNT_KINDS = "SELECT kind, count(*) FROM record WHERE seq <= ? GROUP BY kind ORDER BY kind"
COUNT_RECORDS = "SELECT count(*) FROM record WHERE seq BETWEEN ? AND ?"
# One record, its body only up to so many bytes: for looks that want its time and no more.
_SELECT_SMALL = "SELECT seq, kind, CASE WHEN length(body) <= ? THEN body END, checksum FROM record"
SELECT_ONE = f"{_SELECT_SMALL} WHERE seq = ?"
SELECT_BEYOND = f"{_SELECT_SMALL} WHERE seq > ? ORDER BY seq LIMIT 1"
# Each for itself is one step in the tree; asked for together, SQLite goes through all records.
SELECT_BOUNDS = (
    "SELECT (SELECT min(seq) FROM record WHERE seq > 0),"
    " (SELECT max(seq) FROM record WHERE seq > 0)"
)

IDENTITY_KIND = "identity"

START = "%Y%m%dT%H%M%S"  # how a spool id begins, in UTC

_SEGMENT_NAME = re.compile(r"([0-9]{8,18})\.sqlite")
_SPOOL_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9]+-[0-9a-f]{8}")


def segment_name(number: int) -> str:
    """File name of segment `number` (1 or more); names sort as numbers do."""
    return f"{number:08d}{SEGMENT_SUFFIX}"


def preparing_name(number: int) -> str:
    """Name of segment `number` while it is prepared; readers pass it over."""
    return f".{number:08d}.new"


SCRATCH_NAME = ".scratch"  # of a writer that asks the system why it cannot write


def segment_number(name: str) -> int | None:
    """Number of the segment called `name`, or None when `name` is no segment's name."""
    match = _SEGMENT_NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if number > 0 and segment_name(number) == name else None


def is_spool_id(name: str) -> bool:
    """Whether `name` has the form of a spool id."""
    return _SPOOL_ID.fullmatch(name) is not None


def user_name(uid: int) -> str:
    """Name of the folder of one user's own, in a root that several share."""
    return f"uid_{uid}"


def spool_id(start: str, pid: int, salt: str) -> str:
    """Compose a spool id from the UTC start (`yyyymmddThhmmss`), the pid and 8 hex digits."""
    return f"{start}-{pid}-{salt}"

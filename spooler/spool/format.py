"""The on-disk format of a spool, version 2: the contract between training process and service.

Ownership: the training process that creates a spool is the only one that writes its files, and the
only one that opens them with SQLite. The service only reads them. It deletes whole files once they
are delivered, or its policy gives them up. It moves damaged ones away when no process writes them.
A writer may delete closed segments of its own; see "Limits".

Layout below the spool root::

    full                     written by the service; see "Limits"
    quarantine/              damaged segments that the service has set aside; no spools
    collectors_<user id>/    what a user's collectors keep, for that user alone; no spools
    node_<NODE_RANK>/rank_<LOCAL_RANK>/<spool id>/
        owner                says that the writer lives; see "Owner file"
        .owner.new           the owner file before it is locked
        00000001.sqlite      segment 1; segments are numbered from 1, names sort by position
        00000001.sqlite-wal  its log, which holds all its records until it is sealed
        .00000003.new        a segment being prepared or sealed; no part of the spool until renamed
        .scratch             stands for a moment where the writer asks why it cannot write

A root that is set-group-id and open to all hands what is made in it to its group: folders are 2770
there and files 0660. In one that is sticky, too (3777), ``uid_<user id>/`` stands above
``node_<NODE_RANK>``: a folder of each user's own, since users cannot share the ones below.

Spool id: ``<UTC start, yyyymmddThhmmss>-<pid>-<8 hex digits>``, unique per process and start,
never used again. One process writes one spool; a forked child starts its own.

A segment is a SQLite 3 database in WAL mode with ``application_id`` 0x4C454E53 ("LENS"),
``user_version`` 2 (this format) and exactly these tables:

    | table    | column   | type    | meaning                                                   |
    |----------|----------|---------|-----------------------------------------------------------|
    | identity | body     | BLOB    | msgpack map: who wrote this (`spooler.spool.identity`)    |
    | identity | checksum | INTEGER | of kind "identity", this body, the segment's number       |
    | record   | seq      | INTEGER | primary key; 1, 2, 3 … across all segments, without a gap |
    | record   | kind     | TEXT    | what the body is (`spooler.records`); unknown ones occur  |
    | record   | body     | BLOB    | msgpack map, at most 64 MiB                               |
    | record   | checksum | INTEGER | of this kind, body and seq                                |

Pages have 1024 bytes, none reserved; text is UTF-8; there is no auto-vacuum. Table ``identity`` has
page 2 as its root, ``record`` page 3. Records are only inserted, in the order of their seqs. The
pages of a sealed segment have 1024 or 16384 bytes, as the header of its file says.

``identity`` holds one row, the same in every segment, so that a segment alone can be attributed. It
says which process writes: ``pid``, ``start_ticks`` (field 22 of ``/proc/<pid>/stat``),
``pid_namespace`` (inode of ``/proc/self/ns/pid``) and ``boot_id``
(``/proc/sys/kernel/random/boot_id``). They are 0 and "" where the writer could not read them.

Checksum: CRC-32 as of zlib (reflected polynomial 0xEDB88320), unsigned, over the bytes
``kind in UTF-8 | 0x00 | body | seq (or segment number) as 8 bytes, big-endian``.

Writing: there is one way on every file system. The writer has the segment to itself
(``locking_mode=EXCLUSIVE``): the index of the log is in its memory. There is no ``-shm`` and
nothing is mapped. The writer holds a write lock (OFD) on SQLite's lock bytes of the segment, so
that another program's SQLite finds it locked. A file system may refuse that lock.

Commit: each record is one transaction, appended to the log with ``synchronous=OFF``. When the
append has returned, the record survives the death of the process. It survives power loss once the
writer has synced the log (`spooler.spool.sync`: about once a second), the segment is sealed, or the
operating system has written it back.

Log: a header of 32 bytes, then frames of 24 + 1024 bytes: a header and one page. The log is never
begun again: commits follow one another from its start. The first commit is page 1 alone, made when
the segment is opened. Each later one adds one record. Numbers are big-endian:

    | bytes of a frame | meaning                                                         |
    |------------------|-----------------------------------------------------------------|
    | 0 to 3           | number of the page, from 1                                      |
    | 4 to 7           | not 0 in the last frame of a commit: pages in the database then |
    | 8 to 15          | salts, the same in all frames of a log                          |
    | 16 to 23         | SQLite's checksum, which a reader does not need                 |
    | 24 to 1047       | the page                                                        |

A frame that the writer failed to write is overwritten by the next one. If a reader could have seen
its record, the writer does not use that number again, so that a number may be missing there.

Sealing: when a segment is full, later records go to the next one. The writer syncs the log of the
full one, copies its pages into the ``.sqlite``, syncs that and then unlinks the ``-wal``. A large
segment (256 KiB of bodies) gets large pages in between: once it has its pages, its rows are copied
into a new file (``VACUUM INTO``, named as one being prepared, not in WAL mode). That one is synced,
the first four bytes of the log are set to 0, so that no SQLite applies it any more, and the new
file is renamed to the ``.sqlite``. Where it cannot be made, the ``.sqlite`` is synced and stays. A
segment has a ``-wal``, be it empty, from before it gets its name until it is sealed. Without one it
does not change any more. Until then the log holds all its records, whether its writer lives, is
dead or could not seal it. A record in segment n+1 proves that segment n has got its last record.

Reading needs no SQLite, and is the same whether the writer lives or not:

1. Open the ``-wal`` first. If it has a first frame, read the log, else the ``.sqlite``. In this
   order: a log that has gone in between has been copied. A log that is held open stays whole. The
   ``.sqlite`` beside a log may be sealed already: its header says how large its pages are.
2. In the log, take whole commits: frames from the start with a page number and with the salts of
   the first frame, up to the last one that ends a commit. In the ``.sqlite``, take pages 2 and on.
3. Rows lie in pages whose first byte is 0x0D (leaf of a table). A row of the columns NULL, TEXT,
   BLOB, INTEGER is a record, and its rowid is the seq. BLOB, INTEGER is an identity. A body that
   goes beyond its leaf continues on overflow pages: their last image in the log, else those of the
   ``.sqlite``.
4. Each commit repeats the rows before it in their leaf: take those above the last seq. In the
   ``.sqlite`` leaves lie in the order of their seqs. Go on later behind the last commit that was
   read, as long as the inode of the file is the same.
5. A row counts if its checksum holds and its seq follows. What is missing or wrong at the end may
   still be on its way. Once the segment gets no more records, every row in either file whose
   checksum holds counts. Of two with one seq the first counts.

A reader opens regular files only, without following links (O_NOFOLLOW) or waiting (O_NONBLOCK). It
does not map them, as a file may get shorter at any moment. It locks, creates and changes nothing.
It never opens a segment that has a ``-wal`` with SQLite, which may copy the log and delete it when
it closes the file. To look with SQLite, copy the ``-wal`` and then the ``.sqlite``. If the ``-wal``
has gone by then, delete its copy.

Owner file: the writer holds a write lock of an open file description (F_OFD_SETLK, the whole file)
on ``owner`` as long as it lives. It locks ``.owner.new`` first and then renames it, so that no
reader sees it unlocked. It sets its time of change every 10 s. If the file was removed or its
descriptor closed, the writer makes and locks it again within about a second. A clean end removes
it. Its text is ``<pid> <host> ofd``, or ``<pid> <host> none`` where the file system does not lock.
A reader asks with F_OFD_GETLK, which takes nothing. `spooler.spool.owner` says what it concludes
from the lock, the process and the time without a change.

Watching: about once a second the writer looks for its files. If only the name of the ``-wal`` was
removed, it puts an empty one there and seals the segment at once, from the log that it still has
open. A reader that misses records behind an empty log of a living writer waits. If the segment was
removed, or the program has closed a descriptor of its files, it goes on in a new spool. That begins
with a ``gap``: of reason ``gone``, it counts the records committed since the files were last seen
and those refused since then; of reason ``descriptor``, those refused.

Limits: the writer keeps its own spool within its limit: it refuses new records, or deletes its
oldest closed segments, each told beforehand in a ``gap`` record with the seqs. What is delivered
is deleted by the service alone, with empty folders ``node_…`` and ``rank_…``: a writer makes those
again where they go meanwhile. The service also keeps the limit of the root. For that it may delete
undelivered segments if its policy says so, or put the file ``full`` into the root: as long as that
was modified less than 60 s ago, by the clock of its host, every writer below the root refuses new
records; in a sticky root only if it belongs to the root's owner or to uid 0. The service touches it
while it holds and removes it afterwards; one that has died stops no writer for longer.

Versions: a writer writes `FORMAT_VERSION`; a reader accepts the versions in `SCHEMAS`: that one and
the one before it. A higher ``user_version`` is "newer than this reader" and is left untouched;
another ``application_id``, or a version from before the list, is "not a spool".

Version 1 differs in this: the pages of a sealed segment have 1024 bytes.

Older writers of version 1 have a ``-shm`` beside the log, and may leave a ``-journal``: readers
pass over both, and the service deletes them with the segment. Such a writer may leave a log of
length 0, whose records are all in the ``.sqlite``. It holds a POSIX lock on ``owner``, whose text
is ``<pid> <host>``, and its identity has none of ``start_ticks``, ``pid_namespace``, ``boot_id``.
Its segments are read in the same way.
"""

from __future__ import annotations

import re

APPLICATION_ID = 0x4C454E53
FORMAT_VERSION = 2

OWNER_NAME = "owner"
OWNER_DRAFT_NAME = ".owner.new"
ROOT_FULL_NAME = "full"
QUARANTINE_NAME = "quarantine"
ROOT_FULL_SECONDS = 60.0  # how long `full` counts after it was touched
SEGMENT_SUFFIX = ".sqlite"
PAGE_SIZE = 1024  # bytes; a small page keeps the WAL bytes of one small commit small
SEALED_PAGE_SIZE = 16384  # bytes; a large page holds more
BODY_LIMIT = 64 * 1024 * 1024  # bytes of one record's body

SCHEMA = (
    "CREATE TABLE identity (body BLOB NOT NULL, checksum INTEGER NOT NULL)",
    (
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
        " body BLOB NOT NULL, checksum INTEGER NOT NULL)"
    ),
)
SCHEMAS = {1: SCHEMA, 2: SCHEMA}  # every version that can be read, and what its files hold
INSERT_IDENTITY = "INSERT INTO identity (body, checksum) VALUES (?, ?)"
INSERT_RECORD = "INSERT INTO record (seq, kind, body, checksum) VALUES (?, ?, ?, ?)"
SELECT_SEQ = (
    "SELECT seq FROM record WHERE seq > ? AND kind = ? AND body = ? ORDER BY seq DESC LIMIT 1"
)
# Each for itself is one step in the tree; asked for together, SQLite goes through all records.
SELECT_BOUNDS = (
    "SELECT (SELECT min(seq) FROM record WHERE seq > 0),"
    " (SELECT max(seq) FROM record WHERE seq > 0)"
)
READ_ALL = "SELECT sum(checksum) FROM record"  # the last column: no page is left out

IDENTITY_KIND = "identity"

START = "%Y%m%dT%H%M%S"  # how a spool id begins, in UTC

_RANK_FOLDER = re.compile(r"(node|rank)_[0-9]{1,10}")
_USER_NAME = re.compile(r"uid_([0-9]{1,10})")
_COLLECTORS_NAME = re.compile(r"collectors_[0-9]{1,10}")
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
    return _SPOOL_ID.fullmatch(name) is not None


def user_name(uid: int) -> str:
    """Name of the folder of one user's own, in a root that several share."""
    return f"uid_{uid}"


def user_of(name: str) -> int | None:
    match = _USER_NAME.fullmatch(name)
    return int(match[1]) if match else None


def is_rank_folder(name: str) -> bool:
    """Whether a folder of this name may be removed once it is empty: its next writer makes it."""
    return _RANK_FOLDER.fullmatch(name) is not None


def collectors_name(uid: int) -> str:
    """Name of the folder in which a user's collectors keep their state."""
    return f"collectors_{uid}"


def holds_no_spools(name: str) -> bool:
    """Whether a folder of this name is ours and is not looked into for spools."""
    return name == QUARANTINE_NAME or _COLLECTORS_NAME.fullmatch(name) is not None


def spool_id(start: str, pid: int, salt: str) -> str:
    """Compose a spool id from the UTC start (`yyyymmddThhmmss`), the pid and 8 hex digits."""
    return f"{start}-{pid}-{salt}"

"""Spools made to harm whoever reads them, each by a tenant in a folder of its own.

A builder gets a `Place` and puts something into `folder`; `BUILDERS` names them all. Nothing here
is larger on disk than some tens of megabytes, whatever it claims to be.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spooler.records import step as step_record
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.identity import Identity

PAGE = fmt.PAGE_SIZE
FILES = 3_000
LOCKED = 60


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a hostile tenant may write, what it would like to read, and what it would like to hit.

    `victim` is an honest tenant's spool, `secret` a file of the node.
    """

    folder: Path
    victim: Path
    secret: Path

    def spool(self, salt: int = 0) -> Path:
        """A new spool folder."""
        salted = zlib.crc32(self.folder.name.encode()) + salt
        name = fmt.spool_id("20240102T030405", 1, f"{salted % 2**32:08x}")
        path = self.folder / "node_0" / "rank_0" / name
        path.mkdir(parents=True)
        return path


def step_body(number: int, **data: Any) -> bytes:
    """A step as the hook writes it."""
    made = step_record.encode(
        run="r", step=number, time=1.7e9, closed=True, data=data or {"loss": 1.0}
    )
    return codec.pack(made)


def wide_step(count: int) -> bytes:
    """A step of so many numbers, made without their map: 17 bytes each, 190 once decoded."""
    body = codec.pack({"run": "r", "step": 0, "time": 1.7e9, "closed": True, "data": {}})
    pairs = b"".join(b"\xa8m%07d\xcb%b" % (n, struct.pack(">d", n + 0.5)) for n in range(count))
    return body.replace(b"\xa4data\x80", b"\xa4data\xdf" + struct.pack(">I", count) + pairs)


def identity(spool: Path, **more: Any) -> bytes:
    """The identity of a hostile tenant, as bytes."""
    who = Identity(spool=spool.name, created=1.7e9, pid=1, host="h", workload_uid="hostile")
    return codec.pack({**who.to_map(), **more})


def segment(
    spool: Path,
    bodies: list[bytes],
    *,
    number: int = 1,
    first: int = 1,
    who: bytes | None = None,
    kind: str = "step",
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
) -> Path:
    """A segment as the writer makes it, but for what is asked; sealed."""
    path = spool / fmt.segment_name(number)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size={PAGE}")
    connection.execute(f"PRAGMA application_id={fmt.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={fmt.FORMAT_VERSION}")
    connection.execute("BEGIN")
    for statement in before or fmt.SCHEMA:
        connection.execute(statement)
    if not before:
        who = identity(spool) if who is None else who
        checksum = codec.checksum(fmt.IDENTITY_KIND, who, number)
        connection.execute(fmt.INSERT_IDENTITY, (who, checksum))
        for seq, body in enumerate(bodies, first):
            row = (seq, kind, body, codec.checksum(kind, body, seq) if seq > 0 else 0)
            connection.execute(fmt.INSERT_RECORD, row)
    for statement in after:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.close()
    return path


def three() -> list[bytes]:
    return [step_body(number) for number in range(3)]


# --- what is in the database ----------------------------------------------------------------------


def triggers(place: Place) -> None:
    sql = "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM record; END"
    segment(place.spool(), three(), after=(sql,))


def views_like_tables(place: Place) -> None:
    identity_view = "CREATE VIEW identity AS SELECT 1 AS body, 2 AS checksum"
    endless = (
        "CREATE VIEW record AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n)"
        " SELECT seq, 'step' AS kind, zeroblob(1000000) AS body, 0 AS checksum FROM n"
    )
    segment(place.spool(), [], before=(identity_view, endless))


def generated_columns(place: Place) -> None:
    made = (
        "CREATE TABLE identity (body BLOB NOT NULL, checksum INTEGER NOT NULL)",
        (
            "CREATE TABLE record (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
            " body BLOB AS (zeroblob(1000000000)), checksum INTEGER NOT NULL)"
        ),
    )
    segment(place.spool(), [], before=made)


def forged_schema(place: Place) -> None:
    """A view whose row in the schema says that it is a table of ours."""
    spool = place.spool()
    path = segment(spool, three())
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE other (x)")
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE"
        " name = 'identity') WHERE name = 'record'"
    )
    connection.execute("DELETE FROM sqlite_master WHERE name = 'other'")
    connection.close()


def many_tables(place: Place) -> None:
    segment(place.spool(), three(), after=tuple(f"CREATE TABLE t{n} (x)" for n in range(3000)))


def endless_tree(place: Place) -> None:
    """Inner pages that all lead to the same page: as many rows as there are atoms."""
    path = segment(place.spool(), three())
    connection = sqlite3.connect(path)
    root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='record'").fetchone()
    connection.close()
    raw = bytearray(path.read_bytes())
    leaf = bytes(raw[(root[0] - 1) * PAGE : root[0] * PAGE])
    depth = 15
    first_new = len(raw) // PAGE + 1
    levels = [root[0], *range(first_new, first_new + depth)]
    for level, child in zip(levels, [*levels[1:], first_new + depth], strict=True):
        page = bytearray(PAGE)
        cells = 60
        page[0:12] = struct.pack(">BHHHBI", 5, 0, cells, PAGE - 5 * cells, 0, child)
        for cell in range(cells):
            at = PAGE - 5 * (cell + 1)
            page[12 + 2 * cell : 14 + 2 * cell] = struct.pack(">H", at)
            page[at : at + 5] = struct.pack(">IB", child, 1)
        raw[(level - 1) * PAGE : level * PAGE] = page
        if level != root[0]:
            continue
        raw += bytes(PAGE * depth)
    raw += leaf
    raw[28:32] = struct.pack(">I", len(raw) // PAGE)
    path.write_bytes(raw)


def claims_a_gigabyte(place: Place) -> None:
    """A record whose chain of pages goes round in circles and is said to be a gigabyte long."""
    spool = place.spool()
    path = segment(spool, [bytes(3 * PAGE)])
    raw = bytearray(path.read_bytes())
    for number in range(2, len(raw) // PAGE + 1):
        at = (number - 1) * PAGE
        if raw[at] != 0x0D or not struct.unpack(">H", raw[at + 3 : at + 5])[0]:
            continue
        cell = at + struct.unpack(">H", raw[at + 8 : at + 10])[0]
        if raw[cell : cell + 1] >= b"\x80" and b"step" in raw[cell : cell + 40]:
            # The two bytes of its size become the largest that two bytes can say; what follows is
            # as it was, so that the type of the column says another length than the record's.
            raw[cell : cell + 2] = b"\xff\x7f"
            overflow = len(raw) // PAGE
            raw[(overflow - 1) * PAGE : (overflow - 1) * PAGE + 4] = struct.pack(">I", overflow)
    path.write_bytes(raw)


def large_blob(place: Place) -> None:
    segment(
        place.spool(),
        three(),
        after=(f"INSERT INTO record VALUES (4, 'step', zeroblob({fmt.BODY_LIMIT + 2**20}), 0)",),
    )


def long_kind(place: Place) -> None:
    segment(place.spool(), three(), kind="k" * 10**6)


def odd_types(place: Place) -> None:
    segment(
        place.spool(),
        three(),
        after=(
            "INSERT INTO record VALUES (4, 5, 'text', 'text')",
            "INSERT INTO record VALUES (5, x'ff', 1.5, NULL OR 1.5)",
            "INSERT INTO record VALUES (6, CAST(x'ff' AS TEXT), x'80', 1e300)",
        ),
    )


def identity_of_text(place: Place) -> None:
    segment(place.spool(), three(), after=("UPDATE identity SET body = 'text'",))


def numbers_below_zero(place: Place) -> None:
    segment(place.spool(), three(), first=-2)
    segment(place.spool(1), [step_body(1)], first=-5, kind="gap")


def highest_number(place: Place) -> None:
    segment(
        place.spool(),
        three(),
        after=("UPDATE record SET seq = 9223372036854775807 WHERE seq = 3",),
    )


# --- what is in the records -----------------------------------------------------------------------


def deep_values(place: Place) -> None:
    nest = b"\x81\xa1a" * 400 + b"\x01"
    body = codec.pack({"run": "r", "step": 1, "time": 1.7e9, "closed": True, "data": {}})
    body = body.replace(b"\xa4data\x80", b"\xa4data" + nest)
    segment(place.spool(), [body, b"\x91" * 10**6, b"\x81\xa1a" * 10**5, b"\x81" * 600])


def wide_values(place: Place) -> None:
    """A byte each on disk, and sixty or more in memory."""
    count = 24 * 10**6
    maps = b"\x81\xa4data\xdd" + struct.pack(">I", count) + b"\x80" * count
    segment(place.spool(), [maps, b"\x81\xa4data\xdd" + b"\xff" * 4, b"\xdf\xff\xff\xff\xff"])


def extensions(place: Place) -> None:
    bodies = [b"\x81\xa1a\xd4\x05\x00", b"\xd4\x05\x00", b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12]
    segment(place.spool(), bodies)


def large_numbers(place: Place) -> None:
    gaps = [
        codec.pack(
            {
                "time": 1.0,
                "reason": "x" * 10**6,
                "count": 2**64 - 1,
                "first": 1.0,
                "last": 2.0,
                "first_seq": 1,
                "last_seq": 2**64 - 1,
            }
        )
    ]
    segment(place.spool(), gaps, kind="gap")
    body = {"run": "r", "step": 2**64 - 1, "time": float("nan"), "closed": True, "data": {}}
    segment(place.spool(1), [codec.pack(body), codec.pack({**body, "step": -(2**63)})])


def million_characters(place: Place) -> None:
    long = "x" * 10**6
    spool = place.spool()
    who = {"workload_uid": long, "host": "h", "master_addr": long, "flush_interval": 1e308}
    segment(spool, [step_body(1, **{long: 1.0})], who=identity(spool, **who))
    other = place.spool(1)
    run = codec.pack(step_record.encode(run=long, step=1, time=1.0, closed=True, data={"a": 1.0}))
    segment(other, [run, step_body(2, note=long)])


def claims_another_pod(place: Place) -> None:
    spool = place.spool()
    claims = {"pod_uid": place.victim.parents[2].name, "pod_name": "honest"}
    # A workload of its own: in one that others share, its row would be theirs as well.
    claims["workload_uid"] = "claimant"
    segment(spool, [step_body(1, stolen=1.0)], who=identity(spool, **claims))


def same_id(place: Place) -> None:
    spool = place.folder / "node_0" / "rank_0" / place.victim.name
    spool.mkdir(parents=True)
    segment(spool, three())


# --- what stands where files should ---------------------------------------------------------------


def _stolen(place: Place) -> Path:
    spool = place.folder / "node_0" / "rank_0" / place.victim.name
    spool.mkdir(parents=True)
    return spool


def linked_segments(place: Place) -> None:
    spool = _stolen(place)
    for path in place.victim.glob("*.sqlite*"):
        (spool / path.name).symlink_to(path)
    other = place.spool()
    (other / fmt.segment_name(1)).symlink_to(place.secret)
    (other / fmt.segment_name(2)).symlink_to("/dev/zero")


def hard_linked_segments(place: Place) -> None:
    spool = _stolen(place)
    for path in place.victim.glob("*.sqlite"):
        os.link(path, spool / path.name)
    os.chown(spool, 1234, 1234)


def linked_spool(place: Place) -> None:
    folder = place.folder / "node_0" / "rank_0"
    folder.mkdir(parents=True)
    (folder / place.victim.name).symlink_to(place.victim)
    (place.folder / "node_1").symlink_to(place.victim.parents[1])


def linked_owner(place: Place) -> None:
    spool = place.spool()
    segment(spool, three())
    (spool / fmt.OWNER_NAME).symlink_to("/dev/zero")


def linked_log(place: Place) -> None:
    path = segment(place.spool(), three())
    Path(f"{path}-wal").symlink_to(place.secret)
    Path(f"{path}-shm").symlink_to(place.secret)


def _everywhere(place: Place, make: Callable[[Path], None]) -> None:
    """Put something where a reader may look for a file, each in its own spool."""
    names = [fmt.segment_name(1) + end for end in ("", "-wal", "-shm", "-journal")]
    names += [fmt.OWNER_NAME, fmt.segment_name(2), fmt.preparing_name(2)]
    for salt, (name, logs) in enumerate(itertools.product(names, (False, True))):
        spool = place.spool(salt)
        path = segment(spool, three())
        if logs:
            Path(f"{path}-wal").touch()
        (spool / name).unlink(missing_ok=True)
        make(spool / name)
    make(place.folder / fmt.ROOT_FULL_NAME)


def pipes(place: Place) -> None:
    _everywhere(place, os.mkfifo)


def sockets(place: Place) -> None:
    def bind(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(path.name)
        finally:
            os.chdir(here)

    _everywhere(place, bind)


def devices(place: Place) -> None:
    spool = place.spool()
    for number, minor in ((1, 5), (2, 3)):
        os.mknod(spool / fmt.segment_name(number), 0o020666, os.makedev(1, minor))
    os.mknod(spool / fmt.OWNER_NAME, 0o020666, os.makedev(1, 5))


def folders(place: Place) -> None:
    _everywhere(place, Path.mkdir)


def links(place: Place) -> None:
    _everywhere(place, lambda path: path.symlink_to(place.secret))


def odd_names(place: Place) -> None:
    spool = place.spool()
    segment(spool, three())
    for name in (
        "9" * 200 + ".sqlite",
        "000000001.sqlite",
        "00000000.sqlite",
        "9" * 30 + ".sqlite",
    ):
        shutil.copy(spool / fmt.segment_name(1), spool / name)
    for raw in (b"\xff\xfe.sqlite", b"new\nline.sqlite", b"\x1b[2Jsweep"):
        Path(os.fsdecode(bytes(spool) + b"/" + raw)).touch()
    Path(os.fsdecode(bytes(place.folder) + b"/node_\xff\n")).mkdir()


def links_of_marks(place: Place) -> None:
    (place.folder / fmt.ROOT_FULL_NAME).symlink_to(place.secret.parent / "made-by-a-link")
    (place.folder / fmt.QUARANTINE_NAME).symlink_to(place.secret.parent)
    segment(place.spool(), three())


# --- size -----------------------------------------------------------------------------------------


def sparse_terabyte(place: Place) -> None:
    spool = place.spool()
    path = segment(spool, three())
    os.truncate(path, 2**40)
    other = place.spool(1)
    path = segment(other, three())
    with open(f"{path}-wal", "wb") as log:
        log.truncate(2**40)
    third = place.spool(2)
    (third / fmt.segment_name(1)).touch()
    os.truncate(third / fmt.segment_name(1), 2**40)


def locked(place: Place) -> None:
    """Live segments, each with its log; for `tests.kit.holding`."""
    spool = place.spool()
    for number in range(1, LOCKED + 1):
        path = segment(spool, three(), number=number, first=3 * number - 2)
        Path(f"{path}-wal").touch()
        Path(f"{path}-shm").touch()
    (spool / fmt.OWNER_NAME).touch()


def foreign_log(place: Place) -> None:
    """The log and the index of another file, or of nothing at all."""
    path = segment(place.spool(), three())
    Path(f"{path}-wal").write_bytes(struct.pack(">II", 0x377F0682, 3007000) + os.urandom(300_000))
    Path(f"{path}-shm").write_bytes(b"\xff" * 32768 * 2)


def borrowed_logs(place: Place) -> None:
    """Segments of its own whose logs are links to those of the honest tenant."""
    spool = place.spool()
    for number in range(1, 6):
        path = segment(spool, [], number=number)
        Path(f"{path}-wal").symlink_to(place.victim / f"{path.name}-wal")


def many_segments(place: Place) -> None:
    spool = place.spool()
    for number in range(1, FILES + 1):
        (spool / fmt.segment_name(number)).touch()


def many_spools(place: Place) -> None:
    folder = place.folder / "node_0" / "rank_0"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / fmt.spool_id("20240102T030405", 1, f"{number:08x}")).mkdir()


BUILDERS: dict[str, Callable[[Place], None]] = {
    build.__name__.replace("_", "-"): build
    for build in (
        triggers,
        views_like_tables,
        generated_columns,
        forged_schema,
        many_tables,
        endless_tree,
        claims_a_gigabyte,
        large_blob,
        long_kind,
        odd_types,
        identity_of_text,
        numbers_below_zero,
        highest_number,
        deep_values,
        wide_values,
        extensions,
        large_numbers,
        million_characters,
        claims_another_pod,
        same_id,
        linked_segments,
        hard_linked_segments,
        linked_spool,
        linked_owner,
        linked_log,
        pipes,
        sockets,
        devices,
        folders,
        links,
        odd_names,
        links_of_marks,
        sparse_terabyte,
        locked,
        foreign_log,
        borrowed_logs,
        many_segments,
        many_spools,
    )
}
NEEDS_ROOT = frozenset({"devices", "hard-linked-segments"})

"""The damage table: what was damaged, what survives, and what is reported with file and position.

Each spool holds twelve records in three segments of four (and a prepared fourth is left out).
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from spooler.errors import NewerFormat, NotASpool, SpoolDamaged
from spooler.spool import codec, pages, safe_open
from spooler.spool import format as fmt
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import OwnedReader

pytestmark = pytest.mark.promise("G7")

SIZE = 4
LAST = 12


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return sealed(tmp_path)


def sealed(root: Path, *, spool: str = "", count: int = LAST) -> Path:
    """A closed spool of `count` records in segments of `SIZE`."""
    directory, one = spools.fill(root, 0, close=False, spool=spool, segment_records=SIZE)
    for number in range(1, count + 1):
        begins = number > 1 and number % SIZE == 1
        fills = number % SIZE == SIZE - 1 and number < count - 1
        if begins or fills:
            one.maintain()
        one.append("step", spools.body(number))
    one.close()
    return directory


def segment(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.sqlite"


def edit(path: Path, *statements: str) -> None:
    """Change a segment through SQLite, as somebody with a shell might."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=DELETE")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def flip(path: Path, needle: bytes, offset: int = 0, bit: int = 0) -> None:
    """Flip one bit of the only place where the file holds `needle`."""
    raw = bytearray(path.read_bytes())
    assert raw.count(needle) == 1
    raw[raw.index(needle) + offset] ^= 1 << bit
    path.write_bytes(raw)


@dataclass(frozen=True)
class Row:
    """One line of the table: damage done, seqs lost, the reason given, the segment named."""

    damage: Callable[[Path], None]
    lost: range
    reason: str
    file: int


def _flip_body(directory: Path) -> None:
    flip(segment(directory, 2), spools.body(6), offset=3)


def _flip_kind(directory: Path) -> None:
    flip(segment(directory, 2), b"step" + spools.body(6), offset=1)


def _kind_not_text(directory: Path) -> None:
    flip(segment(directory, 2), b"step" + spools.body(6), offset=1, bit=7)


def _wrong_checksum(directory: Path) -> None:
    edit(segment(directory, 2), "UPDATE record SET checksum = checksum + 1 WHERE seq = 6")


def _checksum_of_another_seq(directory: Path) -> None:
    other = codec.checksum("step", spools.body(6), 7)
    edit(segment(directory, 2), f"UPDATE record SET checksum = {other} WHERE seq = 6")


def _text_body(directory: Path) -> None:
    edit(segment(directory, 2), "UPDATE record SET body = 'text' WHERE seq = 6")


def _number_kind(directory: Path) -> None:
    edit(segment(directory, 2), "UPDATE record SET kind = x'ff00' WHERE seq = 6")


def _row_deleted(directory: Path) -> None:
    edit(segment(directory, 2), "DELETE FROM record WHERE seq = 6")


def _rows_deleted_at_the_start(directory: Path) -> None:
    edit(segment(directory, 2), "DELETE FROM record WHERE seq IN (5, 6)")


def _rows_deleted_at_the_end(directory: Path) -> None:
    edit(segment(directory, 2), "DELETE FROM record WHERE seq IN (7, 8)")


def _segment_deleted(directory: Path) -> None:
    segment(directory, 2).unlink()


def _truncated(directory: Path) -> None:
    path = segment(directory, 2)
    path.write_bytes(path.read_bytes()[:1500])


def _zero_length(directory: Path) -> None:
    segment(directory, 2).write_bytes(b"")


def _rubbish(directory: Path) -> None:
    segment(directory, 2).write_bytes(b"\x00\xffrubbish" * 500)


def _other_application(directory: Path) -> None:
    edit(segment(directory, 2), "PRAGMA application_id=7")


def _with_a_view(directory: Path) -> None:
    edit(segment(directory, 2), "CREATE VIEW extra AS SELECT * FROM record")


def _with_a_trigger(directory: Path) -> None:
    edit(
        segment(directory, 2),
        "CREATE TRIGGER evil AFTER INSERT ON record BEGIN DELETE FROM record; END",
    )


def _view_instead_of_the_table(directory: Path) -> None:
    edit(
        segment(directory, 2),
        "ALTER TABLE record RENAME TO hidden",
        "CREATE VIEW record AS SELECT seq, kind, randomblob(100) AS body, checksum FROM hidden",
    )


def _identity_damaged(directory: Path) -> None:
    edit(segment(directory, 1), "UPDATE identity SET checksum = 0")


def _nothing(_directory: Path) -> None:
    """The line that shows that the table is not true of anything."""


NONE = range(0)
ONE = range(6, 7)
ALL = range(5, 9)
TABLE = {
    "nothing": Row(_nothing, NONE, "", 0),
    "a bit of a body": Row(_flip_body, ONE, "checksum", 2),
    "a bit of a kind": Row(_flip_kind, ONE, "checksum", 2),
    "a kind that is not UTF-8": Row(_kind_not_text, ONE, "checksum", 2),
    "a checksum": Row(_wrong_checksum, ONE, "checksum", 2),
    "a checksum for another seq": Row(_checksum_of_another_seq, ONE, "checksum", 2),
    "a body that is text": Row(_text_body, ONE, "checksum", 2),
    "a kind that is a blob": Row(_number_kind, ONE, "checksum", 2),
    "a deleted row": Row(_row_deleted, ONE, "missing inside", 2),
    "deleted rows at a segment's start": Row(_rows_deleted_at_the_start, range(5, 7), "missing", 2),
    "deleted rows at a segment's end": Row(_rows_deleted_at_the_end, range(7, 9), "missing", 3),
    "a deleted segment": Row(_segment_deleted, ALL, "missing", 3),
    "a truncated segment": Row(_truncated, ALL, "malformed", 2),
    "a segment of length zero": Row(_zero_length, ALL, "not a spool segment", 2),
    "a segment of rubbish": Row(_rubbish, ALL, "not a database", 2),
    "another application's file": Row(_other_application, NONE, "", 0),
    "a schema with a view": Row(_with_a_view, NONE, "", 0),
    "a schema with a trigger": Row(_with_a_trigger, NONE, "", 0),
    "a view in place of the table": Row(_view_instead_of_the_table, NONE, "", 0),
    "the identity of one segment": Row(_identity_damaged, NONE, "", 0),
}


@pytest.mark.parametrize("limit", [1, 5, 100])
@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_what_is_damaged_is_lost_alone_and_named(row: Row, limit: int, spool: Path) -> None:
    row.damage(spool)
    found = spools.read(spool, limit=limit)
    assert found.numbers == [n for n in range(1, LAST + 1) if n not in row.lost]
    assert found.seqs == found.numbers
    assert found.through == LAST
    lost = [seq for one in found.damage for seq in range(one.first, one.last + 1)]
    assert lost == list(row.lost)
    for one in found.damage:
        assert one.path == str(segment(spool, row.file))
        assert row.reason in one.reason
    assert Reader(spool).last_seq() == LAST
    assert Reader(spool).identity() == spools.identity()


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_reading_goes_on_from_beyond_the_damage(row: Row, spool: Path) -> None:
    """The service was restarted there, and does not stumble over what it has left behind."""
    row.damage(spool)
    chunk = Reader(spool).read(8, 100)
    assert [spools.number_of(stored) for stored in chunk.records] == [9, 10, 11, 12]
    assert chunk.damage == ()


def test_records_with_numbers_below_zero_are_none(spool: Path) -> None:
    edit(segment(spool, 1), "UPDATE record SET seq = -seq")
    chunk = Reader(spool).read(0, 100)
    assert [stored.seq for stored in chunk.records] == list(range(SIZE + 1, LAST + 1))
    assert [(one.first, one.last) for one in chunk.damage] == [(1, SIZE)]


def test_a_page_in_the_middle_costs_the_records_on_it(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 0, close=False, segment_records=200)
    for number in range(1, 203):
        one.append("step", codec.pack({"n": number, "text": "x" * 100}))
        if number > 198:
            one.maintain()
    one.close()
    path = segment(directory, 1)
    raw = bytearray(path.read_bytes())
    page = (raw.index(codec.pack({"n": 100, "text": "x" * 100})) // 1024) * 1024
    raw[page : page + 1024] = b"\xff" * 1024
    path.write_bytes(raw)
    for limit in (3, 500):
        found = spools.read(directory, limit=limit)
        (damage,) = found.damage
        lost = range(damage.first, damage.last + 1)
        assert 100 in lost
        assert len(lost) < 12
        assert found.numbers == [number for number in range(1, 203) if number not in lost]
        assert damage.path == str(path)


def _no_header(directory: Path) -> None:
    _overwrite(segment(directory, 2), 0, b"\0" * 100)


def _no_schema(directory: Path) -> None:
    _overwrite(segment(directory, 2), 0, b"\xff" * 1024)


def _no_root(directory: Path) -> None:
    """The page that says where the pages of records are."""
    raw = segment(directory, 2).read_bytes()
    roots = [at for at in range(1024, len(raw), 1024) if raw[at] == 0x05]
    _overwrite(segment(directory, 2), roots[0], b"\0" * 1024)


def _overwrite(path: Path, at: int, piece: bytes) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + piece + raw[at + len(piece) :])


@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at the end"])
@pytest.mark.parametrize("damage", [_no_header, _no_schema, _no_root])
def test_what_only_finds_the_records_costs_none_of_them(
    damage: Callable[[Path], None], last: bool, tmp_path: Path
) -> None:
    """Neither a header nor an index, and records of every length: all checksums hold."""
    directory, one = spools.fill(tmp_path, 1, close=False, segment_records=1)
    bodies = [codec.pack({"n": n, "text": "x" * (n * n)}) for n in range(2, 120)]
    one._limits = replace(one._limits, segment_records=len(bodies))
    for body in bodies:
        one.append("step", body)
    if not last:
        one.maintain()
        one.append("step", spools.body(1))
    one.close()
    damage(directory)
    found = spools.read(directory, limit=50)
    assert [stored.body for stored in found.records][1 : len(bodies) + 1] == bodies
    assert found.damage == ()
    assert Reader(directory).damaged().keys() == {2}
    assert Reader(directory).last_seq() == len(found.records)
    assert Reader(directory).count_after(0) == len(found.records)


@pytest.mark.parametrize("damage", [_truncated, _rubbish, _zero_length])
def test_a_last_segment_of_which_nothing_is_left_ends_the_spool(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Its writer is gone: it will not become readable, and nothing waits for it."""
    directory = sealed(tmp_path, count=8)
    damage(directory)
    reader = Reader(directory)
    chunk = reader.read(0, 100)
    assert [stored.seq for stored in chunk.records] == [1, 2, 3, 4]
    assert reader.read(4, 100).at_end
    assert reader.damaged().keys() == {2}
    with pytest.raises((NotASpool, SpoolDamaged)):
        reader.is_drained(4)
    assert reader.last_seq() == 4


@pytest.mark.parametrize("damage", [_truncated, _rubbish, _zero_length])
def test_a_last_segment_is_waited_for_while_its_writer_lives(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    directory = sealed(tmp_path, count=8)
    damage(directory)
    reader = OwnedReader(directory)
    assert not reader.read(0, 100).at_end
    with pytest.raises((NotASpool, SpoolDamaged)) as caught:
        reader.read(4, 100)
    assert str(segment(directory, 2)) in str(caught.value)
    assert not reader.damaged()


def test_a_sealed_segment_is_not_waited_for_though_nothing_follows_yet(tmp_path: Path) -> None:
    """Its writer lives, has turned over to the next one, and has nothing to say at the moment."""
    directory, one = spools.fill(tmp_path, 4, close=False, segment_records=2)
    reader = OwnedReader(directory)
    assert reader.segments()[-1] > 2
    _rubbish(directory)
    assert [stored.seq for stored in reader.read(0, 100).records] == [1, 2]
    assert reader.read(2, 100).at_end
    assert reader.damaged().keys() == {2}
    one.close()


def test_a_newer_format_is_left_alone_and_never_passed(spool: Path) -> None:
    edit(segment(spool, 2), f"PRAGMA user_version={fmt.FORMAT_VERSION + 1}")
    before = segment(spool, 2).read_bytes()
    reader = Reader(spool)
    assert [stored.seq for stored in reader.read(0, 100).records] == [1, 2, 3, 4]
    with pytest.raises(NewerFormat, match="upgrade"):
        reader.read(4, 100)
    assert segment(spool, 2).read_bytes() == before


def test_a_damaged_segment_is_never_among_those_to_delete(spool: Path) -> None:
    _truncated(spool)
    assert Reader(spool).segments_below(LAST) == [1]
    assert segment(spool, 2).exists()


def test_trouble_that_may_pass_is_not_taken_for_damage(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer now must not cost the records that are on it."""
    real = safe_open.open_regular

    def failing(path: Path | str) -> int:
        if str(path) == str(segment(spool, 2)):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(safe_open, "open_regular", failing)
    reader = Reader(spool)
    assert reader.read(0, 100).through == 4
    with pytest.raises(SpoolDamaged, match="Input/output error"):
        reader.read(4, 100)
    monkeypatch.setattr(safe_open, "open_regular", real)
    assert reader.read(4, 100).through == LAST


def test_a_segment_that_is_refused_only_once_is_not_given_up(spool: Path) -> None:
    """Whatever made it look malformed for a moment: going past it would lose its records."""
    path = segment(spool, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:2048])
    reader = OwnedReader(spool)
    segment(spool, 3).rename(spool / "away")
    with pytest.raises(SpoolDamaged):
        reader.read(4, 100)
    (spool / "away").rename(segment(spool, 3))
    path.write_bytes(whole)
    assert reader.read(4, 100).through == LAST


# --- a living spool that was copied or mixed up ---------------------------------------------------


@pytest.fixture
def living(tmp_path: Path) -> Path:
    """A spool whose last records are in the WAL only, as a killed process leaves it."""
    return spools.fill(tmp_path, 6, close=False, segment_records=SIZE)[0]


def test_a_missing_shm_costs_nothing_where_it_can_be_made_again(
    living: Path, tmp_path: Path
) -> None:
    copy = tmp_path / living.name
    shutil.copytree(living, copy, ignore=shutil.ignore_patterns("*-shm", "owner"))
    assert (copy / "00000002.sqlite-wal").stat().st_size > 0
    assert spools.read_whole(copy).numbers == [1, 2, 3, 4, 5, 6]


def test_a_missing_wal_costs_what_was_only_there(living: Path, tmp_path: Path) -> None:
    copy = tmp_path / living.name
    shutil.copytree(living, copy, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    assert spools.read_whole(copy).numbers == [1, 2, 3, 4]


@pytest.mark.parametrize("frame", range(6))
def test_a_bit_in_the_wal_costs_one_record_at_most(
    frame: int, living: Path, tmp_path: Path
) -> None:
    """SQLite stops reading there, and says nothing; what follows is in the file all the same."""
    copy = tmp_path / living.name
    shutil.copytree(living, copy, ignore=shutil.ignore_patterns("*-shm"))
    wal = copy / "00000002.sqlite-wal"
    raw = bytearray(wal.read_bytes())
    at = 32 + frame * 1048 + 24 + 1000
    if at < len(raw):
        raw[at] ^= 4
    wal.write_bytes(raw)
    found = spools.read(copy)
    assert {1, 2, 3, 4} <= set(found.numbers)
    assert len(found.numbers) + sum(one.last - one.first + 1 for one in found.damage) >= 5


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_a_cut_wal_costs_only_its_end(keep: float, living: Path, tmp_path: Path) -> None:
    """Power was lost while the operating system wrote it back."""
    copy = tmp_path / living.name
    shutil.copytree(living, copy, ignore=shutil.ignore_patterns("*-shm"))
    wal = copy / "00000002.sqlite-wal"
    raw = wal.read_bytes()
    wal.write_bytes(raw[: int(len(raw) * keep)])
    found = spools.read_whole(copy)
    assert 4 <= len(found.numbers) <= 6
    assert found.numbers == list(range(1, len(found.numbers) + 1))


def test_segments_of_another_spool_are_known_by_their_identity(tmp_path: Path) -> None:
    mine = sealed(tmp_path / "a", spool=spools.spool_id(1))
    other = sealed(tmp_path / "b", spool=spools.spool_id(2))
    shutil.copy(segment(other, 1), segment(mine, 1))
    assert Reader(mine).identity().spool == spools.spool_id(1), "the next segment can tell"
    for number in (2, 3):
        shutil.copy(segment(other, number), segment(mine, number))
    with pytest.raises(NotASpool, match=spools.spool_id(2)):
        Reader(mine).identity()


def test_a_renumbered_segment_has_no_identity(spool: Path) -> None:
    """The identity's checksum covers the segment's number."""
    shutil.move(segment(spool, 3), segment(spool, 1))
    segment(spool, 2).unlink()
    with pytest.raises(SpoolDamaged, match="checksum"):
        Reader(spool).identity()


def test_records_that_share_one_chain_of_pages_take_no_more_memory_than_a_chunk(
    tmp_path: Path,
) -> None:
    """A file whose leaves all claim its one long body would decode to a multiple of its size."""
    directory, writer = spools.fill(tmp_path, 0, close=False)
    writer.append("step", bytes(4 * 1024 * 1024))
    writer.close()
    path = segment(directory, 1)
    raw = bytearray(path.read_bytes())
    size = pages.page_size(raw)
    page = next(at for at in range(2 * size, len(raw), size) if pages.cells(raw, at, 0, size))
    leaf = raw[page : page + size]
    _, at = pages.varint(leaf, int.from_bytes(leaf[8:10], "big"))
    for seq in range(2, 66):
        leaf[at] = seq
        raw += leaf
    raw[28:32] = (len(raw) // size).to_bytes(4, "big")
    path.write_bytes(raw)
    tracemalloc.start()
    with contextlib.suppress(SpoolDamaged):  # it takes too long: the folder is left alone
        found = Reader(directory).read(0, 100, most=8 * 1024 * 1024)
        assert [record.seq for record in found.records] == [1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024 < 65 * 4 * 1024 * 1024

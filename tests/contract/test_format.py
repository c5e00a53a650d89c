"""The disk format is what its docstring says, and spools written long ago are read for ever."""

from __future__ import annotations

import re
import sqlite3
import struct
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

import msgpack
import pytest

from spooler import records
from spooler.records import REGISTRY
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from tests.kit import spools

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    return spools.fill(tmp_path, 3)[0] / "00000001.sqlite"


def ask(path: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def columns(path: Path, table: str) -> list[Any]:
    """Position, name, type, not null, default and key of every column."""
    return ask(path, f"SELECT * FROM pragma_table_info('{table}')")


# --- the docstring is the file --------------------------------------------------------------------


def described() -> dict[str, dict[str, str]]:
    """Table -> column -> type, from the table in the docstring."""
    assert fmt.__doc__ is not None
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in re.findall(
        r"^ +\| (\w+) +\| (\w+) +\| (BLOB|INTEGER|TEXT) +\|", fmt.__doc__, re.MULTILINE
    ):
        tables.setdefault(table, {})[column] = kind
    return tables


def test_the_tables_are_those_of_the_docstring_and_no_others(segment: Path) -> None:
    real = {
        table: {
            name: kind
            for _, name, kind, *_ in ask(segment, f"SELECT * FROM pragma_table_info('{table}')")
        }
        for (table,) in ask(segment, "SELECT name FROM sqlite_master")
    }
    assert real == described()
    assert set(real) == {"identity", "record"}


def test_every_column_is_required_and_seq_is_the_key(segment: Path) -> None:
    for table in described():
        for _, name, _, required, _, key in ask(
            segment, f"SELECT * FROM pragma_table_info('{table}')"
        ):
            assert required or key
            assert bool(key) == (name == "seq")


def test_the_file_says_what_it_is(segment: Path) -> None:
    assert ask(segment, "PRAGMA application_id") == [(0x4C454E53,)]
    assert struct.pack(">I", fmt.APPLICATION_ID) == b"LENS"
    assert ask(segment, "PRAGMA user_version") == [(2,)]
    assert fmt.FORMAT_VERSION == 2
    header = segment.read_bytes()[:100]
    assert header[68:72] == b"LENS", "where `file` and SQLite's own tools look"
    assert header[18:20] == b"\x02\x02", "WAL mode"
    assert ask(segment, "PRAGMA page_size") == [(fmt.PAGE_SIZE,)]


def test_a_large_sealed_segment_has_large_pages(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 0, close=False)
    bodies = [bytes([number % 256]) * 700 for number in range(500)]
    for body in bodies:
        one.append("step", body)
    live = (directory / "00000001.sqlite").read_bytes()[:100]
    assert live[16:20] == b"\x04\x00\x02\x02", "pages of 1024 bytes, WAL mode"
    one.close()
    path = directory / "00000001.sqlite"
    assert ask(path, "PRAGMA page_size") == [(fmt.SEALED_PAGE_SIZE,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert path.stat().st_size < 1.25 * sum(map(len, bodies))
    assert [record.body for record in Reader(directory).read(0, 1000).records] == bodies


def test_the_numbers_in_the_docstring_are_the_constants() -> None:
    assert fmt.__doc__ is not None
    assert "``application_id`` 0x4C454E53" in fmt.__doc__
    assert f"``user_version`` {fmt.FORMAT_VERSION} " in fmt.__doc__
    assert f"at most {fmt.BODY_LIMIT // 2**20} MiB" in fmt.__doc__


def test_the_layout_is_the_one_drawn(tmp_path: Path) -> None:
    directory, one = spools.fill(tmp_path, 3, close=False, segment_records=4)
    assert directory.parent == tmp_path / "node_0" / "rank_0"
    assert {path.name for path in directory.iterdir()} == {
        "owner",
        *(
            f"{name}{more}"
            for name in ("00000001.sqlite", "00000002.sqlite")
            for more in ("", "-wal")
        ),
    }
    one.close()
    assert fmt.preparing_name(3) == ".00000003.new"
    assert fmt.segment_number(".00000003.new") is None


def test_names_sort_as_numbers_do() -> None:
    numbers = [1, 2, 9, 10, 99, 100, 12345678, 99999999]
    names = [fmt.segment_name(number) for number in numbers]
    assert names == sorted(names)
    assert [fmt.segment_number(name) for name in names] == numbers
    assert fmt.segment_number(fmt.segment_name(123456789)) == 123456789


@pytest.mark.parametrize("name", ["1.sqlite", "00000001.sqlite-wal", "0000001x.sqlite", "", "x"])
def test_other_names_are_no_segments(name: str) -> None:
    assert fmt.segment_number(name) is None


def test_a_spool_id_is_recognised() -> None:
    name = fmt.spool_id("20231114T221320", 4711, "0badcafe")
    assert name == "20231114T221320-4711-0badcafe"
    assert fmt.is_spool_id(name)
    for other in ("", "..", name.upper(), name + "x", name[:-1], "20231114T221320--0badcafe"):
        assert not fmt.is_spool_id(other)


# --- golden bytes ---------------------------------------------------------------------------------


def decode(path: Path) -> list[tuple[int, str, Any]]:
    """A segment's records by the docstring alone: sqlite3, zlib, msgpack, and none of our code."""
    rows = ask(path, "SELECT seq, kind, body, checksum FROM record ORDER BY seq")
    for seq, kind, body, checksum in rows:
        assert zlib.crc32(kind.encode() + b"\x00" + body + seq.to_bytes(8, "big")) == checksum
    ((body, checksum),) = ask(path, "SELECT body, checksum FROM identity")
    number = int(path.name[:8])
    assert zlib.crc32(b"identity\x00" + body + number.to_bytes(8, "big")) == checksum
    identity = (0, "identity", msgpack.unpackb(body))
    return [identity, *((seq, kind, msgpack.unpackb(body)) for seq, kind, body, _ in rows)]


@pytest.fixture(params=sorted(fmt.SCHEMAS))
def golden(request: pytest.FixtureRequest) -> Path:
    """A spool of each version; the first segment of the last one has large pages."""
    root = GOLDEN / f"spool-v{request.param}"
    return root / "node_0" / "rank_3" / "20231114T221320-4711-0badcafe"


def test_the_golden_spool_decodes_by_the_docstring_alone(golden: Path) -> None:
    first, second = (decode(golden / f"0000000{number}.sqlite") for number in (1, 2))
    assert first[0] == second[0]
    identity = first[0][2]
    assert (identity["spool"], identity["pid"], identity["rank"]) == (golden.name, 4711, 3)
    found = first[1:] + second[1:]
    assert [seq for seq, _, _ in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    kinds = [kind for _, kind, _ in found]
    assert kinds == ["run", "detection", "step", "step", "gap", "unknown", "finish", "exit"]
    assert found[2][2] == {
        "run": "4x7k2m9q",
        "step": 7,
        "time": 1700000000.0,
        "closed": True,
        "data": {"loss": 2.5, "accuracy": 0.5},
    }
    odd = found[3][2]["data"]
    assert odd["text"] == "ü — 損失"
    assert odd["nan"] != odd["nan"]
    assert odd["inf"] == float("inf")
    assert odd["nested"] == {"a": {"b": [1, None, True]}}
    assert found[6][2] == {"run": "4x7k2m9q", "time": 1700000100.0, "step": 99, "exit_code": 0}


@pytest.mark.promise("G7")
def test_the_golden_spool_is_read_by_the_reader_and_stays_as_it_is(golden: Path) -> None:
    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    reader = Reader(golden)
    chunk = reader.read(0, 100)
    assert chunk.damage == ()
    by_hand = decode(golden / "00000001.sqlite")[1:] + decode(golden / "00000002.sqlite")[1:]
    assert [(stored.seq, stored.kind) for stored in chunk.records] == [row[:2] for row in by_hand]
    for stored, (_, _, body) in zip(chunk.records, by_hand, strict=True):
        assert repr(codec.unpack(stored.body)) == repr(body)
    assert reader.identity().workload_uid == "workload-golden"
    assert not reader.is_owned()
    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before


def test_the_golden_identity_has_no_field_that_is_no_longer_known(golden: Path) -> None:
    """A field may be added; one that a file of version 1 has may not go or change its type."""
    stored = decode(golden / "00000001.sqlite")[0][2]
    assert {**Identity.from_map(stored).to_map(), **stored} == Identity.from_map(stored).to_map()


# --- the registry of kinds ------------------------------------------------------------------------


def test_files_and_lines_of_the_registry_match_both_ways() -> None:
    assert records.__file__ is not None
    files = {
        path.stem
        for path in Path(records.__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "schema", "values", "axes", "run_config")
    }
    assert {module.rpartition(".")[2] for module in REGISTRY.values()} == files
    for kind, module in REGISTRY.items():
        assert module == f"spooler.records.{kind}"
        assert kind == import_module(module).NAME


@pytest.mark.parametrize("kind", sorted(REGISTRY))
def test_every_example_survives_the_disk(kind: str, tmp_path: Path) -> None:
    example = import_module(REGISTRY[kind]).EXAMPLE
    one = spools.writer(tmp_path)
    one.append(kind, codec.pack(example))
    one.close()
    (stored,) = spools.read_whole(one.directory).records
    assert stored.kind == kind
    assert codec.unpack(stored.body) == example
    assert decode(one.directory / "00000001.sqlite")[1] == (1, kind, example)

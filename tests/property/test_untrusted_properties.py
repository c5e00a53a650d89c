"""Whatever stands in a file, a record or an answer: our own errors, bounded work, nothing else.

`make fuzz` runs the same for long (`LENS_SHIP_FUZZ_EXAMPLES`).
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from shipper.delivery.pipeline import gap_of
from shipper.http_client import Answer
from shipper.inspection.segment import inspect_segment
from shipper.sinks.outcome import Outcome, retry_after
from shipper.sinks.processor.classify import classify, pods_in
from shipper.steps import collect_steps, cut_off
from spooler.errors import BodyUnreadable, SpoolError
from spooler.spool import codec, safe_open
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader, Stored
from spooler.spool.summary import SummaryReader
from tests.kit import hostile, spools

_EDITS = st.lists(
    st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6
)
_STRUCTURAL = st.sampled_from([0, 16, 18, 20, 24, 28, 100, 103, 105, 108, 1024, 1027, 2048, 2051])
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=9),
        st.binary(max_size=9),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = ("run", "step", "time", "closed", "data", "reason", "count", "first_seq", "last_seq")


def edited(raw: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    """`raw` with pieces of it written over."""
    changed = bytearray(raw)
    for at, piece in edits:
        place = at % len(changed)
        changed[place : place + len(piece)] = piece
    return bytes(changed)


def read_all(spool: Path) -> None:
    """Every question that the service and the commands ask of a spool."""
    safe_open._failures.clear()
    safe_open._penalized.clear()
    reader = Reader(spool)
    with contextlib.suppress(SpoolError, OSError):
        reader.identity()
    position = 0
    with contextlib.suppress(SpoolError, OSError):
        for _ in range(20):
            chunk = reader.read(position, 7)
            assert chunk.through >= position, "reading goes backwards"
            assert all(stored.seq > position for stored in chunk.records)
            if chunk.at_end or chunk.through == position:
                break
            position = chunk.through
    for ask in (
        reader.last_seq,
        reader.first_seq,
        reader.gaps,
        reader.final_segments,
        reader.damaged,
    ):
        with contextlib.suppress(SpoolError, OSError):
            ask()
    with contextlib.suppress(SpoolError, OSError):
        reader.count_after(0)
        reader.segments_below(2**62)
        reader.is_drained(2)
    SummaryReader(spool).read()
    for number in reader.segments():
        for whole in (False, True):
            inspect_segment(reader.path_of(number), number, alive=False, whole=whole)


def spool_in(folder: str) -> tuple[Path, Path]:
    """A spool of some records, small and large; its folder and its segment."""
    spool = Path(folder) / spools.spool_id(7)
    spool.mkdir()
    bodies = [hostile.step_body(number, loss=0.5, note="n" * (number * 40)) for number in range(30)]
    return spool, hostile.segment(spool, [*bodies, hostile.step_body(31, note="x" * 5000)])


@given(_EDITS)
@example(edits=[(9609, b"\x80")])  # of a kind, which is no text any more
def test_any_damage_to_a_segment(edits: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool, path = spool_in(folder)
        path.write_bytes(edited(path.read_bytes(), edits))
        read_all(spool)


@given(st.lists(st.tuples(_STRUCTURAL, st.binary(min_size=1, max_size=9)), max_size=4), _EDITS)
def test_any_damage_to_the_headers_of_a_segment(
    heads: list[tuple[int, bytes]], edits: list[tuple[int, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool, path = spool_in(folder)
        path.write_bytes(edited(path.read_bytes(), [*heads, *edits[:1]]))
        read_all(spool)


@given(_EDITS, st.integers(0, 60_000), st.binary(max_size=200))
def test_any_log_and_index(edits: list[tuple[int, bytes]], end: int, index: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory, writer = spools.fill(Path(folder), 20, close=False)
        path = next(directory.glob("*.sqlite"))
        copy = Path(folder) / spools.spool_id(7)
        copy.mkdir()
        (copy / path.name).write_bytes(path.read_bytes())
        log = Path(f"{path}-wal").read_bytes()
        (copy / f"{path.name}-wal").write_bytes(edited(log, edits)[: max(1, end)])
        if index:
            (copy / f"{path.name}-shm").write_bytes(index * 200)
        writer.close()
        read_all(copy)


@given(st.binary(max_size=300))
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x81" * 600)
def test_any_bytes_are_a_body_or_unreadable(raw: bytes) -> None:
    with contextlib.suppress(BodyUnreadable):
        assert isinstance(codec.unpack(raw), dict)


@given(st.binary(min_size=1, max_size=12), st.integers(1, 3))
def test_a_large_body_is_counted(unit: bytes, repeat: int) -> None:
    raw = (
        b"\x81\xa1a\xdd" + struct.pack(">I", 2**20 * repeat) + unit * (2**20 * repeat // len(unit))
    )
    with contextlib.suppress(BodyUnreadable):
        assert isinstance(codec.unpack(raw), dict)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "finish", "gap", "exit", "run", "other"]),
            st.one_of(
                st.binary(max_size=20),
                st.dictionaries(st.sampled_from(_NAMES), _VALUES).map(codec.pack),
            ),
        ),
        max_size=8,
    )
)
def test_any_record_is_taken_passed_or_refused(records: list[tuple[str, bytes]]) -> None:
    stored = [Stored(seq, kind, body) for seq, (kind, body) in enumerate(records, 1)]
    found = collect_steps(stored)
    told = [s for step in (*found.complete, *found.open) for s in step.seqs]
    told += [one.stored.seq for one in found.rejected] + [one.seq for one in found.skipped]
    told += found.gaps
    assert sorted(set(told)) == [one.seq for one in stored]
    cut_off(stored)
    for one in stored:
        gap = gap_of("s", one)
        assert gap is None or all(abs(n) < 2**63 for n in (gap.count, gap.first, gap.last))


@given(st.dictionaries(st.sampled_from(list(Identity.__annotations__)), _VALUES))
def test_any_map_is_an_identity_or_none(values: Mapping[str, Any]) -> None:
    with contextlib.suppress(TypeError):
        who = Identity.from_map(values)
        assert codec.unpack(codec.pack(who.to_map())) == who.to_map() or who.created != who.created


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(["retry-after", "date", "location", "content-type"]), st.text(max_size=30)
    ),
    st.one_of(
        st.binary(max_size=120),
        st.just(b'{"meta":{"code":2000},"data":{"count":1}}'),
        st.just(b'{"meta":{"code":NaN}}'),
        st.just(b'{"meta":' * 300),
        st.just(b"[" * 5000),
    ),
    st.integers(1, 9),
)
def test_any_answer_has_a_verdict(
    status: int, headers: dict[str, str], body: bytes, tries: int
) -> None:
    answer = Answer(status=status, headers=headers, body=body)
    for items in (None, 1):
        assert isinstance(classify(answer, items=items, tries=tries), Outcome)
    wait = retry_after(headers)
    assert wait is None or wait >= 0
    pods_in(answer)

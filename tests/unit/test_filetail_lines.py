"""Pieces of a log: whole lines, whole characters, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spooler.filetail.checkpoint import LogPosition
from spooler.filetail.lines import PIECE_BYTES, complete_lines, text

LONG = b"x" * PIECE_BYTES


@pytest.mark.parametrize(
    ("data", "ended", "impatient", "size"),
    [
        (b"", False, False, 0),
        (b"", True, True, 0),
        (b"one\n", False, False, 4),
        (b"one\ntw", False, False, 4),
        (b"one\ntw", False, True, 4),
        (b"one\ntw", True, False, 6),
        (b"part", False, False, 0),
        (b"part", False, True, 4),
        (b"part", True, False, 4),
        ("grö".encode()[:-1], False, True, 2),
        ("grö".encode()[:-1], True, False, 3),
        (b"\xff\xff", False, True, 2),
        (b"\xf0\x9f", False, True, 0),
        (LONG, False, False, PIECE_BYTES),
        (LONG[:-2] + b"\n" + b"y", False, False, PIECE_BYTES - 1),
        (LONG[:-2] + b"\n" + b"y", True, False, PIECE_BYTES - 1),
        (LONG[:-1] + b"\xc3", False, False, PIECE_BYTES - 1),
        (LONG[:-3] + b"\xf0\x9f\x98", True, False, PIECE_BYTES - 3),
    ],
)
def test_where_a_piece_ends(data: bytes, ended: bool, impatient: bool, size: int) -> None:
    assert complete_lines(data, ended=ended, impatient=impatient) == size


@settings(deadline=None)
@given(st.text(), st.data())
def test_text_cut_anywhere_is_the_same_text_in_pieces(whole: str, data: st.DataObject) -> None:
    rest, found = whole.encode("utf-8", "ignore"), ""
    expected = rest.decode()
    while rest:
        seen = rest[: data.draw(st.integers(1, len(rest)))]
        size = complete_lines(seen, ended=False, impatient=True)
        if not size and len(seen) == len(rest):
            break
        found += text(rest[:size])
        rest = rest[size:]
    assert found + rest.decode() == expected


def test_bytes_that_are_no_text_are_marked() -> None:
    assert text(b"a\xffb\n") == "a\ufffdb\n"


def test_a_position_goes_through_a_record_and_nothing_else_is_one() -> None:
    position = LogPosition(path="/l", device=1, inode=2, begin=3, end=4, head=5, tail=6)
    assert LogPosition.from_map(position.to_map()) == position
    assert LogPosition.from_map({**position.to_map(), "end": "4"}) is None
    assert LogPosition.from_map({"path": "/l"}) is None
    assert LogPosition.from_map(None) is None

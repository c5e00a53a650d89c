"""Anything that a user may log packs, comes back, and keeps every number a number."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spooler.errors import BodyUnreadable
from spooler.recorder import _pack
from spooler.records import step
from spooler.spool import codec

# How long one example takes says something about the machine only.
unhurried = settings(deadline=None)

TEXT = st.text(st.characters(), max_size=20)
FLOATS = st.floats(width=64)
# What msgpack holds as it is.
EXACT = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOATS | TEXT | st.binary()
ARRAYS = st.lists(FLOATS, max_size=40).map(np.array)
SCALARS = FLOATS.flatmap(
    lambda x: st.sampled_from([np.float64(x), np.array(x), np.array([[x]])])
) | st.integers(-(2**31), 2**31 - 1).flatmap(
    lambda n: st.sampled_from([np.int64(n), np.int32(n), np.array(n)])
)


class Odd:
    """A value of a class that nobody has heard of, which may raise wherever it is touched."""

    def __init__(self, error: type[Exception] | None) -> None:
        self.error = error

    dtype, shape = "odd", ()

    def item(self) -> Any:
        if self.error is not None:
            raise self.error("odd")
        return object()


ODD = st.sampled_from([None, KeyError, RuntimeError, OverflowError, Exception]).map(Odd)
ANY = EXACT | SCALARS | ARRAYS | ODD | st.integers() | st.complex_numbers() | st.dates()
HASHABLE = TEXT | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), TEXT)


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> Any:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=12,
    )


def same(left: Any, right: Any) -> bool:
    """Equal, with NaN equal to itself, True unlike 1 and tuples like lists."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and bool(left == right)


@unhurried
@given(st.dictionaries(TEXT, nested(EXACT, TEXT), max_size=5))
def test_what_msgpack_holds_comes_back_as_it_was(data: dict[str, Any]) -> None:
    assert same(codec.unpack(codec.pack(data)), data)
    assert same(codec.unpack(_pack(data)), data)


@pytest.mark.promise("G2")
@unhurried
@given(st.dictionaries(TEXT, nested(ANY, HASHABLE), max_size=5))
@example({"grid": {(1, "x"): 1}})
@example({"big": {2**100: 2**100}})
def test_anything_logged_packs_and_is_read_back_under_its_name(data: dict[str, Any]) -> None:
    body = step.encode(run="r", step=1, time=0.5, closed=True, data=data)
    read = codec.unpack(_pack(body))
    assert list(read["data"]) == list(data)
    assert {**read, "data": None} == {**body, "data": None}
    step.flatten(read["data"])


@unhurried
@given(TEXT, SCALARS | st.integers() | FLOATS, st.dictionaries(TEXT, ANY, max_size=3))
@example("loss", 0.5, {"odd": Odd(KeyError)})
@example("loss", 2**70, {"odd": Odd(Exception)})
def test_a_number_stays_its_number_whatever_is_logged_beside_it(
    name: str, number: Any, others: dict[str, Any]
) -> None:
    shown = codec.unpack(_pack({**others, name: number}))[name]
    if isinstance(number, int) and not -(2**63) <= number < 2**64:
        assert math.isclose(shown, float(number))
        return
    value = number.item() if isinstance(number, np.ndarray | np.generic) else number
    assert same(shown, value)


@pytest.mark.promise("G7")
@unhurried
@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_to_a_map_or_are_refused(raw: bytes) -> None:
    with contextlib.suppress(BodyUnreadable):
        assert isinstance(codec.unpack(raw), dict)


@pytest.mark.promise("G7")
@unhurried
@given(st.data(), st.dictionaries(TEXT, nested(EXACT, TEXT), max_size=3))
def test_a_changed_body_decodes_to_a_map_or_is_refused(
    draw: st.DataObject, data: dict[str, Any]
) -> None:
    raw = bytearray(codec.pack(data))
    at = draw.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= draw.draw(st.integers(1, 255))
    with contextlib.suppress(BodyUnreadable):
        assert isinstance(codec.unpack(bytes(raw)), dict)


@unhurried
@given(st.text(max_size=10), st.binary(max_size=50), st.integers(1, 2**62), st.integers(1, 2**62))
def test_the_checksum_is_a_function_of_all_three(
    kind: str, body: bytes, seq: int, other: int
) -> None:
    one = codec.checksum(kind, body, seq)
    assert 0 <= one < 2**32
    assert one == codec.checksum(kind, body, seq)
    if other != seq and (other ^ seq) < 2**32:
        assert one != codec.checksum(kind, body, other)

"""Bodies survive packing, whatever is not a body is refused, and a checksum sees every change."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgpack
import pytest

from spooler.errors import BodyUnreadable
from spooler.spool import codec


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"a": 1, "b": -1, "c": 2**64 - 1, "d": -(2**63)},
        {"a": 0.1, "b": 1e300, "c": float("inf"), "d": float("-inf")},
        {"a": "ü — 損失", "": None, "t": True, "f": False},
        {"deep": {"er": [{"and": ["more", []]}]}},
        {"raw": b"\x00\xff"},
        {2: "int key", 2.5: "float key", None: "no key", True: "bool key"},
    ],
    ids=lambda body: "-".join(str(key) for key in body) or "empty",
)
def test_a_body_comes_back_as_it_was(body: dict[Any, Any]) -> None:
    assert codec.unpack(codec.pack(body)) == body


def test_nan_comes_back_as_nan() -> None:
    value = codec.unpack(codec.pack({"loss": float("nan")}))["loss"]
    assert value != value


def test_a_lone_surrogate_survives() -> None:
    """Python gives such text for a file name or variable that is not UTF-8."""
    for name in ("a\udcffb", "plain", "\udc80"):
        for default in (None, str):
            assert codec.unpack(codec.pack({"name": name}, default)) == {"name": name}


def test_a_float_is_not_shortened() -> None:
    """Single precision would change the user's number."""
    assert codec.unpack(codec.pack({"x": 0.1}))["x"].hex() == (0.1).hex()


def test_default_is_asked_only_for_what_msgpack_does_not_know() -> None:
    asked = []

    def default(value: Any) -> Any:
        asked.append(value)
        return "turned"

    strange = object()
    packed = codec.pack({"a": 1, "b": strange, "c": [strange]}, default)
    assert codec.unpack(packed) == {"a": 1, "b": "turned", "c": ["turned"]}
    assert asked == [strange, strange]


def test_a_number_beyond_64_bits_is_given_to_default() -> None:
    assert codec.unpack(codec.pack({"n": 2**70}, float)) == {"n": 2.0**70}


class Empty(dict[str, Any]):
    """Says of itself that it is empty, and is not."""

    def __len__(self) -> int:
        return 0


def test_a_map_that_lies_about_its_length_is_not_packed() -> None:
    with pytest.raises(ValueError, match="fewer members"):
        codec.pack({"a": Empty(b=1)}, str)
    assert codec.unpack(codec.pack({"a": {"b": object()}}, lambda _: 7)) == {"a": {"b": 7}}


def test_what_changes_while_it_is_packed_is_not_packed() -> None:
    """As another thread may change it while `default` runs."""
    shrinking: list[Any] = [object(), 1, 2]
    with pytest.raises(ValueError, match="fewer members"):
        codec.pack({"list": shrinking}, lambda _: shrinking.pop())
    moving: dict[str, Any] = {"a": object(), "b": 1}

    def move(_: Any) -> int:
        moving["a"] = moving.pop("a") and 0
        return 0

    with pytest.raises((ValueError, RuntimeError)):
        codec.pack({"map": moving}, move)
    assert codec.unpack(codec.pack({"next": object()}, lambda _: 1)) == {"next": 1}


def test_what_cannot_be_packed_raises() -> None:
    with pytest.raises(TypeError):
        codec.pack({"a": object()})
    with pytest.raises(OverflowError):
        codec.pack({"a": 2**70})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",  # never used by msgpack
        b"\x81",  # a map of one pair that does not come
        codec.pack({"a": 1}) + b"\x00",  # bytes after the body
        msgpack.packb([1, 2]),
        msgpack.packb(7),
        msgpack.packb(None),
        msgpack.packb({"a": msgpack.ExtType(4, b"code")}),
        b"\x81\xa1a" + b"\x91" * 5000 + b"\x01",  # deeper than anybody nests
        b"\x81\xa1\xff\x01",  # a key that is not UTF-8
        b"\xdf\xff\xff\xff\xff",  # a map that claims four thousand million pairs
    ],
    ids=[
        "nothing",
        "no code of msgpack",
        "cut short",
        "trailing bytes",
        "a list",
        "a number",
        "nil",
        "an extension",
        "very deep",
        "bad text",
        "a huge map",
    ],
)
def test_what_is_no_body_is_refused_and_with_our_error_only(raw: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        codec.unpack(raw)


@pytest.mark.promise("G7")
def test_a_key_that_python_cannot_hash_costs_the_key_not_the_body() -> None:
    """Msgpack has no tuples: the key (1, 2) of a user's map comes back as a list."""
    raw = codec.pack({"data": {"grid": {(1, 2): 3.5, "x": 1}}})
    assert codec.unpack(raw) == {"data": {"grid": {"[1, 2]": 3.5, "x": 1}}}


def test_a_timestamp_of_msgpack_is_a_number() -> None:
    assert codec.unpack(codec.pack({"at": msgpack.Timestamp(3, 500_000_000)})) == {"at": 3.5}


def test_the_checksum_is_the_one_that_the_format_names() -> None:
    body, kind, seq = b"\x81\xa1n\x01", "step", 7
    expected = zlib.crc32(kind.encode() + b"\0" + body + struct.pack(">Q", seq))
    assert codec.checksum(kind, body, seq) == expected
    assert codec.checksum(kind, body, seq) == expected, "the kept prefix gives the same"


def test_the_checksum_of_a_known_record_never_changes() -> None:
    assert codec.checksum("step", b"\x80", 1) == 0x62798079


@pytest.mark.promise("G7")
def test_every_flipped_bit_changes_the_checksum() -> None:
    body = codec.pack({"loss": 0.25})
    right = codec.checksum("step", body, 3)
    for bit in range(len(body) * 8):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        assert codec.checksum("step", bytes(changed), 3) != right
    assert codec.checksum("stop", body, 3) != right
    assert codec.checksum("step", body, 4) != right


def test_kind_and_body_cannot_be_shifted_into_each_other() -> None:
    assert codec.checksum("ab", b"c", 1) != codec.checksum("a", b"bc", 1)


def test_the_number_of_kept_prefixes_is_bounded() -> None:
    """A damaged file may hold any number of different kinds."""
    before = dict(codec._prefixes)
    try:
        for number in range(1000):
            codec.checksum(f"kind-{number}", b"", 1)
        assert len(codec._prefixes) <= 256
    finally:
        codec._prefixes.clear()
        codec._prefixes.update(before)

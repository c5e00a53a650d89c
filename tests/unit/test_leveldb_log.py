"""Framing: records come out as they went in; what is broken is told from what is not there yet."""

from __future__ import annotations

import io
import itertools
import random

import pytest

from shipper.importers.wandb_datastore import (
    BLOCK,
    HEAD,
    CorruptEntry,
    LogEntry,
    LogOffset,
    entries,
)
from tests.kit.foreign import fragment, framed, log

BEGIN = 7


def read(raw: bytes, place: LogOffset | None = None) -> list[LogEntry | CorruptEntry]:
    return list(entries(io.BytesIO(raw), place or LogOffset(offset=BEGIN)))


def whole(found: list[LogEntry | CorruptEntry]) -> list[bytes]:
    return [entry.data for entry in found if isinstance(entry, LogEntry)]


def broken(found: list[LogEntry | CorruptEntry]) -> list[int]:
    return [entry.start for entry in found if isinstance(entry, CorruptEntry)]


def bodies(*sizes: int) -> list[bytes]:
    """Records without a zero byte, each of another content."""
    return [bytes(1 + (n * 7 + i) % 255 for i in range(size)) for n, size in enumerate(sizes)]


def starts(records: list[bytes]) -> list[int]:
    """Where each record's frame begins, and where the file ends."""
    return [len(log(records[:count])) for count in range(len(records) + 1)]


ROOM = BLOCK - BEGIN  # in the first block


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1, 2, 3],
        [ROOM - HEAD.size],  # fills the block
        [ROOM - HEAD.size - 1, 5],  # leaves one byte
        [ROOM - HEAD.size - 6, 5],  # leaves six, too few for a head
        [ROOM - HEAD.size - 7, 5],  # leaves a head without data
        [ROOM - HEAD.size - 8, 5],
        [ROOM, 5],
        [3 * BLOCK, 1, 5 * BLOCK + 11, 0],
        [100] * 1000,
    ],
)
def test_records_come_out_as_they_went_in(sizes: list[int]) -> None:
    records = bodies(*sizes)
    found = read(log(records))
    assert whole(found) == records
    assert [entry.then.offset for entry in found] == starts(records)[1:]


def test_reading_goes_on_from_any_place() -> None:
    records = bodies(10, BLOCK, 300, 2 * BLOCK, 5)
    raw = log(records)
    found = read(raw)
    for number, entry in enumerate(found):
        assert read(raw, entry.then) == found[number + 1 :]


def test_a_file_cut_anywhere_gives_whole_records_and_no_damage() -> None:
    records = bodies(30, 500, BLOCK, 700, BLOCK + 300, 9)
    raw, ends = log(records), starts(records)[1:]
    near = {edge + d for edge in [*ends, BLOCK, 2 * BLOCK] for d in range(-9, 10)}
    for end in sorted({*near, *range(0, len(raw), 211)} & set(range(len(raw) + 1))):
        found = read(raw[:end])
        assert whole(found) == records[: sum(e <= end for e in ends)]
        assert broken(found) == []


@pytest.mark.parametrize("zeros", [1, 6, 7, 100, BLOCK, 3 * BLOCK + 5])
def test_zeros_up_to_the_end_are_the_end(zeros: int) -> None:
    records = bodies(30, 500)
    assert read(log(records) + bytes(zeros)) == read(log(records))


def test_a_record_of_which_the_end_was_never_written_is_the_end() -> None:
    """A file system has made the file longer than what it had stored."""
    records = bodies(30, 500)
    cut = len(log(records)) - 100
    found = read(log(records)[:cut] + bytes(5000))
    assert whole(found) == records[:1]
    assert broken(found) == []


def test_zeros_between_records_are_damage() -> None:
    records = [b"%0100d" % number for number in range(2000)]
    raw = bytearray(log(records))
    raw[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    found = read(bytes(raw))
    lost = [i for i, record in enumerate(records) if record not in set(whole(found))]
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert len(broken(found)) == 1
    assert (lost[-1] - lost[0]) * 107 <= BLOCK + 2 * 107


@pytest.mark.parametrize("bit", range(8))
def test_a_bit_flip_costs_one_record_and_is_reported(bit: int) -> None:
    records = bodies(20, 0, 33, 1, 40, 12)
    raw, begins = log(records), starts(records)
    for offset in range(BEGIN, begins[-2]):
        flipped = bytearray(raw)
        flipped[offset] ^= 1 << bit
        hit = max(i for i, begin in enumerate(begins) if begin <= offset)
        found = read(bytes(flipped))
        assert whole(found) == records[:hit] + records[hit + 1 :]
        assert broken(found) == [begins[hit]]


def test_a_flip_in_any_part_of_a_long_record_costs_that_record() -> None:
    records = bodies(50, 3 * BLOCK, 60)
    raw, begins = log(records), starts(records)
    for offset in (begins[1] + 1, begins[1] + 4, BLOCK + 5, BLOCK + 6, 2 * BLOCK, 3 * BLOCK + 2):
        flipped = bytearray(raw)
        flipped[offset] ^= 2
        found = read(bytes(flipped))
        assert whole(found) == [records[0], records[2]]
        assert broken(found) == [begins[1]]


def test_the_last_record_with_a_wrong_checksum_is_reported() -> None:
    records = bodies(20, 30)
    raw = bytearray(log(records))
    raw[-1] ^= 1
    assert broken(read(bytes(raw))) == [starts(records)[1]]


def test_two_broken_records_apart_are_two() -> None:
    records = bodies(20, 30, 40, 50, 60)
    raw, begins = bytearray(log(records)), starts(records)
    raw[begins[1] + 9] ^= 1
    raw[begins[3] + 9] ^= 1
    found = read(bytes(raw))
    assert whole(found) == records[::2]
    assert broken(found) == [begins[1], begins[3]]


@pytest.mark.parametrize(
    ("kinds", "expected", "lost"),
    [
        ([1, 4, 1], [b"0", b"2"], 1),  # an end without its beginning
        ([1, 3, 3, 4, 1], [b"0", b"4"], 1),
        ([1, 2, 1], [b"0", b"2"], 1),  # a beginning without its end
        ([2, 3, 2, 4], [b"23"], 1),
        ([2, 2, 4, 4, 1], [b"12", b"4"], 2),
        ([2, 3], [], 0),  # may be going on
    ],
)
def test_parts_that_do_not_belong_together(
    kinds: list[int], expected: list[bytes], lost: int
) -> None:
    parts = [fragment(str(n).encode(), kind) for n, kind in enumerate(kinds)]
    found = read(bytes(BEGIN) + b"".join(parts))
    assert whole(found) == expected
    assert len(broken(found)) == lost


def test_what_is_told_about_a_place_stays_when_the_file_grows() -> None:
    """Also where it is damaged: the numbers of later records hang on it."""
    records = bodies(20, 30, BLOCK, 40, 50)
    raw, begins = bytearray(log(records)), starts(records)
    raw[begins[1] + 4] ^= 0x40  # a length
    raw[begins[3] + 8] ^= 1
    final = [(type(entry), entry.start) for entry in read(bytes(raw))]
    place, seen = LogOffset(offset=BEGIN), []
    for end in [*range(BEGIN, 300), *range(300, len(raw), 997), len(raw)]:
        for entry in read(bytes(raw[:end]), place):
            seen.append((type(entry), entry.start))
            place = entry.then
        assert [(type(entry), entry.start) for entry in read(bytes(raw[:end]))] == seen
    assert seen == final


def test_noise_has_no_records() -> None:
    noise = random.Random(7).randbytes(3 * BLOCK)
    found = read(log([b"first"]) + noise)
    assert whole(found) == [b"first"]
    assert len(broken(found)) == 1


def test_frames_of_the_builder_agree_with_the_rule_for_trailers() -> None:
    for left in range(HEAD.size):
        made = framed(b"abc", BLOCK - left)
        assert made[:left] == bytes(left)
        assert made[left:] == fragment(b"abc", 1)
    assert all(one != other for one, other in itertools.pairwise(bodies(5, 5, 5)))

"""What records take in memory is bounded, whatever they decode to and whoever else has some."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import msgpack
import pytest

from shipper.delivery.large import READ_BYTES, SENT_AT_ONCE, LargeRecordBusy, LargeRecordPlace
from shipper.delivery.large import LargeRecords as Shared
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.ledger.ledger import Ledger
from shipper.sinks import Batch
from shipper.sinks.outcome import Outcome
from spooler.errors import BodyTooLarge, BodyUnreadable
from spooler.records import step as step_record
from spooler.spool import codec, source
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.shipping import DELIVERED, Clock, OwnedReader, ScriptedSink, config, spool, step
from tests.kit.spools import identity

COUNT = 20_000
MANY: dict[str, Any] = {
    "numbers by name": {f"metric/{n:07d}": n + 0.5 for n in range(COUNT)},
    "numbers by number": {n + 300: 0 for n in range(COUNT)},
    "maps": {"x": [{"a": 1}] * COUNT},
    "empty maps": {"x": [{}] * COUNT},
    "lists": {"x": [[1]] * COUNT},
    "short texts": {"x": ["ab"] * COUNT},
    "wide texts": {"x": ["ab\U0001f600"] * COUNT},
    "one wide text": {"x": "\U0001f600" + "a" * 10 * COUNT},
    "times": {"x": [msgpack.Timestamp(3, 5)] * COUNT},
    "large numbers": {"x": [2**63 + 5] * COUNT},
    "bytes": {"x": [b"\xff\xfe"] * COUNT},
}


@pytest.mark.parametrize("kind", MANY)
def test_a_body_is_measured_without_being_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "DECODED_BYTES", 2**40)
    body = msgpack.packb(MANY[kind])
    tracemalloc.start()
    measured = codec.decoded_bytes(body)
    while_measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = _size(codec.unpack(body), set())
    assert while_measured < 2 * 1024 * 1024, "one text at a time"
    assert 0.7 * size < measured < 4 * size


def _size(value: Any, seen: set[int]) -> int:
    """Bytes of a value and its members, each once.

    Not as traced: a name may make the interpreter's table of all names grow.
    """
    if id(value) in seen:
        return 0
    seen.add(id(value))
    pairs = value.items() if isinstance(value, dict) else ()
    members = chain.from_iterable(pairs) if pairs else value if isinstance(value, list) else ()
    return sys.getsizeof(value) + sum(_size(one, seen) for one in members)


_KEYS = b"".join(b"\xce%b\xc0" % struct.pack(">I", n) for n in range(3_000_000))


@pytest.mark.parametrize(
    "value",
    [
        b"\xdd" + struct.pack(">I", 6_000_000) + b"\x80" * 6_000_000,
        b"\xdf" + struct.pack(">I", 3_000_000) + _KEYS,
        b"\xdd\x00\x7f\xff\xff" * 500,  # each claims eight million members
        b"\xc9" + struct.pack(">I", 4) + b"\xff" + bytes(4) + b"\x91" * 9_000_000,
    ],
    ids=["maps in a list", "numbers by number", "claims", "behind an extension"],
)
def test_what_would_take_too_much_is_refused_before_it_does(value: bytes) -> None:
    body = b"\x81\xa4data" + value
    body += b"\xc0" * (codec._MEASURED_BYTES - len(body))
    tracemalloc.start()
    with pytest.raises(BodyUnreadable):
        codec.unpack(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < codec.DECODED_BYTES


def test_names_of_nested_maps_that_repeat_each_other_are_refused() -> None:
    """Each of a million values deep inside would get the names of all maps around it."""
    inside: dict[str, Any] = {str(n): 0 for n in range(1000)}
    data = {"a" * 1000: {"b" * 100_000: inside}}
    with pytest.raises(BodyTooLarge):
        step_record.flatten(data)
    assert step_record.flatten({"a": {"b": {"c": 1}}}) == {"a.b.c": 1}


# --- read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False], ids=["sealed", "in its log"])
def test_a_large_record_is_only_read_when_asked_for(tmp_path: Path, closed: bool) -> None:
    directory, writer = spools.fill(tmp_path, 3, close=False)
    writer.append("step", b"\x91" * 3_000_000)
    writer.append("step", b"short")
    writer.append("step", b"\x92" * 2_000_000)
    writer.maintain()
    if closed:
        writer.close()
    reader, seen, large = Reader(directory), list[int](), list[int]()
    after, at_end = 0, False
    while not at_end:
        chunk = reader.read(after, 500, most=READ_BYTES)
        if chunk.large:
            assert (chunk.records, chunk.through, chunk.at_end) == ((), after, False)
            chunk = reader.read(after, 1)
            large += [len(record.body) for record in chunk.records]
        assert chunk.damage == ()
        seen += [record.seq for record in chunk.records]
        after, at_end = chunk.through, chunk.at_end
    assert seen == [1, 2, 3, 4, 5, 6]
    assert large == [3_000_000, 2_000_000]
    if not closed:
        writer.close()


@pytest.mark.parametrize("closed", [True, False], ids=["sealed", "in its log"])
def test_where_a_spool_begins_and_ends_is_found_without_its_bodies(
    tmp_path: Path, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SECONDS", spools.PATIENCE_SECONDS)  # traced, it takes long
    directory, writer = spools.fill(tmp_path, 0, close=False)
    writer.append("step", b"\x91" * 12_000_000)  # one for each segment, which it fills
    writer.maintain()
    writer.append("step", b"\x92" * 12_000_000)
    if closed:
        writer.close()
    tracemalloc.start()
    reader = Reader(directory)
    assert (reader.first_seq(), reader.last_seq()) == (1, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    if not closed:
        writer.close()


def test_records_of_several_segments_are_together_no_more_than_asked(tmp_path: Path) -> None:
    directory, writer = spools.fill(tmp_path, 0, segment_bytes=1, close=False)
    for _ in range(6):
        writer.append("step", b"\x91" * 200_000)
    reader, sizes, after, at_end = Reader(directory), list[int](), 0, False
    while not at_end:
        chunk = reader.read(after, 500, most=READ_BYTES)
        sizes.append(sum(len(record.body) for record in chunk.records))
        after, at_end = chunk.through, chunk.at_end
    assert sum(sizes) == 6 * 200_000
    assert max(sizes) <= READ_BYTES
    writer.close()


# --- sent -----------------------------------------------------------------------------------------


def test_one_large_record_is_read_and_few_are_sent_at_a_time() -> None:
    shared = Shared()
    places = [LargeRecordPlace(shared) for _ in range(SENT_AT_ONCE + 1)]
    places[0].take()
    with pytest.raises(LargeRecordBusy):
        places[1].take()
    for place in places[:-1]:
        place.take()
        place.is_read()
    with pytest.raises(LargeRecordBusy):
        places[-1].take()
    places[0].release()
    places[-1].take()


def test_a_large_record_waits_for_others_and_holds_up_no_small_one(tmp_path: Path) -> None:
    """Receivers that do not answer hold the places; what is small does not need one."""
    settings, clock = config(tmp_path), Clock()
    with closing(Ledger(settings.state)) as ledger:
        context = DeliveryContext(ledger=ledger, config=settings)
        large = step(1, text="x" * 1_000_000)
        pipelines = []
        for number in range(SENT_AT_ONCE + 2):
            who = identity(spools.spool_id(number), workload_uid=str(number))
            records = [step(1) if number > SENT_AT_ONCE else large]
            directory, _ = spool(tmp_path / "spool", records, who=who)
            sink, reader = ScriptedSink(settings), OwnedReader(directory)
            pipeline = Pipeline(reader=reader, identity=who, sink=sink, context=context)
            pipelines.append((pipeline, sink))

        def turn(number: int) -> Any:
            pipeline = pipelines[number][0]
            return pipeline.turn(now=clock, until=clock.now + 9, owned=False, flush_all=True)

        def nested(number: int) -> None:
            """While the request of one is on its way, the next one has its turn."""

            def judge(batch: Batch, tries: int) -> Outcome:
                if number < SENT_AT_ONCE - 1:
                    nested(number + 1)
                else:
                    waiting = turn(SENT_AT_ONCE)
                    assert waiting.wait is not None
                    assert not waiting.at_end
                    assert turn(SENT_AT_ONCE + 1).at_end, "a small one goes"
                return DELIVERED

            pipelines[number][1].judge = judge
            assert turn(number).at_end

        nested(0)
        assert turn(SENT_AT_ONCE).at_end, "its place is free now"


def test_a_body_that_is_too_large_is_a_dead_letter_and_the_next_record_goes(
    tmp_path: Path,
) -> None:
    settings, clock = config(tmp_path), Clock()
    with closing(Ledger(settings.state)) as ledger:
        large = step(1, **{f"m{n}": n for n in range(200_000)})
        directory, _ = spool(tmp_path / "spool", [step(0), large, step(2)])
        sink = ScriptedSink(settings)
        context = DeliveryContext(ledger=ledger, config=settings)
        who = Reader(directory).identity()
        pipeline = Pipeline(reader=OwnedReader(directory), identity=who, sink=sink, context=context)
        result = pipeline.turn(now=clock, until=clock.now + 99, owned=False, flush_all=True)
        assert result.at_end
        (letter,) = ledger.dead_letters()
        assert (letter["seq"], letter["reason"]) == (2, "too-large")
        assert pipeline.position.seq == 3

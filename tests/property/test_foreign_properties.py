"""Whatever a foreign file holds: no foreign exception, no number twice, the same at any pace."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shipper.importers import ImportSource, SourceInfo
from shipper.importers.exporter_jsonl import MARKER, ExporterFile
from shipper.importers.scan import APART_SECONDS
from shipper.importers.wandb_run import WandbFile
from shipper.protobuf import MalformedMessage, fields
from spooler.errors import SpoolError
from tests.kit.foreign import (
    WANDB_HEADER,
    framed,
    history,
    is_same,
    log,
    put,
    read_all,
    run_record,
    steps,
)

PIECES = st.one_of(
    st.binary(max_size=60),
    st.just(history(3, loss=0.5)),
    st.just(run_record()),
    st.binary(max_size=40).map(lambda raw: put(2, raw)),
    st.binary(max_size=40).map(lambda raw: put(17, raw)),
    st.binary(max_size=40).map(lambda raw: put(18, raw)),
    st.binary(max_size=40).map(lambda raw: put(2, put(1, raw))),
)
LINES = st.one_of(
    st.binary(max_size=60),
    st.just(b'{"timestamp": 1.0, "step": 3, "data": {"x": 1}}'),
    st.just(b'{"timestamp": 1.0, "step": null, "data": {}}'),
    st.just(b'{"timestamp": NaN, "step": 1e400, "da'),
    st.just(b'{"timestamp": 1.0, "step": 3, "data": {}} {"timestamp": 1.0, "data": {}}{"'),
    st.binary(max_size=5).map(lambda raw: b'{"timestamp": 1.0, "data": {}}' + raw),
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(), st.none(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def agrees(source: ImportSource, raw: bytes, pace: int) -> None:
    """Reading at any pace, in one go or anew, tells the same; only our errors are raised."""
    source.path.write_bytes(raw)
    try:
        found = read_all(source, limit=pace)
    except SpoolError:
        return
    assert read_all(type(source)(source.path, SourceInfo()), limit=500) == found  # type: ignore[call-arg]
    assert source.last_seq() == found.through
    middle = found.through // 2
    assert [r for r in found.records if r.seq > middle] == list(
        read_all(source, after=middle).records
    )


def in_folder(name: str, kind: Any, raw: bytes, pace: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agrees(kind(Path(folder, name), SourceInfo()), raw, pace)


@given(st.binary(max_size=300), st.integers(1, 9))
def test_any_bytes(raw: bytes, pace: int) -> None:
    in_folder("wandb_metrics.jsonl", ExporterFile, raw, pace)
    in_folder("run-r.wandb", WandbFile, raw, pace)
    in_folder("run-r.wandb", WandbFile, WANDB_HEADER + raw, pace)


@given(st.lists(PIECES, max_size=8), st.integers(1, 9))
def test_any_records(records: list[bytes], pace: int) -> None:
    in_folder("run-r.wandb", WandbFile, log(records), pace)


@given(st.lists(PIECES, max_size=6), st.data())
def test_any_damage_to_a_log(records: list[bytes], data: st.DataObject) -> None:
    raw = bytearray(log(records))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(raw)))
    in_folder("run-r.wandb", WandbFile, bytes(raw[:end]), 3)


@given(st.lists(PIECES, max_size=6), st.data())
def test_numbers_stay_when_a_damaged_log_grows(records: list[bytes], data: st.DataObject) -> None:
    raw = bytearray(log(records))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    raw += framed(history(9), len(raw))
    grows(WandbFile, "run-r.wandb", bytes(raw), data)


@given(st.lists(LINES, max_size=6), st.data())
def test_numbers_stay_when_a_damaged_file_of_lines_grows(
    lines: list[bytes], data: st.DataObject
) -> None:
    grows(ExporterFile, "wandb_metrics.jsonl", b"\n".join(lines) + b"\n", data)


def grows(kind: Any, name: str, raw: bytes, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        source = kind(path, SourceInfo())
        position, records, damage = 0, list[Any](), list[Any]()
        ends = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
        for end in [*ends, len(raw)]:
            path.write_bytes(raw[:end])
            try:
                found = read_all(source, after=position)
            except SpoolError:
                return
            records += found.records
            damage += found.damage
            position = found.through
        fresh = read_all(kind(path, SourceInfo()))
        assert records == list(fresh.records)
        assert [d.first for d in damage] == [d.first for d in fresh.damage]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-(2**63), 2**62)),
            st.floats(0, 1e10),
            st.dictionaries(st.text().filter(lambda name: name != MARKER), VALUES, max_size=4),
        ),
        max_size=6,
    )
)
def test_what_the_exporter_writes_comes_back(
    calls: list[tuple[Any, float, dict[str, Any]]],
) -> None:
    text = "".join(
        json.dumps({"timestamp": time, "step": step, "data": data}) + "\n"
        for step, time, data in calls
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "wandb_metrics.jsonl")
        path.write_text(text, "utf-8")
        found = read_all(ExporterFile(path, SourceInfo()))
    assert found.damage == ()
    times = [body["time"] for body in found.bodies("step")]
    for number, (_, time, _) in enumerate(calls):
        near = number and times[number] == times[number - 1] + APART_SECONDS
        assert times[number] == time or near
    for (number, read), (step, _, data) in zip(steps(found), calls, strict=True):
        assert step in (None, number)
        assert is_same(read, data)


@given(st.dictionaries(st.text(min_size=1).filter(lambda n: n[0] != "_"), NUMBERS, max_size=5))
def test_what_wandb_writes_comes_back(data: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run-r.wandb")
        path.write_bytes(log([history(4, **data)]))
        ((number, read),) = steps(read_all(WandbFile(path, SourceInfo())))
    kept = {name: read[name] for name, value in data.items() if not isinstance(value, int)}
    assert number == 4
    assert list(read) == list(data)
    assert is_same(kept, {name: data[name] for name in kept})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(raw: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        assert all(number > 0 for number, _ in fields(raw))

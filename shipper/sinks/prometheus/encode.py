"""The wire contract of Prometheus remote write 1.0. Pure.

`WriteRequest{1 TimeSeries{1 Label{1 name, 2 value}, 2 Sample{1 double, 2 int64 milliseconds}}}` as
one block of snappy. The labels of a series are sorted by name and not empty, its samples by time.
Names are those that Prometheus itself gives to the same series when they come over OTLP.

Snappy only frames here and does not compress: a block may consist of literals alone, which every
reader takes. It needs no library.
"""

from __future__ import annotations

import operator
import re
import struct
from collections.abc import Mapping
from functools import lru_cache

from shipper.protobuf import field, repeated, varint
from shipper.sinks.grouping import each
from shipper.sinks.timeseries.series import (
    CACHED,
    ItemBlock,
    Items,
    SeriesKey,
    instance,
    service_name,
)
from spooler.spool.identity import Identity

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
_SAMPLE = struct.Struct("<Bd")
_VALUE = 1 << 3 | 1
_LITERAL = 65536  # bytes of one literal, at most
_SHORT = 60  # bytes of one whose length is in its tag
_length = lru_cache(maxsize=4096)(varint)


def write_request(items: Items, labels: Mapping[str, str]) -> bytes:
    """All points of the items, by series; `labels` are those that all of them have."""
    times = [time for item in items for time in item.times]
    in_order = all(map(operator.lt, times, times[1:]))
    samples: dict[SeriesKey, list[tuple[int, float]]] = {}
    parts: dict[SeriesKey, list[bytes]] = {}
    for item in items if in_order else each(items):
        if isinstance(item, ItemBlock):
            _add_block(parts, item)
            continue
        for one, value in item.points:
            if in_order:
                parts.setdefault(one, []).append(_sample(item.time, value))
            else:
                samples.setdefault(one, []).append((item.time, value))
    for one, unsorted in samples.items():
        parts[one] = [_sample(*sample) for sample in sorted(unsorted)]
    common = tuple(sorted(labels.items()))
    return b"".join(
        field(1, _labels(one, common) + b"".join(encoded)) for one, encoded in parts.items()
    )


def _add_block(parts: dict[SeriesKey, list[bytes]], block: ItemBlock) -> None:
    """The samples of a block, which have the same form: their times take as many bytes."""
    count = len(block.seqs)
    times = b"".join(map(varint, block.times))
    pattern = _sample(block.times[0], 0.0)
    at = len(pattern) - len(times) // count - 1
    for series, column in zip(block.series, block.columns, strict=True):
        values = struct.pack(f"<{count}d", *column)
        encoded = repeated(pattern, {at - 8: values, at + 1: times}, count)
        parts.setdefault(series, []).append(encoded)


def process_labels(identity: Identity, run: str, given_name: str) -> dict[str, str]:
    """The labels of all series of a process."""
    labels = {
        "job": service_name(identity, given_name),
        "instance": instance(identity, run),
        "namespace": identity.namespace,
        "pod": identity.pod_name,
        "node": identity.node_name,
    }
    return {name: value for name, value in labels.items() if value}


def snappy(data: bytes) -> bytes:
    """A block of snappy that is made of literals."""
    parts = [varint(len(data))]
    for at in range(0, len(data), _LITERAL):
        piece = data[at : at + _LITERAL]
        rest = len(piece) - 1
        short = rest < _SHORT  # which readers in Rust ask for
        parts += (bytes([rest << 2]) if short else b"\xf4" + rest.to_bytes(2, "little"), piece)
    return b"".join(parts)


@lru_cache(maxsize=CACHED)
def _labels(series: SeriesKey, common: tuple[tuple[str, str], ...]) -> bytes:
    name = _NOT_IN_NAMES.sub("_", series.name)
    known = dict(common)
    known["__name__"] = f"_{name}" if name[:1].isdigit() else name
    known.update((_NOT_IN_LABELS.sub("_", key), value) for key, value in series.labels)
    pairs = sorted((key.encode(), _bytes(value)) for key, value in known.items() if value)
    return b"".join(field(1, field(1, key) + field(2, value)) for key, value in pairs)


def _sample(time: int, value: float) -> bytes:
    body = _SAMPLE.pack(_VALUE, value) + b"\x10" + varint(time)
    return b"\x12" + _length(len(body)) + body


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")

"""The wire contract of Prometheus remote write 1.0. Pure.

`WriteRequest{1 TimeSeries{1 Label{1 name, 2 value}, 2 Sample{1 double, 2 int64 milliseconds}}}` as
one block of snappy. The labels of a series are sorted by name and not empty, its samples by time.
Names are those that Prometheus itself gives to the same series when they come over OTLP.

Snappy only frames here and does not compress: a block may consist of literals alone, which every
reader takes. It needs no library.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

from shipper.protobuf import field, varint
from shipper.sinks.timeseries.series import CACHED, Item, SeriesKey, instance, service_name
from spooler.spool.identity import Identity

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
_SAMPLE = struct.Struct("<Bd")
_VALUE = 1 << 3 | 1
_LITERAL = 65536  # bytes of one literal, at most
_SHORT = 60  # bytes of one whose length is in its tag
_length = lru_cache(maxsize=4096)(varint)


def write_request(items: Iterable[Item], labels: Mapping[str, str]) -> bytes:
    """All points of the items, by series; `labels` are those that all of them have."""
    series: dict[SeriesKey, list[tuple[int, float]]] = {}
    for item in items:
        for one, value in item.points:
            series.setdefault(one, []).append((item.time, value))
    common = tuple(sorted(labels.items()))
    return b"".join(
        field(1, _labels(one, common) + b"".join(_sample(*sample) for sample in sorted(samples)))
        for one, samples in series.items()
    )


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

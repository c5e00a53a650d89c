"""The wire contract of OTLP over HTTP, as far as it is sent. Pure.

Metrics are gauges, and every point is one of a request::

    ExportMetricsServiceRequest{1 ResourceMetrics{1 Resource{1 KeyValue}, 2 ScopeMetrics}}
    ScopeMetrics{1 scope, 2 Metric}
    Metric{1 name, 5 gauge{1 NumberDataPoint}}   scope{1 name, 2 version}
    NumberDataPoint{3 time_unix_nano fixed64, 4 as_double, 6 as_int sfixed64, 7 KeyValue}
    KeyValue{1 key, 2 AnyValue{1 string, 3 int}}
    ExportLogsServiceRequest{1 ResourceLogs{1 Resource, 2 ScopeLogs{1 scope, 2 LogRecord}}}
    LogRecord{1 time fixed64, 2 severity_number, 3 severity_text, 5 body AnyValue, 6 KeyValue,
              11 observed fixed64, 12 event_name}
    Export…ServiceResponse{1 partial_success{1 rejected int64, 2 error_message}}

The unit stays empty: Prometheus appends one to the name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

from shipper import protobuf
from shipper.protobuf import field, varint
from shipper.sinks.grouping import each
from shipper.sinks.timeseries.series import (
    CACHED,
    ERROR,
    FATAL,
    INFO,
    WARN,
    Item,
    ItemBlock,
    Labels,
    Log,
    instance,
    otel_attributes,
    service_name,
)
from spooler.spool.identity import Identity

_FIXED = struct.Struct("<BQ")  # a tag and an unsigned integer
_DOUBLE = struct.Struct("<Bd")
_SIGNED = struct.Struct("<Bq")
_TIME, _AS_DOUBLE, _AS_INT = 3 << 3 | 1, 4 << 3 | 1, 6 << 3 | 1
_LOG_TIME, _OBSERVED = 1 << 3 | 1, 11 << 3 | 1
_NANOSECONDS = 10**6  # in a millisecond
_SEVERITIES = {INFO: b"INFO", WARN: b"WARN", ERROR: b"ERROR", FATAL: b"FATAL"}
_length = lru_cache(maxsize=4096)(varint)


def metrics_request(
    items: Iterable[Item | ItemBlock], resource: bytes, scope: bytes, *, step_attribute: bool
) -> bytes:
    """All points of the items, by metric."""
    metrics: dict[str, list[bytes]] = {}
    for item in each(items) if step_attribute else items:
        if isinstance(item, ItemBlock):
            _add_block(metrics, item)
            continue
        time = _FIXED.pack(_TIME, item.time * _NANOSECONDS)
        step = b""
        if step_attribute and item.step is not None:
            step = field(7, _pair("step", item.step))
        for series, value in item.points:
            whole = type(value) is int
            number = _SIGNED.pack(_AS_INT, value) if whole else _DOUBLE.pack(_AS_DOUBLE, value)
            if item.other_steps and step:
                step = field(7, _pair("step", item.other_steps.get(series, item.step or 0)))
            point = b"%b%b%b%b" % (time, number, _attributes(series.labels), step)
            parts = metrics.setdefault(series.name, [])
            parts += (b"\x0a", _length(len(point)), point)
    body = b"".join(
        field(2, field(1, name.encode()) + field(5, b"".join(parts)))
        for name, parts in metrics.items()
    )
    return field(1, resource + field(2, scope + body))


def _add_block(metrics: dict[str, list[bytes]], block: ItemBlock) -> None:
    """The points of a block, which have the same form within a series."""
    count = len(block.seqs)
    times = struct.pack(f"<{count}Q", *(time * _NANOSECONDS for time in block.times))
    numbers = zip(block.series, block.columns, strict=True)
    for place, (series, column) in enumerate(numbers):
        own = place < block.own
        values = struct.pack(f"<{count}{'d' if own else 'q'}", *column)
        tag, attributes = _AS_DOUBLE if own else _AS_INT, _attributes(series.labels)
        point = _FIXED.pack(_TIME, 0) + _FIXED.pack(tag, 0) + attributes
        pattern = field(1, point)
        at = len(pattern) - len(point) + 1
        metrics.setdefault(series.name, []).append(
            protobuf.repeated(pattern, {at: times, at + 9: values}, count)
        )


def logs_request(items: Iterable[Item | ItemBlock], resource: bytes, scope: bytes) -> bytes:
    """All log records of the items."""
    records = b"".join(field(2, _log(log)) for item in each(items) for log in item.logs)
    return field(1, resource + field(2, scope + records))


def scope(version: str) -> bytes:
    """What made the data, as a field of `ScopeMetrics` and `ScopeLogs`."""
    return field(1, field(1, b"lens-ship") + field(2, version.encode()))


def resource(identity: Identity, run: str, given_name: str) -> bytes:
    """The process that logged, as a field of `ResourceMetrics` and `ResourceLogs`."""
    attributes = resource_attributes(identity, run, given_name)
    return field(1, b"".join(field(1, _pair(key, value)) for key, value in attributes.items()))


def resource_attributes(identity: Identity, run: str, given_name: str) -> Mapping[str, str | int]:
    """Few and the same after a restart: VictoriaMetrics makes a label of each."""
    known: dict[str, str | int | None] = {
        "service.name": service_name(identity, given_name),
        "service.instance.id": instance(identity, run),
        "host.name": identity.host,
        "k8s.pod.uid": identity.pod_uid,
        "k8s.pod.name": identity.pod_name,
        "k8s.namespace.name": identity.namespace,
        "k8s.node.name": identity.node_name,
        "dl.rank": identity.rank,
        "dl.local_rank": identity.local_rank,
        "dl.world_size": identity.world_size,
        "slurm.job.id": identity.slurm_job_id,
        "lens.workload.uid": identity.workload_uid,
    }
    ours = {key: value for key, value in known.items() if value not in ("", None)}
    return {**otel_attributes(identity), **ours}


def rejected(body: bytes) -> tuple[int, str]:
    """How many points or log records of a request that it took a receiver rejects, and why."""
    try:
        partial = dict(protobuf.fields(protobuf.message(dict(protobuf.fields(body)).get(1, b""))))
    except protobuf.MalformedMessage:
        return 0, ""
    return protobuf.signed(partial.get(1, 0)), protobuf.text(partial.get(2, b""))


@lru_cache(maxsize=CACHED)
def _attributes(labels: Labels) -> bytes:
    return b"".join(field(7, _pair(key, value)) for key, value in labels)


def _log(log: Log) -> bytes:
    # Loki before 2026, SigNoz and Vector drop the field `event_name`, and keep attributes.
    attributes = (("event.name", log.event), *log.attributes) if log.event else log.attributes
    parts = [
        _FIXED.pack(_LOG_TIME, log.time),
        field(2, log.severity),
        field(3, _SEVERITIES[log.severity]),
        field(5, _value(log.body)),
        *(field(6, _pair(key, value)) for key, value in attributes),
        _FIXED.pack(_OBSERVED, log.time),
    ]
    if log.event:
        parts.append(field(12, log.event.encode()))
    return b"".join(parts)


def _pair(key: str, value: str | int) -> bytes:
    return field(1, _bytes(key)) + field(2, _value(value))


def _value(value: str | int) -> bytes:
    return field(1, _bytes(value)) if isinstance(value, str) else field(3, value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")

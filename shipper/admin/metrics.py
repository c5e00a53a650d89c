"""What Prometheus scrapes; the only importer of prometheus_client.

- Numbers come from the last status, which is at most one sample old, so a scrape reads no disk.
  Requests and deletions are counted in memory as they happen.
- Labels are sinks, reasons and states. No label grows with jobs.
- A record that does not arrive is in exactly one counter: rejected permanently by a receiver
  (`…sink_dead_letter_records_total`), dropped on the way to a sink (`…sink_dropped_records_total`),
  or never written by the training process (`…producer_dropped_records_total`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import spooler
from shipper.delivery.counters import BUCKETS, Metrics
from shipper.status.model import SinkStatus, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Reasons that are always there, so that the first drop is an increase; others count as "other".
_PRODUCER_REASONS = ("cannot-open", "cap", "descriptor", "disk-full", "error", "gone", "io-error",
    "not-permitted", "quota", "read-only", "root-cap")  # fmt: skip
_SINK_REASONS = ("ambiguous", "cap", "corrupt", "expired", "root-cap")
_MOST_LABELS = 40
_SPOOL_STATES = ("writing", "ended", "disabled", "unreadable")

Samples = Iterable[tuple[tuple[str, ...], float]]  # label values, value


class Exposition(Collector):
    """The text that is scraped; `last_run` is the Unix time of `ServiceLiveness.last_run`."""

    def __init__(
        self,
        meters: Metrics,
        status: Callable[[], Status | None],
        last_run: Callable[[], float],
    ) -> None:
        self._meters = meters
        self._status = status
        self._last_run = last_run
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self)
        prometheus_client.ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        info = InfoMetricFamily("lens_ship_build", "Version of lens-ship.")
        info.add_metric([], {"version": spooler.__version__})
        yield info
        yield _gauge("main_loop_last_run_timestamp_seconds", [((), self._last_run())])
        yield from _of_meters(self._meters)
        status = self._status()
        if status is not None:
            yield from _of_root(status)
            yield from _of_sinks(status)


def _of_meters(meters: Metrics) -> Iterator[Metric]:
    yield _counter("sink_requests", sorted(meters.requests.items()), "sink", "outcome")
    name = "sink_request_duration_seconds"
    durations = HistogramMetricFamily(f"lens_ship_{name}", _HELP[name], labels=["sink"])
    for sink, mine in sorted(meters.durations.items()):
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), list(mine.counts), strict=True):
            total += count
            buckets.append((bound, total))
        durations.add_metric([sink], buckets=buckets, sum_value=mine.seconds)
    yield durations
    deleted = [((reason,), meters.deleted[reason]) for reason in ("delivered", "root-cap")]
    yield _counter("segments_deleted", deleted, "reason")


def _of_root(status: Status) -> Iterator[Metric]:
    states = dict.fromkeys(_SPOOL_STATES, 0)
    states["unreadable"] += len(status.unreadable_directories)
    for spool in status.spools:
        states[spool.state] += 1
    yield _gauge("spools", [((state,), count) for state, count in states.items()], "state")
    disk = status.disk
    yield _gauge("root_bytes", [((), disk.used)])
    if disk.limit:
        yield _gauge("root_limit_bytes", [((), disk.limit)])
    yield _gauge("root_filesystem_size_bytes", [((), disk.size)])
    yield _gauge("root_filesystem_free_bytes", [((), disk.free)])
    yield _gauge("root_full", [((), disk.full)])
    dropped = _bounded(status.producer_dropped, _PRODUCER_REASONS)
    yield _counter("producer_dropped_records", [((why,), n) for why, n in dropped], "reason")


def _of_sinks(status: Status) -> Iterator[Metric]:
    gauges = [(sink.sink, _sink_gauges(status, sink)) for sink in status.sinks]
    for name in gauges[0][1] if gauges else ():
        values = [((sink,), found[name]) for sink, found in gauges]
        yield _gauge(name, [(labels, n) for labels, n in values if n is not None], "sink")
    counters = [(sink.sink, _sink_counters(sink)) for sink in status.sinks]
    for name in counters[0][1] if counters else ():
        yield _counter(name, [((sink,), found[name]) for sink, found in counters], "sink")
    by_reason = [(sink.sink, _sink_reasons(sink)) for sink in status.sinks]
    for name in by_reason[0][1] if by_reason else ():
        counts = [((sink, why), n) for sink, found in by_reason for why, n in found[name]]
        yield _counter(name, counts, "sink", "reason")


def _sink_gauges(status: Status, sink: SinkStatus) -> dict[str, float | None]:
    return {
        "sink_backlog_records": sink.pending,
        "sink_backlog_bytes": sink.pending_bytes,
        "sink_backlog_seconds": status.age(sink.oldest) or 0.0,
        "sink_highest_seen_timestamp_seconds": sink.newest,
        "sink_highest_delivered_timestamp_seconds": sink.newest_acknowledged,
        "sink_paused": sink.paused is not None,
        "sink_paused_workloads": sum(bool(outage.workload) for outage in sink.ongoing),
        "sink_action_required": any(outage.alarm for outage in sink.ongoing),
        "sink_dead_letters": sum(sink.dead_letters.values()),
    }


def _sink_counters(sink: SinkStatus) -> dict[str, int]:
    return {
        "sink_delivered_records": sink.delivered,
        "sink_delivered_values": sink.values,
        "sink_rejected_values": sink.rejected_values,
        "sink_skipped_records": sink.skipped,
        "sink_dead_letters_discarded": sink.dead_letters_discarded,
    }


def _sink_reasons(sink: SinkStatus) -> dict[str, list[tuple[str, int]]]:
    values = [("nonfinite", sink.nonfinite_values), ("not-numeric", sink.skipped_values)]
    return {
        "sink_dead_letter_records": list(sink.rejected.items())[:_MOST_LABELS],
        "sink_dropped_records": _bounded(sink.dropped, _SINK_REASONS),
        "sink_skipped_values": values,
    }


_HELP = {
    "main_loop_last_run_timestamp_seconds": (
        "Unix time when the main loop or housekeeping last ran, the older of both."
    ),
    "sink_requests": "Requests by outcome.",
    "sink_request_duration_seconds": "Duration of requests.",
    "segments_deleted": "Segment files deleted, by reason.",
    "spools": "Spools under the root, by state.",
    "root_bytes": "Bytes on disk of all spools.",
    "root_limit_bytes": "The setting root_bytes.",
    "root_filesystem_size_bytes": "Size of the file system of the root.",
    "root_filesystem_free_bytes": "Bytes of it that are free for the service.",
    "root_full": "1 while writers drop new records because the root is full.",
    "producer_dropped_records": "Records that training processes dropped, by reason.",
    "sink_backlog_records": "Records on disk that the sink has not acknowledged.",
    "sink_backlog_bytes": "Estimated bytes on disk of the backlog.",
    "sink_backlog_seconds": "Age of the oldest record in the backlog, 0 without a backlog.",
    "sink_highest_seen_timestamp_seconds": "Unix time of the newest record in any spool.",
    "sink_highest_delivered_timestamp_seconds": (
        "Unix time of the newest record that is not pending for the sink."
    ),
    "sink_paused": "1 while an outage pauses the whole sink.",
    "sink_paused_workloads": "Workloads that an outage of their own pauses.",
    "sink_action_required": "1 while an outage of the sink or of a workload needs an operator.",
    "sink_dead_letters": "Dead letters that are kept now.",
    "sink_delivered_records": "Records that the receiver has acknowledged.",
    "sink_delivered_values": "Values in the delivered records.",
    "sink_rejected_values": "Values in them that the receiver has rejected, and does not store.",
    "sink_skipped_records": "Records of kinds that the sink does not take.",
    "sink_dead_letters_discarded": "Dead letters discarded by an operator or a limit.",
    "sink_dead_letter_records": "Records that the receiver has rejected permanently, by reason.",
    "sink_dropped_records": "Records that the sink will never get, by reason.",
    "sink_skipped_values": "Values that are not sent as they are, by reason.",
}


def _bounded(counts: Mapping[str, int], known: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every known reason, 0 included, and the sum of all others."""
    other = sum(count for reason, count in counts.items() if reason not in known)
    return [*((reason, counts.get(reason, 0)) for reason in known), ("other", other)]


def _gauge(name: str, samples: Samples, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"lens_ship_{name}", _HELP[name], labels=labels), samples)


def _counter(name: str, samples: Samples, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"lens_ship_{name}", _HELP[name], labels=labels), samples)


def _filled(family: Any, samples: Samples) -> Metric:
    for values, value in samples:
        family.add_metric(values, float(value))
    filled: Metric = family
    return filled

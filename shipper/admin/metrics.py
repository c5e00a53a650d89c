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
from shipper.delivery.counters import BUCKETS, Meters
from shipper.status.model import SinkStatus, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Reasons that are always there, so that the first drop is an increase; others count as "other".
_PRODUCER_REASONS = ("cannot-open", "cap", "descriptor", "disk-full", "error", "gone", "io-error",
    "quota", "read-only", "root-cap")  # fmt: skip
_SINK_REASONS = ("ambiguous", "cap", "corrupt", "expired", "root-cap")
_MOST_LABELS = 40
_SPOOL_STATES = ("writing", "ended", "disabled", "unreadable")

Samples = Iterable[tuple[tuple[str, ...], float]]  # label values, value


class Exposition(Collector):
    """The text that is scraped; `last_run` is the Unix time of `ServiceLiveness.last_run`."""

    def __init__(
        self,
        meters: Meters,
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
        yield _gauge(
            "main_loop_last_run_timestamp_seconds",
            "Unix time when the main loop or housekeeping last ran, the older of both.",
            [((), self._last_run())],
        )
        yield from _of_meters(self._meters)
        status = self._status()
        if status is not None:
            yield from _of_root(status)
            yield from _of_sinks(status)


def _of_meters(meters: Meters) -> Iterator[Metric]:
    requests = sorted(meters.requests.items())
    yield _counter("sink_requests", "Requests by outcome.", requests, "sink", "outcome")
    durations = HistogramMetricFamily(
        "lens_ship_sink_request_duration_seconds", "Duration of requests.", labels=["sink"]
    )
    for sink, mine in sorted(meters.durations.items()):
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), list(mine.counts), strict=True):
            total += count
            buckets.append((bound, total))
        durations.add_metric([sink], buckets=buckets, sum_value=mine.seconds)
    yield durations
    deleted = [((reason,), meters.deleted[reason]) for reason in ("delivered", "root-cap")]
    yield _counter("segments_deleted", "Segment files deleted, by reason.", deleted, "reason")


def _of_root(status: Status) -> Iterator[Metric]:
    states = dict.fromkeys(_SPOOL_STATES, 0)
    states["unreadable"] += len(status.unreadable_directories)
    for spool in status.spools:
        states[spool.state] += 1
    counted = [((state,), count) for state, count in states.items()]
    yield _gauge("spools", "Spools under the root, by state.", counted, "state")
    disk = status.disk
    for name, text, value in (
        ("root_bytes", "Bytes on disk of all spools.", disk.used),
        ("root_limit_bytes", "The setting root_bytes.", disk.limit or None),
        ("root_filesystem_size_bytes", "Size of the file system of the root.", disk.size),
        ("root_filesystem_free_bytes", "Bytes of it that are free for the service.", disk.free),
        ("root_full", "1 while writers drop new records because the root is full.", disk.full),
    ):
        if value is not None:
            yield _gauge(name, text, [((), value)])
    yield _counter(
        "producer_dropped_records",
        "Records that training processes dropped and reported, by reason.",
        [((reason,), n) for reason, n in _bounded(status.producer_dropped, _PRODUCER_REASONS)],
        "reason",
    )


def _of_sinks(status: Status) -> Iterator[Metric]:
    for name, text, number in _SINK_GAUGES:
        values = [(one, number(status, one)) for one in status.sinks]
        samples = [((one.sink,), value) for one, value in values if value is not None]
        yield _gauge(f"sink_{name}", text, samples, "sink")
    for name, text, count in _SINK_COUNTERS:
        samples = [((one.sink,), count(one)) for one in status.sinks]
        yield _counter(f"sink_{name}", text, samples, "sink")
    for name, text, by_reason in _SINK_REASON_COUNTERS:
        counts = [((one.sink, reason), n) for one in status.sinks for reason, n in by_reason(one)]
        yield _counter(f"sink_{name}", text, counts, "sink", "reason")


_SINK_GAUGES: tuple[tuple[str, str, Callable[[Status, SinkStatus], float | None]], ...] = (
    (
        "backlog_records",
        "Records on disk that the sink has not acknowledged.",
        lambda status, sink: sink.pending,
    ),
    (
        "backlog_bytes",
        "Estimated bytes on disk of the backlog.",
        lambda status, sink: sink.pending_bytes,
    ),
    (
        "backlog_seconds",
        "Age of the oldest record in the backlog, 0 without a backlog.",
        lambda status, sink: status.age(sink.oldest) or 0.0,
    ),
    (
        "highest_seen_timestamp_seconds",
        "Unix time of the newest record in any spool.",
        lambda status, sink: sink.newest,
    ),
    (
        "highest_delivered_timestamp_seconds",
        "Unix time of the newest record that is not pending for the sink.",
        lambda status, sink: sink.newest_acknowledged,
    ),
    (
        "paused",
        "1 while an outage pauses the whole sink.",
        lambda status, sink: sink.paused is not None,
    ),
    (
        "action_required",
        "1 while an outage of the sink or of a workload needs an operator.",
        lambda status, sink: any(outage.alarm for outage in sink.ongoing),
    ),
    (
        "paused_workloads",
        "Workloads that an outage of their own pauses.",
        lambda status, sink: sum(bool(outage.workload) for outage in sink.ongoing),
    ),
    (
        "dead_letters",
        "Dead letters that are kept now.",
        lambda status, sink: sum(sink.dead_letters.values()),
    ),
)
_SINK_COUNTERS: tuple[tuple[str, str, Callable[[SinkStatus], int]], ...] = (
    (
        "delivered_records",
        "Records that the receiver has acknowledged.",
        lambda sink: sink.delivered,
    ),
    ("delivered_values", "Values in the delivered records.", lambda sink: sink.values),
    (
        "skipped_records",
        "Records of kinds that the sink does not take.",
        lambda sink: sink.skipped,
    ),
    (
        "dead_letters_discarded",
        "Dead letters that an operator or a limit has discarded.",
        lambda sink: sink.dead_letters_discarded,
    ),
)
_SINK_REASON_COUNTERS: tuple[
    tuple[str, str, Callable[[SinkStatus], Iterable[tuple[str, int]]]], ...
] = (
    (
        "dead_letter_records",
        "Records that the receiver has rejected permanently, by reason.",
        lambda sink: list(sink.rejected.items())[:_MOST_LABELS],
    ),
    (
        "dropped_records",
        "Records that the sink will never get, by reason.",
        lambda sink: _bounded(sink.dropped, _SINK_REASONS),
    ),
    (
        "skipped_values",
        "Values that are not sent as they are, by reason.",
        lambda sink: [("nonfinite", sink.nonfinite_values), ("not-numeric", sink.skipped_values)],
    ),
)


def _bounded(counts: Mapping[str, int], known: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every known reason, 0 included, and the sum of all others."""
    other = sum(count for reason, count in counts.items() if reason not in known)
    return [*((reason, counts.get(reason, 0)) for reason in known), ("other", other)]


def _gauge(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"lens_ship_{name}", text, labels=labels), samples)


def _counter(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"lens_ship_{name}", text, labels=labels), samples)


def _filled(family: Any, samples: Samples) -> Metric:
    for values, value in samples:
        family.add_metric(values, float(value))
    filled: Metric = family
    return filled

"""What Prometheus scrapes; the only importer of prometheus_client.

Rules:

- Numbers come from the last look at everything (`shipper.status`), which is at most one sample
  old, so that a scrape costs no disk; only requests and deletions are counted while they happen.
- Labels are the sinks, the reasons of outcomes and the kinds of loss: nothing that grows with jobs.
- A record that is discarded is in exactly one counter: refused by a sink for good
  (`…sink_dead_letter_records_total`), lost to it (`…sink_lost_records_total`), or never written by
  the training process (`…training_dropped_records_total`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
# What training processes give as reasons; what a later version adds is summed up as "other".
_DROPPED = frozenset(
    {
        "cap",
        "root-cap",
        "disk-full",
        "quota",
        "read-only",
        "io-error",
        "cannot-open",
        "gone",
        "descriptor",
        "error",
    }
)
_LOST = frozenset({"corrupt", "cap", "root-cap", "ambiguous", "expired"})
_LABELS = 40
_STATES = ("writing", "ended", "withheld", "unreadable")


class MetricsState:
    """Where the numbers come from; `overview` is None before the first look."""

    def __init__(self, meters: Meters) -> None:
        self.meters = meters
        self.overview: Status | None = None
        self.moved = 0.0  # Unix time, see `Liveness.moved`


class Exposition:
    """The text that is scraped."""

    def __init__(self, source: MetricsState) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(_Ours(source))
        prometheus_client.ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics, as of the last look."""
        return prometheus_client.generate_latest(self._registry)


class _Ours(Collector):
    def __init__(self, source: MetricsState) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance, so that registering looks at nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric of ours."""
        info = InfoMetricFamily("lens_ship_build", "The version of lens-ship.")
        info.add_metric([], {"version": spooler.__version__})
        yield info
        yield _gauge(
            "loop_timestamp_seconds",
            "Unix time at which the main loop and housekeeping had both come round.",
            self._source.moved,
        )
        yield from _of_meters(self._source.meters)
        overview = self._source.overview
        if overview is not None:
            yield from _of_spools(overview)
            yield from _of_sinks(overview)


def _of_meters(meters: Meters) -> Iterator[Metric]:
    requests = _counter("sink_requests", "Requests by how they ended.", ("sink", "outcome"))
    for (sink, reason), count in sorted(meters.requests.items()):
        requests.add_metric([sink, reason], count)
    yield requests
    durations = HistogramMetricFamily(
        "lens_ship_sink_request_duration_seconds",
        "How long requests took, whatever the answer.",
        labels=["sink"],
    )
    for sink, mine in sorted(meters.durations.items()):
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), list(mine.counts), strict=True):
            total += count
            buckets.append((bound, total))
        durations.add_metric([sink], buckets=buckets, sum_value=mine.seconds)
    yield durations
    deleted = _counter("segments_deleted", "Segment files deleted, by why.", ("reason",))
    for reason in ("delivered", "root-cap"):
        deleted.add_metric([reason], meters.deleted[reason])
    yield deleted


def _of_spools(overview: Status) -> Iterator[Metric]:
    spools = _gauges("spools", "Spools below the root, by state.", ("state",))
    for state in _STATES:
        count = sum(spool.state == state for spool in overview.spools)
        spools.add_metric([state], count + (len(overview.closed) if state == "unreadable" else 0))
    yield spools
    disk = overview.disk
    yield _gauge("root_bytes", "Bytes on disk of all spools.", disk.used)
    if disk.limit:
        yield _gauge("root_limit_bytes", "The setting root_bytes.", disk.limit)
    yield _gauge("root_filesystem_size_bytes", "Size of the file system of the root.", disk.size)
    yield _gauge("root_filesystem_free_bytes", "What is free on it for the service.", disk.free)
    yield _gauge(
        "root_full", "1 while new records of training are refused, to keep a limit.", disk.full
    )
    dropped = _counter(
        "training_dropped_records",
        "Records that training processes could not write and have told of, by reason.",
        ("reason",),
    )
    for reason, count in _bounded(overview.dropped, _DROPPED):
        dropped.add_metric([reason], count)
    yield dropped


def _of_sinks(overview: Status) -> Iterator[Metric]:
    for name, text, number in _SINK_GAUGES:
        family = _gauges(name, text, ("sink",))
        for sink in overview.sinks:
            value = number(overview, sink)
            if value is not None:
                family.add_metric([sink.sink], value)
        yield family
    for name, text, attribute in _SINK_COUNTERS:
        counter = _counter(name, text, ("sink",))
        for sink in overview.sinks:
            counter.add_metric([sink.sink], getattr(sink, attribute))
        yield counter
    yield from _losses(overview.sinks)


def _losses(sinks: Iterable[SinkStatus]) -> Iterator[Metric]:
    dead = _counter(
        "sink_dead_letter_records",
        "Records that a sink has refused for good, by reason.",
        ("sink", "reason"),
    )
    kept = _gauges("sink_dead_letters", "Dead letters that are kept now.", ("sink",))
    lost = _counter(
        "sink_lost_records",
        "Records that a sink will never get: corrupt, or deleted to keep a limit.",
        ("sink", "reason"),
    )
    left_out = _counter(
        "sink_left_out_points",
        "Values that were not sent as they are: told as not finite, or of no form for the sink.",
        ("sink", "reason"),
    )
    for sink in sinks:
        for reason, count in list(sink.refused.items())[:_LABELS]:
            dead.add_metric([sink.sink, reason], count)
        kept.add_metric([sink.sink], sum(sink.dead.values()))
        for reason, count in _bounded(sink.lost, _LOST):
            lost.add_metric([sink.sink, reason], count)
        left_out.add_metric([sink.sink, "nonfinite"], sink.nonfinite)
        left_out.add_metric([sink.sink, "no-number"], sink.left_out)
    yield from (dead, kept, lost, left_out)


_SINK_GAUGES = (
    (
        "sink_backlog_records",
        "Records on disk that are not settled for the sink.",
        lambda overview, sink: sink.pending,
    ),
    (
        "sink_backlog_bytes",
        "About how many bytes of disk those take.",
        lambda overview, sink: sink.pending_bytes,
    ),
    (
        "sink_backlog_seconds",
        "Age of the oldest of them; 0 without any.",
        lambda overview, sink: overview.age(sink.oldest) or 0.0,
    ),
    (
        "sink_highest_seen_timestamp_seconds",
        "Time of the newest record in any spool.",
        lambda overview, sink: sink.seen,
    ),
    (
        "sink_highest_delivered_timestamp_seconds",
        "Time of the newest record that is settled for the sink.",
        lambda overview, sink: sink.settled,
    ),
    (
        "sink_paused",
        "1 while nothing at all goes to the sink, for a fault of its own or of the way there.",
        lambda overview, sink: int(sink.paused is not None),
    ),
    (
        "sink_alarm",
        "1 while a sink or a workload is refused in a way that no waiting ends.",
        lambda overview, sink: int(any(trouble.alarm for trouble in sink.present)),
    ),
    (
        "sink_paused_workloads",
        "Workloads that wait although the sink as a whole does not.",
        lambda overview, sink: sum(bool(trouble.workload) for trouble in sink.present),
    ),
)
_SINK_COUNTERS = (
    ("sink_delivered_records", "Records that the sink says it has.", "delivered"),
    ("sink_passed_records", "Records that the sink has no use for.", "passed"),
    ("sink_delivered_points", "Values in the records delivered.", "points"),
    ("sink_given_up_records", "Dead letters dropped by an operator or a limit.", "given_up"),
)


def _bounded(counts: Mapping[str, int], known: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Every known reason, 0 included, so that a first loss is an increase; others summed up."""
    for reason in sorted(known):
        yield reason, counts.get(reason, 0)
    other = sum(count for reason, count in counts.items() if reason not in known)
    yield "other", other


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"lens_ship_{name}", text, value=float(value))


def _gauges(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lens_ship_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(f"lens_ship_{name}", text, labels=labels)

"""Series over Prometheus remote write 1.0: see `shipper.sinks.timeseries.sink`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shipper.config import parse
from shipper.config.schema import setting
from shipper.sinks.prometheus import encode
from shipper.sinks.timeseries.series import POINT_KINDS, Items, points_in
from shipper.sinks.timeseries.sink import SignalRequest, TimeSeriesOptions, TimeSeriesSink
from spooler.spool.identity import Identity

_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


@dataclass(frozen=True, kw_only=True)
class PrometheusOptions(TimeSeriesOptions):
    """Options of `PrometheusSink`."""

    url: str = setting(
        "",
        parse.url,
        help="Address for remote write, used as it is. Prometheus and VictoriaMetrics:"
        " `http://HOST:PORT/api/v1/write`.",
    )


class PrometheusSink(TimeSeriesSink):
    """See the module."""

    Options = PrometheusOptions
    kinds = POINT_KINDS

    def requests(self, items: Items, identity: Identity) -> Iterator[SignalRequest]:
        labels = encode.process_labels(identity, items[0].run, self._options.service_name)
        points = sum(map(points_in, items))
        if points:
            yield self._request(encode.write_request(items, labels), points)

    def probes(self) -> Iterator[SignalRequest]:
        yield self._request(b"", 0)

    def _request(self, body: bytes, count: int) -> SignalRequest:
        address = self._options.url
        return SignalRequest("metrics", address, encode.snappy(body), dict(_HEADERS), count)

"""Series and logs over OTLP/HTTP, as protobuf: see `shipper.sinks.timeseries.sink`."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import spooler
from shipper.config import parse
from shipper.config.schema import setting
from shipper.http_client import Answer
from shipper.http_client.credentials import Credentials
from shipper.sinks.otlp import encode
from shipper.sinks.outcome import Disposition, Outcome, Reason
from shipper.sinks.timeseries.series import Item, Items, SeriesOptions, points_in
from shipper.sinks.timeseries.sink import SignalRequest, TimeSeriesOptions, TimeSeriesSink
from spooler.spool.identity import Identity

HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
_COMPRESSION = 1  # of gzip: level 5 takes twice the time for 2 % less, as points lie by series


@dataclass(frozen=True, kw_only=True)
class OtlpOptions(TimeSeriesOptions):
    """Options of `OtlpSink`."""

    url: str = setting(
        "",
        parse.url,
        help="Base address of the receiver. `/v1/metrics` and `/v1/logs` are appended.",
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    metrics_url: str = setting(
        "",
        parse.url,
        help="Address for metrics, used as it is.",
        alias="OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    )
    logs_url: str = setting(
        "",
        parse.url,
        help="Address for logs, used as it is.",
        alias="OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    )
    numbers: bool = setting(True, parse.switch, help="Send numbers, steps and the status of runs.")
    step: str = setting(
        "gauge",
        parse.choice("gauge", "attribute", "both"),
        help="Where the step is: `gauge` is a series of its own at the same time, `attribute` an"
        " attribute of each point.",
        why="As an attribute it makes a new series for each step. Stores with columns take that,"
        " Prometheus and VictoriaMetrics do not.",
    )
    logs: bool = setting(
        False,
        parse.switch,
        help="Send log records: steps with their text, lines of the training log, stacks, decisions"
        " of the diagnosis, begin and end of runs.",
        why="Receivers of metrics alone refuse them.",
    )
    gzip: bool = setting(True, parse.switch, help="Compress requests.")

    @property
    def series(self) -> SeriesOptions:
        gauge = self.step != "attribute"
        return SeriesOptions(
            prefix=self.prefix, numbers=self.numbers, step_series=gauge, logs=self.logs
        )

    @property
    def endpoints(self) -> dict[str, str]:
        """The address of each signal that is sent."""
        given = {"metrics": (self.numbers, self.metrics_url), "logs": (self.logs, self.logs_url)}
        return {
            signal: own or (f"{self.url}/v1/{signal}" if self.url else "")
            for signal, (wanted, own) in given.items()
            if wanted
        }

    def credentials(self) -> Credentials:
        """Secrets are sent to the origin of url; without it, to that of the first signal."""
        first = next(iter(self.endpoints.values()), "")
        return replace(super().credentials(), url=self.url or first)

    def problems(self) -> Iterator[str]:
        named = replace(self, url=self.url or next(iter(self.endpoints.values()), ""))
        if named.url:
            yield from super(OtlpOptions, named).problems()
        if not self.endpoints:
            yield "numbers: is false, and so is logs. Nothing would be sent"
        for signal, address in self.endpoints.items():
            if not address:
                yield f"url: is not set. Give the address of the receiver, or {signal}_url"


class OtlpSink(TimeSeriesSink):
    """See the module."""

    Options = OtlpOptions

    def __init__(self, name: str, options: OtlpOptions, shared: dict[Any, Any]) -> None:
        headers, seconds = from_variables(os.environ)
        if seconds is not None and "read_timeout" not in options.given:
            options = replace(options, read_timeout=seconds)
        super().__init__(name, options, shared)
        self._otlp = options
        self._scope = encode.scope(spooler.__version__)
        self._secrets = tuple(headers.values())
        self._headers = {"Content-Type": "application/x-protobuf", **headers}
        if options.gzip:
            self._headers["Content-Encoding"] = "gzip"

    def requests(self, items: Items, identity: Identity) -> Iterator[SignalRequest]:
        resource = encode.resource(identity, items[0].run, self._otlp.service_name)
        points = sum(map(points_in, items))
        if points:
            attribute = self._otlp.step != "gauge"
            body = encode.metrics_request(items, resource, self._scope, step_attribute=attribute)
            yield self._request("metrics", body, points)
        logs = sum(len(item.logs) for item in items if isinstance(item, Item))
        if logs:
            yield self._request("logs", encode.logs_request(items, resource, self._scope), logs)

    def probes(self) -> Iterator[SignalRequest]:
        for signal in self._otlp.endpoints:
            yield self._request(signal, b"", 0)

    def judge_success(self, answer: Answer, request: SignalRequest) -> Outcome:
        """A receiver may reject points of a request that it took. They must not be sent again."""
        count, message = encode.rejected(answer.body)
        detail = f"{count} of {request.items} {request.signal} rejected: {message}"
        if 0 < request.items <= count:
            word = Reason.ALL_REJECTED.word
            return Outcome(disposition=Disposition.PERMANENT, reason=word, detail=detail)
        if count > 0 or message:
            rejected = max(count, 0)
            return Outcome(
                disposition=Disposition.DELIVERED, reason="partly", detail=detail, rejected=rejected
            )
        return super().judge_success(answer, request)

    def exchange(self, request: SignalRequest, attempt: int) -> Outcome:
        """As in the base class. A receiver may echo the headers that the environment gives."""
        outcome = super().exchange(request, attempt)
        detail = outcome.detail
        for secret in self._secrets:
            detail = detail.replace(secret, "***")
        return replace(outcome, detail=detail) if detail != outcome.detail else outcome

    def destination(self, identity: Identity) -> str:
        return next(iter(self._otlp.endpoints.values()), "")

    def _request(self, signal: str, body: bytes, count: int) -> SignalRequest:
        if self._otlp.gzip:
            body = gzip.compress(body, _COMPRESSION, mtime=0)
        return SignalRequest(signal, self._otlp.endpoints[signal], body, dict(self._headers), count)


def from_variables(environ: Mapping[str, str]) -> tuple[dict[str, str], float | None]:
    """Headers and seconds to wait, as OpenTelemetry's own exporters read them."""
    pairs = (one.partition("=") for one in environ.get(HEADERS, "").split(","))
    headers = {key.strip(): unquote(value.strip()) for key, _, value in pairs if key.strip()}
    milliseconds = environ.get(TIMEOUT, "").strip()
    return headers, int(milliseconds) / 1000 if milliseconds.isdecimal() else None

"""The receivers: a sink with a method `probe(identities)` reports whether its receiver works."""

from __future__ import annotations

from collections.abc import Iterator

from shipper.check import CheckContext
from shipper.finding import Finding, ok, warn
from shipper.sinks import Probe, build_sinks, enabled_sinks


def findings(context: CheckContext) -> Iterator[Finding]:
    config = context.config
    if not config.api_reporting:
        yield warn("sinks", "api_reporting is false: nothing is sent", "set api_reporting = true")
        return
    for name, sink in build_sinks(enabled_sinks(config)).items():
        if isinstance(sink, Probe):
            yield from sink.probe(context.identities)
        else:
            yield ok(name, "has no check of its own")

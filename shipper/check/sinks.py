"""The receivers: a sink with a method `probe(identities)` reports whether its receiver works."""

from __future__ import annotations

from collections.abc import Iterator

from shipper.check import CheckContext
from shipper.finding import Finding, ok, warn
from shipper.sinks import build_sinks
from shipper.sinks.processor.client import build_client


def findings(context: CheckContext) -> Iterator[Finding]:
    """What each sink's probe reports."""
    config = context.config
    if not config.api_reporting:
        yield warn("sinks", "api_reporting is false: nothing is sent", "set api_reporting = true")
        return
    for name, sink in build_sinks(config, build_client(config)).items():
        probe = getattr(sink, "probe", None)
        if probe is None:
            yield ok(name, "has no check of its own")
        else:
            yield from probe(context.identities)

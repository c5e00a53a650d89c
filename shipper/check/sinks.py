"""Where records go: every sink is asked for its own findings.

A sink that has a method `probe(identities)` says whether its receiver is there and knows the jobs.
"""

from __future__ import annotations

from collections.abc import Iterator

from shipper.check import CheckContext
from shipper.finding import Finding, ok, warn
from shipper.sinks import Probe, build_sinks


def look(ground: CheckContext) -> Iterator[Finding]:
    """See the module."""
    config = ground.config
    if not config.api_reporting:
        yield warn("sinks", "api_reporting is false: nothing is sent", "set api_reporting = true")
        return
    for name, sink in build_sinks(config).items():
        if isinstance(sink, Probe):
            yield from sink.probe(ground.identities)
        else:
            yield ok(name, "cannot be checked in advance")

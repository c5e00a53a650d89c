"""A sink as a user would add it: one file, named by `type = "tests.kit.plugin_sink:CollectorSink"`.

It posts each record as a line of JSON to any HTTP server that answers 200.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from shipper.config.parse import integer
from shipper.config.schema import setting
from shipper.errors import Unreachable
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.options import HttpOptions, http_client
from shipper.sinks.outcome import Disposition, Outcome, classify_failure, retry, retry_after
from shipper.steps import Rejected
from spooler.errors import BodyUnreadable
from spooler.spool import codec
from spooler.spool.identity import Identity


@dataclass(frozen=True, kw_only=True)
class CollectorOptions(HttpOptions):
    """Options of `CollectorSink`."""

    batch_records: int = setting(100, integer(1, 10_000), help="Maximum records in one request.")


class CollectorSink:
    """Every record, of all runs in one sequence, as JSON lines."""

    Options = CollectorOptions
    kinds = frozenset({"step", "detection", "finish"})

    def __init__(self, name: str, options: CollectorOptions, shared: dict[Any, Any]) -> None:
        self.name = name
        self._options = options
        self._http = http_client(options)

    def ordering_key(self, identity: Identity) -> str:
        return identity.spool

    def plan(self, chunk: PlanInput) -> Plan:
        lines: list[tuple[int, bytes]] = []
        rejected: list[Rejected] = []
        for stored in chunk.records:
            try:
                body = codec.unpack(stored.body)
                line = orjson.dumps({"seq": stored.seq, "kind": stored.kind, "body": body})
            except (BodyUnreadable, TypeError) as error:
                rejected.append(Rejected(stored=stored, reason="not-json", detail=str(error)))
                continue
            lines.append((stored.seq, line))
        size = self._options.batch_records
        batches = tuple(_batch(lines[at : at + size]) for at in range(0, len(lines), size))
        return Plan(batches=batches, rejected=tuple(rejected))

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        body = b"\n".join(line for _, line in batch.payload)
        headers = {"Records": f"{identity.spool}/{batch.first}-{batch.last}"}
        try:
            answer = self._http.post(self._options.url, body, headers)
        except Unreachable as failure:
            return classify_failure(failure, tries=attempt)
        if answer.status == 200:
            return Outcome(disposition=Disposition.DELIVERED, reason="delivered")
        detail = f"{answer.status}"
        if answer.status in (400, 413):
            return Outcome(disposition=Disposition.SPLIT, reason="bad-request", detail=detail)
        if answer.status in (401, 403):
            return retry("not-allowed", detail, needs_operator=True, scope="sink")
        outcome = retry("busy", detail, scope="sink")
        return Outcome(
            disposition=outcome.disposition,
            reason=outcome.reason,
            detail=detail,
            scope=outcome.scope,
            retry_after=retry_after(answer.headers),
        )

    def credentials(self) -> object:
        return self._http.credentials.stamp()

    def close(self) -> None:
        self._http.close()


def _batch(lines: list[tuple[int, bytes]]) -> Batch:
    return Batch(
        seqs=tuple(seq for seq, _ in lines),
        payload=lines,
        split=partial(_halves, lines) if len(lines) > 1 else None,
    )


def _halves(lines: list[tuple[int, bytes]]) -> tuple[Batch, Batch]:
    middle = len(lines) // 2
    return _batch(lines[:middle]), _batch(lines[middle:])

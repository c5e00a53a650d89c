"""Detections to the telemetry-processor: one request each, never in the way of metrics.

The processor asks an advisor behind it and may take two minutes over that, which is why detections
have a sink, and so a position and a pace, of their own. They are best effort: after a few failures
that are not the network's, a detection becomes a dead letter.
"""

from __future__ import annotations

from dataclasses import replace

from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.options import HttpOptions
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor import encode
from shipper.sinks.processor.client import ProcessorBase
from shipper.steps import Rejected
from spooler.errors import BodyUnreadable
from spooler.records import detection
from spooler.spool import codec
from spooler.spool.identity import Identity

TRIES = 8


class DetectionSink(ProcessorBase):
    """See the module."""

    Options = HttpOptions
    kinds = frozenset({detection.NAME})

    def plan(self, chunk: PlanInput) -> Plan:
        """Every detection is a batch."""
        batches: list[Batch] = []
        rejected: list[Rejected] = []
        for stored in chunk.records:
            try:
                record = detection.decode(codec.unpack(stored.body))
            except BodyUnreadable as error:
                rejected.append(Rejected(stored=stored, reason=error.reason, detail=str(error)))
                continue
            body = encode.detection_body(record, chunk.identity)
            batches.append(Batch(run=record.run, seqs=(stored.seq,), payload=body))
        return Plan(batches=tuple(batches), rejected=tuple(rejected))

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        outcome = self._client.send(
            identity,
            "/wandb/detection",
            batch.payload,
            encode.records_header(identity, self.name, batch.first, batch.last),
            items=None,
            tries=attempt,
        )
        given_up = outcome.scope == "workload" and attempt >= TRIES
        if outcome.disposition in (Disposition.RETRY, Disposition.SPLIT) and given_up:
            return replace(outcome, disposition=Disposition.PERMANENT)
        return outcome

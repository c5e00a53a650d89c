"""Detection evidence to the telemetry-processor: one request each, never in the way of metrics.

The processor asks an advisor behind it and may take two minutes over that, which is why detections
have a sink, and so a position and a pace, of their own. They are best effort: after a few refusals
that are not the network's doing, a detection becomes a dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shipper.config.schema import Config
from shipper.finding import Finding
from shipper.sinks import Plan, PlanInput, workload_key
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor import encode
from shipper.sinks.processor.client import ProcessorClient
from shipper.steps import Rejected, Skipped, Step
from spooler.errors import BodyUnreadable
from spooler.records import detection
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

TRIES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionParcel:
    """One detection."""

    run: str
    seq: int
    body: bytes

    @property
    def first(self) -> int:
        """Seq of the record."""
        return self.seq

    @property
    def last(self) -> int:
        """Seq of the record."""
        return self.seq

    @property
    def seqs(self) -> tuple[int, ...]:
        """Seq of the record."""
        return (self.seq,)

    @property
    def notes(self) -> Mapping[str, int]:
        """Evidence holds no values of training."""
        return {}

    def halves(self) -> None:
        """A detection cannot be split."""
        return


class DetectionSink:
    """See the module."""

    name = "processor-detection"
    kinds = frozenset({detection.NAME})
    by_workload = True
    volatile = False
    ordering_key = staticmethod(workload_key)

    def __init__(self, config: Config, address: ProcessorClient) -> None:
        self._address = address

    def plan(self, stretch: PlanInput) -> Plan:
        """Every detection is a batch."""
        batches: list[DetectionParcel] = []
        refused: list[Rejected] = []
        passed: list[Skipped] = []
        for stored in stretch.records:
            if stored.kind != detection.NAME:
                passed.append(Skipped(seq=stored.seq))
                continue
            try:
                batches.append(_parcel(stored, stretch.identity))
            except BodyUnreadable as error:
                refused.append(Rejected(stored=stored, reason=error.reason, detail=str(error)))
        return Plan(
            batches=tuple(p for p in batches if stretch.ahead.get(p.run, 0) < p.seq),
            refused=tuple(refused),
            passed=tuple(passed),
        )

    def probe(self, identities: Sequence[Identity]) -> list[Finding]:
        """The same receiver as that of the metrics, which is asked there."""
        return []

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[()]:
        """Nothing: the metrics tell it."""
        return ()

    def close(self) -> None:
        """The connections belong to the address, which lives as long as the service."""

    def send(self, batch: DetectionParcel, identity: Identity, tries: int) -> Outcome:
        """Post one detection."""
        outcome = self._address.send(
            identity,
            "/wandb/detection",
            batch.body,
            encode.records_header(identity, self.name, batch.first, batch.last),
            items=None,
            tries=tries,
        )
        given_up = outcome.scope == "workload" and tries >= TRIES
        if outcome.disposition in (Disposition.RETRY, Disposition.SPLIT) and given_up:
            return replace(outcome, disposition=Disposition.PERMANENT)
        return outcome


def _parcel(stored: Stored, identity: Identity) -> DetectionParcel:
    record = detection.decode(codec.unpack(stored.body))
    return DetectionParcel(
        run=record.run, seq=stored.seq, body=encode.detection_body(record, identity)
    )

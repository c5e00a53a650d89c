"""Training metrics to the telemetry-processor: whole steps, in order, one request at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipper.config.schema import Config
from shipper.finding import Finding
from shipper.sinks import Plan, PlanInput, workload_key
from shipper.sinks.outcome import Outcome
from shipper.sinks.processor import encode
from shipper.sinks.processor.client import ProcessorClient
from shipper.sinks.processor.probe import probe
from shipper.steps import Rejected, Skipped, Step, collect_steps
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class StepParcel:
    """Steps of one run that go out in one request."""

    request: encode.Request
    mark: str = ""  # sets the header of a note apart from that of the records it is about

    @property
    def run(self) -> str:
        """The run whose steps these are."""
        return self.request.run

    @property
    def first(self) -> int:
        """Seq of the first record in it."""
        return self.request.first

    @property
    def last(self) -> int:
        """Seq of the last record in it."""
        return self.request.last

    @property
    def seqs(self) -> tuple[int, ...]:
        """Seqs of all records in it."""
        return tuple(seq for step in self.request.steps for seq in step.seqs)

    @property
    def notes(self) -> Mapping[str, int]:
        """Its values: sent, told as not finite, left out."""
        if self.mark:
            return {}
        steps = self.request.steps
        nonfinite = sum(step.nonfinite for step in steps)
        return {
            "points": sum(step.points for step in steps) - nonfinite,
            "nonfinite": nonfinite,
            "left_out": sum(step.left_out for step in steps),
        }

    def halves(self) -> tuple[StepParcel, StepParcel] | None:
        """Two batches of half the steps each, or None for a single step."""
        if len(self.request.steps) < 2:
            return None
        one, other = self.request.halves()
        return StepParcel(request=one), StepParcel(request=other)


class MetricsSink:
    """See the module."""

    name = "processor"
    kinds = None
    by_workload = True
    volatile = False
    ordering_key = staticmethod(workload_key)

    def __init__(self, config: Config, address: ProcessorClient) -> None:
        self._config = config
        self._address = address
        self._options = encode.Options(
            drop_non_numeric=config.drop_non_numeric, rank_prefix=config.rank_prefix
        )

    def plan(self, stretch: PlanInput) -> Plan:
        """Complete steps become requests; open ones wait unless it has been long enough."""
        steps = collect_steps(stretch.records, stretch.ahead, stretch.deleted)
        ripe = [s for s in steps.open if stretch.ended or s.first in stretch.waited]
        told = [gap for gap in steps.gaps if stretch.ended or gap in stretch.waited]
        held = [s.first for s in steps.open if s not in ripe]
        held += [gap for gap in steps.gaps if gap not in told]
        going = sorted([*steps.complete, *ripe], key=lambda step: step.first)
        refused = list(steps.refused)
        encoded = []
        for step in going:
            problem = encode.problem(step)
            if problem:
                refused.extend(_refuse(step, stretch.records, problem))
                continue
            encoded.append(encode.encode_step(step, stretch.identity, self._options))
        requests = encode.group(
            (step for step in encoded if step.items),
            max_steps=self._config.steps_per_request(stretch.identity),
            max_bytes=self._config.batch_max_bytes,
        )
        return Plan(
            batches=tuple(StepParcel(request=request) for request in requests),
            held=tuple(held),
            refused=tuple(refused),
            passed=(*steps.passed, *(Skipped(seq=gap) for gap in told), *_empty(encoded)),
        )

    def probe(self, identities: Sequence[Identity]) -> Iterator[Finding]:
        """Whether the processor is there and knows these jobs; for detections, too."""
        return probe(self._address.poster, self._config.processor_url, identities)

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[StepParcel, ...]:
        """A metric at the last step of each run."""
        encoded = [
            encode.encode_step(step, identity, self._options)
            for step in steps
            if not encode.problem(step)
        ]
        requests = encode.group(encoded, max_steps=1, max_bytes=self._config.batch_max_bytes)
        return tuple(StepParcel(request=request, mark="/cut-off") for request in requests)

    def close(self) -> None:
        """The connections belong to the address, which lives as long as the service."""

    def send(self, batch: StepParcel, identity: Identity, tries: int) -> Outcome:
        """Post one request."""
        request = batch.request
        return self._address.send(
            identity,
            request.path,
            encode.body(request, identity),
            encode.records_header(identity, self.name, batch.first, batch.last, batch.mark),
            items=request.items,
            tries=tries,
        )


def _empty(encoded: list[encode.EncodedStep]) -> list[Skipped]:
    """Steps that hold nothing to send: only values that are left out."""
    return [
        Skipped(seq=seq, run=step.run, left_out=step.left_out if seq == step.seqs[0] else 0)
        for step in encoded
        if not step.items
        for seq in step.seqs
    ]


def _refuse(step: Step, records: Sequence[Stored], problem: str) -> list[Rejected]:
    return [
        Rejected(stored=stored, reason="unsendable", detail=problem)
        for stored in records
        if stored.seq in step.seqs
    ]

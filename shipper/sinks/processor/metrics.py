"""Training metrics to the telemetry-processor: whole steps, in order, one request at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

from shipper.finding import Finding
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.grouping import nothing_in
from shipper.sinks.options import HttpOptions, like
from shipper.sinks.outcome import Outcome
from shipper.sinks.processor import encode
from shipper.sinks.processor.client import ProcessorBase
from shipper.sinks.processor.probe import probe
from shipper.steps import Block, Step, collect_steps, unsendable
from spooler.spool.identity import Identity


@dataclass(frozen=True, kw_only=True)
class MetricsOptions(HttpOptions):
    """Options of `MetricsSink`."""

    batch_max_steps: int = like("batch_max_steps")
    batch_max_bytes: int = like("batch_max_bytes")
    drop_non_numeric: bool = like("drop_non_numeric")
    rank_prefix: bool = like("rank_prefix")
    run_prefix: bool = like("run_prefix")

    def steps_per_request(self, identity: Identity) -> int:
        """The operator's number, else what the job asked for, else the default."""
        asked = identity.batch_size
        if "batch_max_steps" in self.given or asked is None:
            return self.batch_max_steps
        return min(max(asked, 1), 1000)


class MetricsSink(ProcessorBase):
    """See the module."""

    Options = MetricsOptions
    kinds = frozenset({"step", "finish", "gap", "exit"})
    overwrites = True

    def __init__(self, name: str, options: MetricsOptions, shared: dict[Any, Any]) -> None:
        super().__init__(name, options, shared)
        self._options = options
        self._encoding = encode.Options(
            drop_non_numeric=options.drop_non_numeric,
            rank_prefix=options.rank_prefix,
            run_prefix=options.run_prefix,
        )

    def plan(self, chunk: PlanInput) -> Plan:
        """Complete steps become requests. Open ones wait for at most one flush interval."""
        steps = collect_steps(chunk.records, chunk.deleted, chunk.step_keys, in_blocks=True)
        due = steps.due(ended=chunk.ended, waited=chunk.waited)
        rejected = list(steps.rejected)
        encoded: list[encode.EncodedStep | encode.EncodedBlock] = []
        empty: list[encode.EncodedStep] = []
        for step in due.steps:
            if isinstance(step, Block):
                encoded.append(encode.encode_block(step, chunk.identity, self._encoding))
                continue
            problem = encode.problem(step)
            if problem:
                rejected.extend(unsendable(step, chunk.records, problem))
                continue
            one = encode.encode_step(step, chunk.identity, self._encoding)
            if one.items:
                encoded.append(one)
            else:
                empty.append(one)
        requests = encode.group(
            encoded,
            max_steps=self._options.steps_per_request(chunk.identity),
            max_bytes=self._options.batch_max_bytes,
        )
        return Plan(
            batches=tuple(map(_batch, requests)),
            pending=due.pending,
            rejected=tuple(rejected),
            skipped=(*due.skipped, *chain.from_iterable(map(nothing_in, empty))),
        )

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """A metric at the last step of each run."""
        encoded = [
            encode.encode_step(step, identity, self._encoding)
            for step in steps
            if not encode.problem(step)
        ]
        requests = encode.group(encoded, max_steps=1, max_bytes=self._options.batch_max_bytes)
        return tuple(
            replace(_batch(replace(request, mark="/cut-off")), counts={}) for request in requests
        )

    def probe(self, identities: Sequence[Identity]) -> Iterator[Finding]:
        return probe(self.name, self._client.http, self._options.url, identities)

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        request: encode.Request = batch.payload
        return self._client.send(
            identity,
            request.path,
            encode.body(request, identity),
            encode.records_header(identity, self.name, batch.first, batch.last, request.mark),
            items=request.items,
            tries=attempt,
        )


def _batch(request: encode.Request) -> Batch:
    parts = request.parts
    nonfinite = sum(map(attrgetter("nonfinite"), parts))
    return Batch(
        run=request.run,
        seqs=tuple(chain.from_iterable(map(attrgetter("seqs"), parts))),
        payload=request,
        counts={
            "points": sum(map(attrgetter("points"), parts)) - nonfinite,
            "nonfinite": nonfinite,
            "left_out": sum(map(attrgetter("left_out"), parts)),
        },
        split=partial(_halves, request) if request.count > 1 else None,
    )


def _halves(request: encode.Request) -> tuple[Batch, Batch]:
    one, other = request.halves()
    return _batch(one), _batch(other)

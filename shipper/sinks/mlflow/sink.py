"""Runs at an MLflow tracking server: one for each run of a tracker, and for each rank of it.

What `shipper.sinks.mlflow.plan` says of a run is sent as metrics, params, tags and a status. All of
it may be sent again without harm: a repeated metric is the same row, a repeated param the same
value, and a status counts only if no later record has given another one. So a batch may take
several requests, and is sent again whole.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from shipper.config import parse
from shipper.config.schema import setting
from shipper.errors import Unreachable
from shipper.finding import Finding, fail, ok, warn
from shipper.http_client.redact import masked
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.grouping import batch_of, group
from shipper.sinks.mlflow import encode
from shipper.sinks.mlflow.classify import NO_RUN, RUN_DELETED
from shipper.sinks.mlflow.client import MlflowClient, Refused, from_variables
from shipper.sinks.mlflow.plan import KINDS, RUNNING, RunBlock, RunItem, collect, killed
from shipper.sinks.mlflow.runs import Run, Runs
from shipper.sinks.options import HttpOptions
from shipper.sinks.outcome import DELIVERED, Disposition, Outcome, Reason, classify_failure, retry
from shipper.steps import Step
from spooler.records.run import RunRecord
from spooler.spool.identity import Identity

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class MlflowOptions(HttpOptions):
    """Options of `MlflowSink`."""

    url: str = setting(
        "",
        parse.url,
        help="Address of the MLflow tracking server.",
        alias="MLFLOW_TRACKING_URI",
    )
    experiment: str = setting(
        "",
        str,
        help="Experiment for all runs. Without it, each run is in the experiment that has the name"
        " of its project, or in `Default`. It is created where it is missing.",
        alias="MLFLOW_EXPERIMENT_NAME",
    )
    batch_max_metrics: int = setting(
        200,
        parse.integer(1, 900),
        help="Maximum metrics in one request.",
        why="A server with SQLite takes seconds for 1000, the most that MLflow allows.",
    )

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.url:
            yield "url: is not set. Give the address of the MLflow server"
        try:
            from_variables({} if self.token_file or self.headers_file else os.environ)
        except ValueError as error:
            yield str(error)


class MlflowSink:
    """See the module."""

    Options = MlflowOptions
    kinds = KINDS

    def __init__(self, name: str, options: MlflowOptions, shared: dict[Any, Any]) -> None:
        self.name = name
        self._limit = options.batch_max_metrics
        self._client = MlflowClient(options, os.environ)
        self._runs = Runs(self._client, options.experiment)

    def ordering_key(self, identity: Identity) -> str:
        """The spool: what spools tell of one run has its order by time."""
        return identity.spool

    def plan(self, chunk: PlanInput) -> Plan:
        found = collect(chunk)
        return found.plan(map(_batch, group(found.items, most=self._limit)))

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """The status of each run that was left open."""
        return tuple(_batch((killed(step, identity),)) for step in steps)

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        try:
            self._send(batch, identity)
        except Refused as refusal:
            outcome = refusal.outcome
            if outcome.reason == NO_RUN:
                return retry(Reason.NOT_STORED.word, outcome.detail)
            return outcome
        except Unreachable as failure:
            return classify_failure(failure, tries=attempt)
        return DELIVERED

    def probe(self, identities: Sequence[Identity]) -> Iterator[Finding]:
        where = masked(self._client.url)
        try:
            self._client.post("experiments/search", {"max_results": 1})
        except Unreachable as failure:
            step = "check the URL and the server. All records are kept until it answers"
            yield fail(self.name, f"{where}: {failure.reason}: {failure.detail}", step)
        except Refused as refusal:
            outcome = refusal.outcome
            step = "correct the options of this sink"
            if not outcome.needs_operator:
                step = "check the server. All records are kept until it answers"
            found = fail if outcome.needs_operator else warn
            yield found(self.name, f"{where} answers {outcome.detail}", step)
        else:
            version = self._client.version()
            yield ok(self.name, f"{where} takes runs{f', MLflow {version}' if version else ''}")

    def destination(self, identity: Identity) -> str:
        return self._client.url

    def credentials(self) -> Hashable:
        return self._client.http.credentials.stamp()

    def close(self) -> None:
        self._client.http.close()

    def requests(
        self, run: Run, items: Sequence[RunItem | RunBlock], tags: Mapping[str, str] = _NO_TAGS
    ) -> Iterator[bytes]:
        """Bodies of log-batch with the metrics of items, and with tags."""
        key, parts, keys = run.names.key, list[bytes](), set[str]()
        for item in items:
            if isinstance(item, RunBlock):
                names = [key(name) for name in item.names]
                parts += encode.metrics_of(names, item.block.rows)
                keys.update(names)
                continue
            for one in item.metrics:
                parts += encode.metric(key(one.name), *one[1:])
                keys.add(key(one.name))
        tags = {**tags, **run.names.new_tags(keys)}
        yield from encode.log_batches(run.id, parts, tags, self._limit)
        run.names.told(tags)

    # --- one batch --------------------------------------------------------------------------------

    def _send(self, batch: Batch, identity: Identity) -> None:
        """Send a batch to its run. A run that is gone is looked for once more."""
        items, rank = batch.payload, identity.rank or 0
        span = f"{identity.spool}/{self.name}/{batch.first}-{batch.last}"
        run = self._runs.find(items, rank)
        try:
            self._log(run, items, span)
        except Refused as refusal:
            if refusal.outcome.reason not in (NO_RUN, RUN_DELETED):
                raise
            self._runs.forget(run, items, rank)
            self._log(self._runs.find(items, rank), items, span)

    def _log(self, run: Run, items: Sequence[RunItem | RunBlock], span: str) -> None:
        tags: dict[str, str] = {}
        for item in items:
            tags |= item.tags
            if item.begun is not None and item.begun.config:
                tags |= self._log_params(run, item.begun)
        for body in self.requests(run, items, tags):
            self._client.post("runs/log-batch", body, Lens_Ship_Records=span)
        for item in [item for item in items if item.status][-1:]:
            self._set_status(run, item.status, item.time)

    def _log_params(self, run: Run, record: RunRecord) -> Mapping[str, str]:
        """Send a configuration; tags for what cannot be a param any more."""
        wanted, tags = encode.params(record.config)
        try:
            for body in encode.param_batches(run.id, wanted):
                self._client.post("runs/log-batch", body)
        except Refused as refusal:
            if refusal.outcome.disposition is not Disposition.SPLIT:
                raise
            new, changed = encode.divide(wanted, self._client.run(run.id).params)
            for body in encode.param_batches(run.id, new):
                self._client.post("runs/log-batch", body)
            tags |= changed
        return tags

    def _set_status(self, run: Run, status: str, at: int) -> None:
        """Give a run its status, unless a later record has given one."""
        stored = self._client.run(run.id)
        known = stored.tags.get(encode.STATUS_TAG, "")
        if known.isdecimal() and int(known) > at:
            return
        if status != RUNNING:
            ended = {"run_id": run.id, "status": status, "end_time": at}
            self._client.post("runs/update", ended)
        elif stored.status != status:
            self._client.post("runs/update", {"run_id": run.id, "status": status})
        if known != str(at):
            for tag in encode.log_batches(run.id, (), {encode.STATUS_TAG: str(at)}, 1):
                self._client.post("runs/log-batch", tag)


def _batch(items: tuple[RunItem | RunBlock, ...]) -> Batch:
    points = sum(item.length * item.size for item in items)
    return batch_of(items, _batch, points=points, left_out=sum(item.left_out for item in items))

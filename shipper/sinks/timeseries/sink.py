"""The sending of series and logs, and what an answer leads to: one request of a spool at a time.

A batch is tried until its receiver has it, refuses it, or says that it is too old. Late data is
asked about: if a receiver refuses a request because of its age, one point at the newest time of the
batch tells whether all of it is too old. So a backlog of any length costs a few requests for each
batch, not two for each record, and only what is really too old becomes a dead letter.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from shipper.config import parse
from shipper.config.schema import setting
from shipper.errors import Unreachable
from shipper.finding import Finding, fail, ok, warn
from shipper.http_client import Answer
from shipper.http_client.redact import masked
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.grouping import batch_of, each, group
from shipper.sinks.options import HttpOptions, http_client
from shipper.sinks.outcome import DELIVERED, Disposition, Outcome, Reason, classify_failure, retry
from shipper.sinks.timeseries.classify import ALREADY_THERE, SERVER_ERROR, TOO_OLD, classify
from shipper.sinks.timeseries.series import (
    KINDS,
    POINT_KINDS,
    Item,
    ItemBlock,
    Items,
    SeriesOptions,
    collect,
    cut_off_item,
    late_item,
)
from shipper.steps import Step
from spooler.spool.identity import Identity

RECORDS_HEADER = "Lens-Ship-Records"
AHEAD_SECONDS = 60.0  # a time that is further in the future is held back
BORDER_SECONDS = 60.0  # for which it is remembered up to when data is too old
_MAX_BYTES = 1024 * 1024  # text of log records in one request
_HOLD_SECONDS = 600.0
_BORDERS = 1024


@dataclass(frozen=True, kw_only=True)
class TimeSeriesOptions(HttpOptions):
    """Options of every sink of time series."""

    url: str = setting("", parse.url, help="Address of the receiver.")
    prefix: str = setting(
        "training.",
        str,
        help="What the names of all series begin with.",
        why="It keeps them apart from the series of the cluster.",
    )
    service_name: str = setting(
        "",
        str,
        help="Name of the service, the label `job` in Prometheus. Without it the job's own"
        " OTEL_SERVICE_NAME, else `training`.",
    )
    batch_max_points: int = setting(
        2000,
        parse.integer(1, 100_000),
        help="Maximum points and log records in one request.",
        why="Receivers refuse requests of some megabytes.",
    )

    @property
    def series(self) -> SeriesOptions:
        """What the options say about series."""
        return SeriesOptions(prefix=self.prefix)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.url:
            yield "url: is not set. Give the address of the receiver"


class SignalRequest(NamedTuple):
    """One request; `signal` is metrics or logs, `items` how many points or log records it has."""

    signal: str
    url: str
    body: bytes
    headers: dict[str, str]
    items: int


@dataclass(kw_only=True)
class _Attempts:
    """What is known of batches of one run that are being tried, each by its last seq."""

    unsure: int = 0  # up to here it may have been stored
    stored: dict[str, int] = field(default_factory=dict)  # signal -> up to here it was stored
    rejected: int = 0  # points and log records of what was stored, until that is reported
    delivered: int = -1  # batches of the sink when the receiver first failed over it
    behind: bool = False  # the last one that was sent is there already

    def is_over(self, last: int) -> bool:
        """Whether nothing of it is about records beyond `last`."""
        return last >= max(self.unsure, *self.stored.values(), 0)


class TimeSeriesSink(ABC):
    """See the module. A subclass makes the requests; the payload of a batch is its items."""

    Options: ClassVar[Any] = TimeSeriesOptions
    kinds = KINDS  # with log records
    age_limits = (
        "Prometheus refuses what is an hour older than its newest sample, up to its"
        " out_of_order_time_window. VictoriaMetrics ignores without an error what is older than its"
        " -retentionPeriod, one month by default"
    )

    def __init__(self, name: str, options: Any, shared: dict[Any, Any]) -> None:
        self.name = name
        self._options: TimeSeriesOptions = options
        self._series: SeriesOptions = options.series
        self.kinds = KINDS if self._series.logs else POINT_KINDS
        self._http = http_client(options)
        # Spool and signal -> the time up to which data is too old, and until when that counts.
        self._borders: dict[tuple[str, str], tuple[int, float]] = {}
        self._tried: dict[tuple[str, str], _Attempts] = {}  # by spool and run
        self._delivered = 0  # batches

    # --- what a subclass has ----------------------------------------------------------------------

    @abstractmethod
    def requests(self, items: Items, identity: Identity) -> Iterator[SignalRequest]:
        """The requests of these items, those with points first."""

    def judge_success(self, answer: Answer, request: SignalRequest) -> Outcome:
        """What a receiver that took the request says of single points."""
        return DELIVERED

    @abstractmethod
    def probes(self) -> Iterator[SignalRequest]:
        """Empty requests, which a receiver takes and which change nothing."""

    # --- the contract of a sink -------------------------------------------------------------------

    def ordering_key(self, identity: Identity) -> str:
        """The spool: the points of a series come from one."""
        return identity.spool

    def plan(self, chunk: PlanInput) -> Plan:
        """Steps and events become items, and consecutive items of a run a request."""
        found = collect(chunk, self._series)
        limit = self._options.batch_max_points
        return found.plan(map(_batch, group(found.items, most=limit, most_text=_MAX_BYTES)))

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """The status of each run that was left open."""
        items = (cut_off_item(step, identity, self._series) for step in steps)
        return tuple(replace(_batch((item,)), counts={}) for item in items if item.size)

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        key = (identity.spool, batch.run)
        tried = self._tried.setdefault(key, _Attempts())
        outcome = self._ahead(batch) or self._send(batch, identity, attempt, tried)
        if outcome.ambiguous:
            tried.unsure = max(tried.unsure, batch.last)
        split = outcome.disposition is Disposition.SPLIT and batch.split is not None
        if not split and outcome.disposition is not Disposition.RETRY and tried.is_over(batch.last):
            del self._tried[key]
            if tried.behind:
                self._tried[key] = _Attempts(behind=True)
        if outcome.disposition is Disposition.DELIVERED:
            self._delivered += 1
        return outcome

    def probe(self, identities: Sequence[Identity]) -> Iterator[Finding]:
        for request in self.probes():
            where = masked(request.url)
            try:
                answer = self._http.post(request.url, request.body, request.headers)
            except Unreachable as failure:
                step = "check the URL and the receiver. All records are kept until it answers"
                yield fail(self.name, f"{where}: {failure.reason}: {failure.detail}", step)
                continue
            outcome = classify(answer, tries=1)
            if outcome.disposition is Disposition.DELIVERED:
                yield ok(self.name, f"{where} takes {request.signal}")
            elif outcome.reason in ("busy", SERVER_ERROR):
                step = "check the receiver. All records are kept until it answers"
                yield warn(self.name, f"{where} answers {outcome.detail}", step)
            else:
                step = "correct the options of this sink"
                yield fail(self.name, f"{where} answers {outcome.detail}", step)

    def destination(self, identity: Identity) -> str:
        return self._options.url

    def credentials(self) -> Hashable:
        return self._http.credentials.stamp()

    def close(self) -> None:
        self._http.close()

    # --- one batch --------------------------------------------------------------------------------

    def _send(self, batch: Batch, identity: Identity, attempt: int, tried: _Attempts) -> Outcome:
        """Send what of a batch the receiver does not have."""
        if tried.behind and batch.split is not None:
            # The receiver has records from the first one on. One at a time tells how many.
            detail = "the records before are there already"
            return Outcome(disposition=Disposition.SPLIT, reason=ALREADY_THERE, detail=detail)
        outcome = DELIVERED
        for request in self.requests(batch.payload, identity):
            if tried.stored.get(request.signal, 0) >= batch.last:
                continue
            known = self._known_too_old(batch, identity, request.signal)
            if known is not None:
                return known
            span = f"{identity.spool}/{self.name}/{batch.first}-{batch.last}"
            request.headers[RECORDS_HEADER] = span
            answered = self.exchange(request, attempt)
            if answered.disposition is Disposition.DELIVERED:
                tried.behind = False
                tried.rejected += answered.rejected
            else:
                answered = self._refused(answered, batch, identity, request, tried)
                if answered.disposition not in (Disposition.DELIVERED, Disposition.DROPPED):
                    return answered
            tried.stored[request.signal] = batch.last
            outcome = answered if answered.reason != "delivered" else outcome
        rejected, tried.rejected = tried.rejected, 0
        return replace(outcome, rejected=rejected) if rejected else outcome

    def exchange(self, request: SignalRequest, attempt: int) -> Outcome:
        """Send one request and judge the answer; `attempt` counts from 1 for the same content."""
        try:
            answer = self._http.post(request.url, request.body, request.headers)
        except Unreachable as failure:
            outcome = classify_failure(failure, tries=attempt)
            return replace(outcome, ambiguous=failure.sent)
        outcome = classify(answer, tries=attempt)
        if outcome.disposition is Disposition.DELIVERED:
            return self.judge_success(answer, request)
        busy = outcome.reason in ("busy", SERVER_ERROR)
        return replace(outcome, ambiguous=True) if busy else outcome

    def _refused(
        self,
        outcome: Outcome,
        batch: Batch,
        identity: Identity,
        request: SignalRequest,
        tried: _Attempts,
    ) -> Outcome:
        """What becomes of a batch that was not delivered, by what else is known."""
        alone = batch.split is None
        if outcome.reason == TOO_OLD:
            return self._too_old(outcome, batch, identity, request)
        tried.behind = outcome.reason == ALREADY_THERE
        if tried.behind and alone:
            # After an answer that was lost, this is the answer that it is there.
            there = batch.last <= tried.unsure
            disposition = Disposition.DELIVERED if there else Disposition.DROPPED
            return replace(outcome, disposition=disposition)
        if outcome.reason == SERVER_ERROR:
            if tried.delivered < 0:
                tried.delivered = self._delivered
            over = outcome.disposition is Disposition.SPLIT and alone
            if over and self._delivered > tried.delivered:
                return replace(outcome, disposition=Disposition.PERMANENT, ambiguous=False)
        return outcome

    # --- times ------------------------------------------------------------------------------------

    def _ahead(self, batch: Batch) -> Outcome | None:
        """Hold back the future: one such point makes a Prometheus refuse what all others send."""
        limit = round((time.time() + AHEAD_SECONDS) * 1000)
        oldest, newest = _times(batch)
        if newest <= limit:
            return None
        word = Reason.CLOCK_AHEAD.word
        seconds = (newest - limit) / 1000 + AHEAD_SECONDS
        detail = f"a record is {seconds:.0f} s in the future. It is sent when its time has come"
        if oldest <= limit and batch.split is not None:
            return Outcome(disposition=Disposition.SPLIT, reason=word, detail=detail)
        wait = min((newest - limit) / 1000, _HOLD_SECONDS)
        return replace(retry(word, detail, needs_operator=True), retry_after=wait)

    def _known_too_old(self, batch: Batch, identity: Identity, signal: str) -> Outcome | None:
        """The receiver has refused data of this age a moment ago: it is not asked again."""
        border, until = self._borders.get((identity.spool, signal), (-1, 0.0))
        oldest, newest = _times(batch)
        if oldest > border or time.monotonic() > until:
            return None
        whole = newest <= border or batch.split is None
        disposition = Disposition.PERMANENT if whole else Disposition.SPLIT
        detail = "it has just refused data of this age"
        return Outcome(disposition=disposition, reason=TOO_OLD, detail=detail)

    def _too_old(
        self, outcome: Outcome, batch: Batch, identity: Identity, request: SignalRequest
    ) -> Outcome:
        """All of the batch, or a part of it? A point of its newest time tells."""
        logs = request.signal == "logs"
        sent = [item for item in each(batch.payload) if (item.logs if logs else item.points)]
        newest = max(sent, key=lambda item: item.time)
        if batch.split is not None:
            asked = late_item(newest, identity, self._series, logs=logs)
            question = next(self.requests((asked,), identity))
            answer = self.exchange(question, 1)
            if answer.disposition is Disposition.RETRY:
                return answer
            if answer.reason != TOO_OLD:
                return outcome
        if len(self._borders) >= _BORDERS:
            self._borders.clear()
        until = time.monotonic() + BORDER_SECONDS
        self._borders[identity.spool, request.signal] = (newest.time, until)
        return replace(outcome, disposition=Disposition.PERMANENT)


def _times(batch: Batch) -> tuple[int, int]:
    """The oldest and the newest time of a batch, Unix milliseconds."""
    times = [time for item in batch.payload for time in item.times]
    return min(times), max(times)


def _batch(items: tuple[Item | ItemBlock, ...]) -> Batch:
    return batch_of(
        items,
        _batch,
        points=sum(item.values for item in items),
        nonfinite=sum(item.nonfinite for item in items),
        left_out=sum(item.left_out for item in items),
    )

"""Diagnosis reports to the training master of each job: one a call, in one sequence per master.

A master keeps what it acknowledges in its memory only, for ten minutes by the report's own time,
and cannot tell a repetition. So a report that is too old is settled as expired; one whose fate is
unknown is settled as ambiguous where a repetition does harm (metrics of the XPU timer), and sent
again where it does not; and what a restarted master has forgotten is sent again, which
`shipper.delivery.resend` sees to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shipper.config.schema import Config
from shipper.errors import Unreachable
from shipper.finding import Finding, fail, ok, warn
from shipper.sinks import Plan, PlanInput, workload_key
from shipper.sinks.dlrover import report as reports
from shipper.sinks.dlrover.classify import (
    AMBIGUOUS,
    TRIES_AMBIGUOUS,
    expired,
    invalid,
    judge_failure,
    no_endpoint,
)
from shipper.sinks.dlrover.report import InvalidReport, Report
from shipper.sinks.dlrover.session import JobNode, Sent, Session, Timeouts, Transport
from shipper.sinks.dlrover.target import master_of, target
from shipper.sinks.outcome import Disposition, Handshake, Outcome
from shipper.steps import Rejected, Skipped, Step
from spooler.errors import BodyUnreadable
from spooler.records.report import NAME as KIND
from spooler.spool import codec
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

# What DLRover's masters remember, whatever is sent to them.
REMEMBERED_SECONDS = 600.0
# A master that nothing is sent to is looked at this often while it should remember something.
LOOK_AFTER_SECONDS = 15.0
# A connection that has not been used for so long is closed.
IDLE_SECONDS = 900.0
# As many masters are asked by `lens-ship check`: one that is away takes its time.
_PROBED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportParcel:
    """One report."""

    seq: int
    report: Report
    seqs: tuple[int, ...]

    run = ""

    @property
    def first(self) -> int:
        """Seq of the record."""
        return self.seq

    @property
    def last(self) -> int:
        """Seq of the record."""
        return self.seq

    @property
    def notes(self) -> Mapping[str, int]:
        """A report has no values that could be counted."""
        return {}

    def halves(self) -> None:
        """A report is cut by its bytes, not by its records."""
        return


class MasterSession(Protocol):
    """The conversation with one master, ours or that of an operator's client."""

    used: float

    def look(self, key: str, speaker: JobNode) -> Handshake:
        """Who is there."""

    def report(self, report: Report, contents: Sequence[str], speaker: JobNode) -> Sent:
        """Send one report."""

    def close(self) -> None:
        """Hang up."""


class DLRoverSink:
    """See the module."""

    name = "master"
    kinds = frozenset({KIND})
    by_workload = False
    volatile = True
    receiver_retention = REMEMBERED_SECONDS
    probe_interval = LOOK_AFTER_SECONDS

    def __init__(self, config: Config, address: object) -> None:
        self._config = config
        self._make_client: Callable[[str], object] | None = None
        if config.dlrover_client:
            from shipper.sinks.dlrover import custom_client

            self._make_client = custom_client.load(config.dlrover_client)
        self._talks: dict[tuple[str, str], MasterSession] = {}
        self._tried: dict[tuple[str, int], _Tried] = {}
        # Spool -> the master that its program has named first; a process has one.
        self._named: dict[str, str] = {}
        self._lock = threading.Lock()

    def ordering_key(self, identity: Identity) -> str:
        """The master: all that is sent to it is one sequence."""
        return master_of(self._config, identity)[0] or workload_key(identity)

    def plan(self, stretch: PlanInput) -> Plan:
        """Every sound report is a batch."""
        batches: list[ReportParcel] = []
        refused: list[Rejected] = []
        passed: list[Skipped] = []
        for stored in stretch.records:
            if stored.kind != KIND:
                passed.append(Skipped(seq=stored.seq))
                continue
            if stored.seq <= stretch.ahead.get(ReportParcel.run, 0):
                continue
            try:
                report = reports.read(codec.unpack(stored.body))
            except (BodyUnreadable, InvalidReport) as error:
                refused.append(Rejected(stored=stored, reason="unsendable", detail=str(error)))
                continue
            batches.append(ReportParcel(seq=stored.seq, report=report, seqs=(stored.seq,)))
        return Plan(batches=tuple(batches), refused=tuple(refused), passed=tuple(passed))

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[ReportParcel, ...]:
        """A line of log: the one way to tell a master that a process has died."""
        if not self._has_receiver(identity):
            return ()
        last = max(steps, key=lambda step: step.last)
        told = ", ".join(f"{step.step} of run {step.run}" for step in steps)
        now = time.time()
        metric = {
            "timestamp": int(now),
            "data_type": "TRAINING_LOG",
            "data_content": f"lens-ship: process {identity.pid} on {identity.host}"
            f" ended without a goodbye; last step {told}\n",
            "node_id": identity.node_id or 0,
            "node_type": identity.node_type,
            "node_rank": identity.node_rank or 0,
            "is_final_result": False,
            "need_report": False,
        }
        report = Report(metric=metric, time=now)
        return (ReportParcel(seq=last.last, report=report, seqs=last.seqs),)

    def handshake(self, batch: ReportParcel | None, identity: Identity, key: str) -> Handshake:
        """The master's life, or what becomes of the batch without its being sent."""
        outcome = self._needless(batch, identity) if batch is not None else None
        if outcome is not None:
            return Handshake(outcome=outcome)
        try:
            return self._talk(identity).look(key, _speaker(batch, identity))
        except Unreachable as failure:
            return Handshake(outcome=judge_failure(failure))

    def is_idempotent(self, batch: ReportParcel) -> bool:
        """Not metrics of the XPU timer: the master would report a hang that did not happen."""
        return not batch.report.once

    def event_time(self, batch: ReportParcel) -> float:
        """The report's own timestamp."""
        return batch.report.timestamp

    def send(self, batch: ReportParcel, identity: Identity, tries: int) -> Outcome:
        """Send one report, all of its messages."""
        outcome = self._needless(batch, identity)
        if outcome is not None:
            return outcome
        try:
            contents = reports.contents(batch.report, self._config.dlrover_message_bytes)
            talk = self._talk(identity)
        except InvalidReport as error:
            return invalid(str(error))
        except Unreachable as failure:
            return judge_failure(failure)
        return self._send(talk, batch, contents, identity)

    def probe(self, identities: Sequence[Identity]) -> Iterator[Finding]:
        """Whether the masters of these jobs are there, and which generation they speak."""
        if self._make_client is not None:
            yield ok("master", f"{self._config.dlrover_client}: a client of your own, not asked")
            return
        named = {master_of(self._config, who): who for who in identities}
        masters = [(where, who) for where, who in named.items() if where[0]]
        if not masters:
            yield ok("master", "no job names one; there is nothing to ask")
        for (address, service), who in masters[:_PROBED]:
            yield self._probe(address, service, who)
        if len(masters) > _PROBED:
            yield ok("master", f"and {len(masters) - _PROBED} more, not asked")

    def _probe(self, address: str, service: str, who: Identity) -> Finding:
        try:
            dial = _dialler(target(address), service, self._config)
        except Unreachable as failure:
            return fail("master", f"{address}: {failure.detail}", "correct the address or its kind")
        talk = Session(address, dial, time.monotonic)
        try:
            spoken = talk.generation(_speaker(None, who))
        finally:
            talk.close()
        if isinstance(spoken, str):
            return ok("master", f"{address} is a master that speaks {spoken}, over {service}")
        return warn(
            "master",
            f"{address}: {spoken.reason}: {spoken.detail}",
            "nothing, when its job has ended; else compare with DLROVER_MASTER_ADDR in the job",
        )

    def close(self) -> None:
        """Hang up everywhere."""
        with self._lock:
            talks, self._talks = list(self._talks.values()), {}
        for talk in talks:
            talk.close()

    # --- one report -------------------------------------------------------------------------------

    def _send(
        self, talk: MasterSession, batch: ReportParcel, contents: Sequence[str], identity: Identity
    ) -> Outcome:
        """Send what is left of it: messages that are stored already are not sent again."""
        key = (identity.spool, batch.seq)
        tried = self._tried.get(key, _NEVER)
        sent = talk.report(batch.report, contents[tried.messages :], _speaker(batch, identity))
        outcome = sent.outcome
        tried = _Tried(
            messages=tried.messages + sent.messages,
            ambiguous=tried.ambiguous + outcome.ambiguous,
        )
        if outcome.disposition is Disposition.RETRY and tried.ambiguous >= TRIES_AMBIGUOUS:
            outcome = AMBIGUOUS
        if outcome.disposition is Disposition.RETRY:
            self._tried[key] = tried
        else:
            self._tried.pop(key, None)
        return outcome

    def _needless(self, batch: ReportParcel, identity: Identity) -> Outcome | None:
        """What becomes of a batch that need not be sent; None when it is to be sent."""
        self._known(batch, identity)
        now = time.time()
        age = now - batch.report.timestamp
        if not self._has_receiver(identity):
            return no_endpoint(
                wait=now - batch.report.time < self._config.dlrover_wait_for_endpoint
            )
        if self._config.dlrover_max_age and age >= self._config.dlrover_max_age:
            return expired(age)
        if age < -REMEMBERED_SECONDS:
            return invalid(f"timestamp {batch.report.timestamp} is {-age:.0f} s in the future")
        return None

    # --- whom to talk to --------------------------------------------------------------------------

    def _known(self, batch: ReportParcel, identity: Identity) -> None:
        """Remember whom the program of this spool has named."""
        if batch.report.master:
            self._named.setdefault(identity.spool, batch.report.master)

    def _where(self, identity: Identity) -> tuple[str, str]:
        named = self._named.get(identity.spool)
        return master_of(self._config, replace(identity, master_addr=named) if named else identity)

    def _has_receiver(self, identity: Identity) -> bool:
        return self._make_client is not None or bool(self._where(identity)[0])

    def _talk(self, identity: Identity) -> MasterSession:
        """The conversation with the master of `identity`.

        Raises:
            Unreachable: its address or kind cannot be used.
        """
        where = self._where(identity)
        with self._lock:
            talk = self._talks.get(where)
            if talk is None:
                talk = self._talks[where] = self._begin(*where)
            idle = [k for k, t in self._talks.items() if time.monotonic() - t.used > IDLE_SECONDS]
            over = [self._talks.pop(key) for key in idle if key != where]
        for other in over:
            other.close()
        return talk

    def _begin(self, address: str, service: str) -> MasterSession:
        if self._make_client is not None:
            from shipper.sinks.dlrover.custom_client import CustomClientSession

            try:
                client = self._make_client(address)
            except Exception as error:  # border with code that is not ours
                detail = f"{self._config.dlrover_client}: {type(error).__name__}: {error}"
                raise Unreachable("client-failed", detail, sent=False) from error
            return CustomClientSession(address, client, time.monotonic)
        dial = _dialler(target(address), service, self._config)
        return Session(address, dial, time.monotonic)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """What is known of a report that is being tried: messages stored, tries without an answer."""

    messages: int = 0
    ambiguous: int = 0


_NEVER = _Tried()


def _speaker(batch: ReportParcel | None, identity: Identity) -> JobNode:
    metric = batch.report.metric if batch is not None else {}
    uid = identity.job_uid
    return JobNode(
        node_id=metric.get("node_id", identity.node_id or 0),
        node_type=metric.get("node_type", identity.node_type),
        job_uid=uid if uid.isascii() and uid.isprintable() else "",
    )


def _dialler(target: str, service: str, config: Config) -> Callable[[], Transport]:
    """What opens a connection.

    Raises:
        Unreachable: masters of this kind cannot be talked to.
    """
    patience = Timeouts(
        connect_seconds=config.connect_timeout,
        answer_seconds=config.read_timeout,
        proxy=config.dlrover_proxy,
    )
    if service == "http":
        from shipper.sinks.dlrover.http_transport import HttpTransport

        return lambda: HttpTransport(target, patience)
    if service != "grpc":
        raise Unreachable(
            "unsupported", f"a master of kind {service!r}: give --dlrover-client", sent=False
        )
    try:
        from shipper.sinks.dlrover.grpc_transport import GrpcTransport
    except ImportError as error:
        raise Unreachable(
            "unsupported",
            f"gRPC needs grpcio ({error}): pip install 'lens-ship[service]'",
            sent=False,
        ) from error
    return lambda: GrpcTransport(target, patience)

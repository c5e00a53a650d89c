"""Diagnosis reports to the training master of each job: one a call, in one sequence per master.

A master keeps what it acknowledges in memory only, for ten minutes by the report's own time, and
cannot detect a repetition. So a report that is too old expires. One whose answer was lost is
dropped as ambiguous if a repetition does harm (metrics of the XPU timer), and sent again if it does
not. What a restarted master has forgotten is sent again by `shipper.delivery.resend`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shipper.errors import Unreachable
from shipper.finding import Finding, fail, ok, warn
from shipper.sinks import Batch, Plan, PlanInput, workload_key
from shipper.sinks.dlrover import report as reports
from shipper.sinks.dlrover.age import Ages, exact
from shipper.sinks.dlrover.classify import (
    AMBIGUOUS,
    TRIES_AMBIGUOUS,
    expired,
    invalid,
    judge_failure,
    no_endpoint,
)
from shipper.sinks.dlrover.report import InvalidReport, Report
from shipper.sinks.dlrover.session import JobNode, Sent, Session, Timeouts, Transport, target
from shipper.sinks.options import like
from shipper.sinks.outcome import Disposition, Handshake, Outcome
from shipper.steps import Rejected, Skipped, Step
from spooler.errors import BodyUnreadable
from spooler.records import decision, failure, report
from spooler.spool import codec
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

# What DLRover's masters remember, whatever is sent to them.
RETENTION_SECONDS = 600.0
# Between handshakes with a master that nothing is sent to and that should remember something.
PROBE_SECONDS = 15.0
# A connection that has not been used for so long is closed.
IDLE_SECONDS = 900.0
# `lens-ship check` asks as many masters: one that is away takes its time.
_PROBED = 3

_Endpoint = tuple[str, str]  # address and protocol, "" for none


@dataclass(frozen=True, kw_only=True)
class DLRoverOptions:
    """Options of `DLRoverSink`."""

    address: str = like("dlrover_address")
    protocol: str = like("dlrover_protocol")
    client: str = like("dlrover_client")
    message_bytes: int = like("dlrover_message_bytes")
    max_age: float = like("dlrover_max_age")
    wait_for_endpoint: float = like("dlrover_wait_for_endpoint")
    proxy: str = like("dlrover_proxy")
    connect_timeout: float = like("connect_timeout")
    read_timeout: float = like("read_timeout")

    def endpoint(self, identity: Identity) -> _Endpoint:
        """The operator's choice, else what the job recorded."""
        protocol = self.protocol or identity.master_service
        return self.address or identity.master_addr.strip(), protocol.strip().lower()


class MasterSession(Protocol):
    """The session with one master, ours or that of an operator's client."""

    used: float  # monotonic seconds of the last call

    def handshake(self, key: str, node: JobNode) -> Handshake:
        """Find out the master's epoch."""

    def report(self, report: Report, contents: Sequence[str], node: JobNode) -> Sent:
        """Send one report."""

    def close(self) -> None:
        """Close the connection."""


class DLRoverSink:
    """See the module. The payload of a batch is one `Report`."""

    Options = DLRoverOptions
    kinds = frozenset({report.NAME, failure.NAME, decision.NAME})
    receiver_retention = RETENTION_SECONDS
    probe_interval = PROBE_SECONDS

    def __init__(self, name: str, options: DLRoverOptions, shared: dict[Any, Any]) -> None:
        self.name = name
        self._options = options
        self._make_client: Callable[[str], object] | None = None
        if options.client:
            from shipper.sinks.dlrover import custom_client

            self._make_client = custom_client.load(options.client)
        self._sessions: dict[_Endpoint, MasterSession] = {}
        self._tried: dict[tuple[str, int], _Tried] = {}
        self._ages = Ages()
        # Spool -> the master that its program has named first; a process has one.
        self._named: dict[str, str] = {}
        self._lock = threading.Lock()

    def ordering_key(self, identity: Identity) -> str:
        """The master: everything that is sent to it is one sequence."""
        return self._options.endpoint(identity)[0] or workload_key(identity)

    def plan(self, chunk: PlanInput) -> Plan:
        """Every valid report is a batch. Without a master, failures and decisions are skipped."""
        if chunk.records:
            self._ages.note(chunk.identity, chunk.records[-1].seq)
        batches: list[Batch] = []
        rejected: list[Rejected] = []
        skipped: list[Skipped] = []
        for stored in chunk.records:
            try:
                body = codec.unpack(stored.body)
                made = reports.of_record(stored.kind, body, chunk.identity)
            except (BodyUnreadable, InvalidReport) as error:
                rejected.append(Rejected(stored=stored, reason="unsendable", detail=str(error)))
                continue
            if made.message is not None and not self._has_master(made, chunk.identity):
                skipped.append(Skipped(stored.seq))
                continue
            batches.append(Batch(seqs=(stored.seq,), payload=made))
        return Plan(batches=tuple(batches), rejected=tuple(rejected), skipped=tuple(skipped))

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """A line of log, the only way to tell a master that a process has died."""
        if not self._has_receiver(identity):
            return ()
        last = max(steps, key=lambda step: step.last)
        told = ", ".join(f"{step.step} of run {step.run}" for step in steps)
        now = time.time()
        metric = {
            "timestamp": int(now),
            "data_type": "TRAINING_LOG",
            "data_content": f"lens-ship: process {identity.pid} on {identity.host}"
            f" exited uncleanly; last step {told}\n",
            "node_id": identity.node_id or 0,
            "node_type": identity.node_type,
            "node_rank": identity.node_rank or 0,
            "is_final_result": False,
            "need_report": False,
        }
        return (Batch(seqs=last.seqs, payload=Report(metric=metric, time=now)),)

    def handshake(self, batch: Batch | None, identity: Identity, key: str) -> Handshake:
        outcome = self._needless(batch, identity) if batch is not None else None
        if outcome is not None:
            return Handshake(outcome=outcome)
        try:
            return self._session(identity).handshake(key, _node(batch, identity))
        except Unreachable as failure:
            return Handshake(outcome=judge_failure(failure))

    def is_idempotent(self, batch: Batch) -> bool:
        """Not for metrics of the XPU timer: the master would report a hang that did not happen."""
        report: Report = batch.payload
        return not report.once

    def age(self, batch: Batch, identity: Identity) -> float | None:
        return exact(batch.payload, identity)

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        """Send one report, all of its messages."""
        report: Report = batch.payload
        outcome = self._needless(batch, identity)
        if outcome is not None:
            return outcome
        try:
            contents = reports.contents(report, self._options.message_bytes)
            session = self._session(identity)
        except InvalidReport as error:
            return invalid(str(error))
        except Unreachable as failure:
            return judge_failure(failure)
        return self._send(session, batch, contents, identity)

    def probe(self, identities: Sequence[Identity]) -> Iterator[Finding]:
        """Whether the masters of these jobs answer, and which generation of messages they speak."""
        if self._make_client is not None:
            yield ok(self.name, f"{self._options.client}: a client of your own, not checked")
            return
        named = {self._options.endpoint(who): who for who in identities}
        masters = [(endpoint, who) for endpoint, who in named.items() if endpoint[0]]
        if not masters:
            yield ok(self.name, "no job recorded one")
        for (address, protocol), who in masters[:_PROBED]:
            yield self._probe(address, protocol, who)
        if len(masters) > _PROBED:
            yield ok(self.name, f"and {len(masters) - _PROBED} more, not checked")

    def _probe(self, address: str, protocol: str, who: Identity) -> Finding:
        try:
            dial = _dialler(target(address), protocol, self._options)
        except Unreachable as failure:
            step = "correct the address or its protocol"
            return fail(self.name, f"{address}: {failure.detail}", step)
        session = Session(address, dial, time.monotonic)
        try:
            spoken = session.generation(_node(None, who))
        finally:
            session.close()
        if isinstance(spoken, str):
            return ok(self.name, f"{address} is a master that speaks {spoken}, over {protocol}")
        return warn(
            self.name,
            f"{address}: {spoken.reason}: {spoken.detail}",
            "nothing if its job has ended, else compare with DLROVER_MASTER_ADDR in the job",
        )

    def close(self) -> None:
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()

    # --- one report -------------------------------------------------------------------------------

    def _send(
        self, session: MasterSession, batch: Batch, contents: Sequence[str], identity: Identity
    ) -> Outcome:
        """Send what is left of it: messages that are stored already are not sent again."""
        key = (identity.spool, batch.first)
        tried = self._tried.get(key, _NEVER)
        sent = session.report(batch.payload, contents[tried.messages :], _node(batch, identity))
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

    def _needless(self, batch: Batch, identity: Identity) -> Outcome | None:
        """What becomes of a report that need not be sent; None when it is to be sent."""
        report: Report = batch.payload
        if report.master:
            self._named.setdefault(identity.spool, report.master)
        if not self._has_receiver(identity):
            recorded = self._ages.recorded(report, identity, batch.first)
            return no_endpoint(wait=recorded < self._options.wait_for_endpoint)
        age = self._ages.taken(report, identity, batch.first)
        if self._options.max_age and age >= self._options.max_age:
            return expired(age)
        return None

    # --- sessions ---------------------------------------------------------------------------------

    def _endpoint(self, identity: Identity) -> _Endpoint:
        named = self._named.get(identity.spool)
        return self._options.endpoint(replace(identity, master_addr=named) if named else identity)

    def _has_master(self, report: Report, identity: Identity) -> bool:
        """Whether the report's job has a master, or may have one yet."""
        may_have = self._options.wait_for_endpoint > 0
        return bool(report.master) or may_have or self._has_receiver(identity)

    def _has_receiver(self, identity: Identity) -> bool:
        return self._make_client is not None or bool(self._endpoint(identity)[0])

    def _session(self, identity: Identity) -> MasterSession:
        """The session with the master of `identity`.

        Raises:
            Unreachable: its address or protocol cannot be used.
        """
        endpoint = self._endpoint(identity)
        with self._lock:
            found = self._sessions.get(endpoint)
            if found is None:
                found = self._sessions[endpoint] = self._begin(*endpoint)
            idle = [
                k for k, s in self._sessions.items() if time.monotonic() - s.used > IDLE_SECONDS
            ]
            over = [self._sessions.pop(key) for key in idle if key != endpoint]
        for other in over:
            other.close()
        return found

    def _begin(self, address: str, protocol: str) -> MasterSession:
        if self._make_client is not None:
            from shipper.sinks.dlrover.custom_client import CustomClientSession

            try:
                client = self._make_client(address)
            except Exception as error:  # border with code that is not ours
                detail = f"{self._options.client}: {type(error).__name__}: {error}"
                raise Unreachable("client-failed", detail, sent=False) from error
            return CustomClientSession(address, client, time.monotonic)
        dial = _dialler(target(address), protocol, self._options)
        return Session(address, dial, time.monotonic)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """What is known of a report that is being tried: messages stored, tries without an answer."""

    messages: int = 0
    ambiguous: int = 0


_NEVER = _Tried()


def _node(batch: Batch | None, identity: Identity) -> JobNode:
    metric = batch.payload.metric if batch is not None else {}
    uid = identity.job_uid
    return JobNode(
        node_id=metric.get("node_id", identity.node_id or 0),
        node_type=metric.get("node_type", identity.node_type),
        job_uid=uid if uid.isascii() and uid.isprintable() else "",
    )


def _dialler(target: str, protocol: str, options: DLRoverOptions) -> Callable[[], Transport]:
    """What opens a connection.

    Raises:
        Unreachable: a master with this protocol cannot be reached from here.
    """
    timeouts = Timeouts(
        connect_seconds=options.connect_timeout,
        answer_seconds=options.read_timeout,
        proxy=options.proxy,
    )
    if protocol == "http":
        from shipper.sinks.dlrover.http_transport import HttpTransport

        return lambda: HttpTransport(target, timeouts)
    if protocol != "grpc":
        raise Unreachable(
            "unsupported", f"a master of kind {protocol!r}: set dlrover_client", sent=False
        )
    try:
        from shipper.sinks.dlrover.grpc_transport import GrpcTransport
    except ImportError as error:
        raise Unreachable(
            "unsupported",
            f"gRPC needs grpcio ({error}): pip install 'lens-ship[service]'",
            sent=False,
        ) from error
    return lambda: GrpcTransport(target, timeouts)

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
from shipper.sinks import Plan, Stretch, workload_key
from shipper.sinks.dlrover import report as reports
from shipper.sinks.dlrover.classify import (
    IN_DOUBT,
    TRIES_AMBIGUOUS,
    expired,
    judge_failure,
    no_master,
    unfit,
)
from shipper.sinks.dlrover.report import Report, Unfit
from shipper.sinks.dlrover.session import Conversation, Patience, Sent, Speaker, Transport
from shipper.sinks.dlrover.target import master_of, target
from shipper.sinks.outcome import Greeting, Outcome, Verdict
from shipper.steps import Passed, Refused, Step
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


class Talk(Protocol):
    """The conversation with one master, ours or that of an operator's client."""

    used: float

    def look(self, key: str, speaker: Speaker) -> Greeting:
        """Who is there."""

    def report(self, report: Report, contents: Sequence[str], speaker: Speaker) -> Sent:
        """Send one report."""

    def close(self) -> None:
        """Hang up."""


class MasterSink:
    """See the module."""

    name = "master"
    kinds = frozenset({KIND})
    by_workload = False
    forgets = True
    remembered_seconds = REMEMBERED_SECONDS
    look_seconds = LOOK_AFTER_SECONDS

    def __init__(self, config: Config, address: object) -> None:
        self._config = config
        self._make_client: Callable[[str], object] | None = None
        if config.dlrover_client:
            from shipper.sinks.dlrover import custom_client

            self._make_client = custom_client.load(config.dlrover_client)
        self._talks: dict[tuple[str, str], Talk] = {}
        self._tried: dict[tuple[str, int], _Tried] = {}
        # Spool -> the master that its program has named first; a process has one.
        self._named: dict[str, str] = {}
        self._lock = threading.Lock()

    def lane_key(self, identity: Identity) -> str:
        """The master: all that is sent to it is one sequence."""
        return master_of(self._config, identity)[0] or workload_key(identity)

    def plan(self, stretch: Stretch) -> Plan:
        """Every sound report is a parcel."""
        parcels: list[ReportParcel] = []
        refused: list[Refused] = []
        passed: list[Passed] = []
        for stored in stretch.records:
            if stored.kind != KIND:
                passed.append(Passed(seq=stored.seq))
                continue
            if stored.seq <= stretch.ahead.get(ReportParcel.run, 0):
                continue
            try:
                report = reports.read(codec.unpack(stored.body))
            except (BodyUnreadable, Unfit) as error:
                refused.append(Refused(stored=stored, reason="unsendable", detail=str(error)))
                continue
            parcels.append(ReportParcel(seq=stored.seq, report=report, seqs=(stored.seq,)))
        return Plan(parcels=tuple(parcels), refused=tuple(refused), passed=tuple(passed))

    def tell_cut_off(self, steps: Sequence[Step], identity: Identity) -> tuple[ReportParcel, ...]:
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

    def greet(self, parcel: ReportParcel | None, identity: Identity, key: str) -> Greeting:
        """The master's life, or what becomes of the parcel without its being sent."""
        outcome = self._needless(parcel, identity) if parcel is not None else None
        if outcome is not None:
            return Greeting(outcome=outcome)
        try:
            return self._talk(identity).look(key, _speaker(parcel, identity))
        except Unreachable as failure:
            return Greeting(outcome=judge_failure(failure))

    def is_harmful(self, parcel: ReportParcel) -> bool:
        """Metrics of the XPU timer: the master would see a hang that is none."""
        return parcel.report.once

    def taken(self, parcel: ReportParcel) -> float:
        """The report's own timestamp."""
        return parcel.report.timestamp

    def send(self, parcel: ReportParcel, identity: Identity, tries: int) -> Outcome:
        """Send one report, all of its messages."""
        outcome = self._needless(parcel, identity)
        if outcome is not None:
            return outcome
        try:
            contents = reports.contents(parcel.report, self._config.dlrover_message_bytes)
            talk = self._talk(identity)
        except Unfit as error:
            return unfit(str(error))
        except Unreachable as failure:
            return judge_failure(failure)
        return self._send(talk, parcel, contents, identity)

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
        talk = Conversation(address, dial, time.monotonic)
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
        self, talk: Talk, parcel: ReportParcel, contents: Sequence[str], identity: Identity
    ) -> Outcome:
        """Send what is left of it: messages that are stored already are not sent again."""
        key = (identity.spool, parcel.seq)
        tried = self._tried.get(key, _NEVER)
        sent = talk.report(parcel.report, contents[tried.messages :], _speaker(parcel, identity))
        outcome = sent.outcome
        tried = _Tried(
            messages=tried.messages + sent.messages,
            ambiguous=tried.ambiguous + outcome.ambiguous,
        )
        if outcome.verdict is Verdict.RETRY and tried.ambiguous >= TRIES_AMBIGUOUS:
            outcome = IN_DOUBT
        if outcome.verdict is Verdict.RETRY:
            self._tried[key] = tried
        else:
            self._tried.pop(key, None)
        return outcome

    def _needless(self, parcel: ReportParcel, identity: Identity) -> Outcome | None:
        """What becomes of a parcel that need not be sent; None when it is to be sent."""
        self._known(parcel, identity)
        now = time.time()
        age = now - parcel.report.timestamp
        if not self._has_receiver(identity):
            return no_master(wait=now - parcel.report.time < self._config.dlrover_wait_for_endpoint)
        if self._config.dlrover_max_age and age >= self._config.dlrover_max_age:
            return expired(age)
        if age < -REMEMBERED_SECONDS:
            return unfit(f"timestamp {parcel.report.timestamp} is {-age:.0f} s in the future")
        return None

    # --- whom to talk to --------------------------------------------------------------------------

    def _known(self, parcel: ReportParcel, identity: Identity) -> None:
        """Remember whom the program of this spool has named."""
        if parcel.report.master:
            self._named.setdefault(identity.spool, parcel.report.master)

    def _where(self, identity: Identity) -> tuple[str, str]:
        named = self._named.get(identity.spool)
        return master_of(self._config, replace(identity, master_addr=named) if named else identity)

    def _has_receiver(self, identity: Identity) -> bool:
        return self._make_client is not None or bool(self._where(identity)[0])

    def _talk(self, identity: Identity) -> Talk:
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

    def _begin(self, address: str, service: str) -> Talk:
        if self._make_client is not None:
            from shipper.sinks.dlrover.custom_client import ClientConversation

            try:
                client = self._make_client(address)
            except Exception as error:  # border with code that is not ours
                detail = f"{self._config.dlrover_client}: {type(error).__name__}: {error}"
                raise Unreachable("client-failed", detail, sent=False) from error
            return ClientConversation(address, client, time.monotonic)
        dial = _dialler(target(address), service, self._config)
        return Conversation(address, dial, time.monotonic)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    """What is known of a report that is being tried: messages stored, tries without an answer."""

    messages: int = 0
    ambiguous: int = 0


_NEVER = _Tried()


def _speaker(parcel: ReportParcel | None, identity: Identity) -> Speaker:
    metric = parcel.report.metric if parcel is not None else {}
    uid = identity.job_uid
    return Speaker(
        node_id=metric.get("node_id", identity.node_id or 0),
        node_type=metric.get("node_type", identity.node_type),
        job_uid=uid if uid.isascii() and uid.isprintable() else "",
    )


def _dialler(target: str, service: str, config: Config) -> Callable[[], Transport]:
    """What opens a connection.

    Raises:
        Unreachable: masters of this kind cannot be talked to.
    """
    patience = Patience(
        connect_seconds=config.connect_timeout,
        answer_seconds=config.read_timeout,
        proxy=config.dlrover_proxy,
    )
    if service == "http":
        from shipper.sinks.dlrover.http_transport import Post

        return lambda: Post(target, patience)
    if service != "grpc":
        raise Unreachable(
            "unsupported", f"a master of kind {service!r}: give --dlrover-client", sent=False
        )
    try:
        from shipper.sinks.dlrover.grpc_transport import Channel
    except ImportError as error:
        raise Unreachable(
            "unsupported",
            f"gRPC needs grpcio ({error}): pip install 'lens-ship[master]'",
            sent=False,
        ) from error
    return lambda: Channel(target, patience)

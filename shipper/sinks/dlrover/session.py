"""The session with one master: one call at a time, in one sequence, over one connection.

Rules:

- Before a report is sent, a handshake has found out the master's epoch within the last
  `HANDSHAKE_SECONDS`. The master keeps a token of this service in its memory. A master without that
  token is in another epoch, and has forgotten everything it acknowledged. No master starts in so
  short a time, so what is sent after a handshake reaches the epoch that was seen.
- After a failure the connection is closed. The next handshake finds out the epoch again, and which
  generation of messages the master understands. So a report whose answer was lost is sent again
  only to a master that answers.
- Nothing is connected until there is something to send.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shipper.config import parse
from shipper.errors import Unreachable
from shipper.log import fields
from shipper.sinks.dlrover import encode
from shipper.sinks.dlrover.classify import Reply, judge_failure, judge_report, judge_status
from shipper.sinks.dlrover.report import Report
from shipper.sinks.outcome import DELIVERED, Disposition, Handshake, Outcome

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 0.1
# Asked for where only the generation matters. Nothing is kept there.
_NOTHING = "lens-ship/nothing"


class Transport(Protocol):
    """Carries messages: `grpc_transport` or `http_transport`."""

    def report(self, message: encode.Message, job_uid: str) -> Reply:
        """Have the master store something."""

    def get(self, message: encode.Message, job_uid: str) -> Reply:
        """Ask the master for something."""

    def close(self) -> None:
        """Let go of the connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Timeouts and proxy of a transport."""

    connect_seconds: float
    answer_seconds: float
    proxy: str  # a URL, `environment` for the one that this names, "" for none


@dataclass(frozen=True, kw_only=True, slots=True)
class JobNode:
    """The node of the job on whose behalf a message is sent."""

    node_id: int
    node_type: str
    job_uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What became of a report: `messages` of it are stored, whatever the outcome."""

    outcome: Outcome
    messages: int


class Session:
    """The state of one master; safe for several threads, which then take turns."""

    def __init__(
        self, address: str, dial: Callable[[], Transport], now: Callable[[], float]
    ) -> None:
        self.address = address
        self.used = now()  # monotonic seconds of the last call
        self._dial = dial
        self._now = now
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._generation = ""
        self._epoch = ""
        self._seen_at = float("-inf")
        self._refusals = 0  # reports and handshakes in a row that were rejected

    def handshake(self, key: str, node: JobNode) -> Handshake:
        """The master's epoch, or why it cannot be found out."""
        with self._lock:
            if self._epoch and self._now() - self._seen_at < HANDSHAKE_SECONDS:
                return Handshake(epoch=self._epoch)
            try:
                outcome = self._shake(key, node)
            except Unreachable as failure:
                # What was sent is no report.
                outcome = replace(judge_failure(failure), ambiguous=False)
            if outcome is not None:
                self._after(outcome)
                return Handshake(outcome=outcome)
            return Handshake(epoch=self._epoch)

    def report(self, report: Report, contents: Sequence[str], node: JobNode) -> Sent:
        """Send a report's messages in their order; says how many of them have arrived."""
        with self._lock:
            for number, content in enumerate(contents):
                try:
                    outcome = self._report(report, content, node)
                except Unreachable as failure:
                    outcome = judge_failure(failure)
                self._after(outcome)
                if outcome.disposition is not Disposition.DELIVERED:
                    return Sent(outcome=outcome, messages=number)
            return Sent(outcome=DELIVERED, messages=len(contents))

    def generation(self, node: JobNode) -> str | Outcome:
        """Which generation of messages the master speaks; only asks, and leaves nothing there."""
        with self._lock:
            try:
                kept = self._ask(_NOTHING, node)
            except Unreachable as failure:
                return replace(judge_failure(failure), ambiguous=False)
            return kept if isinstance(kept, Outcome) else self._generation

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        with self._lock:
            self._disconnect()

    # --- under the lock ---------------------------------------------------------------------------

    def _shake(self, key: str, node: JobNode) -> Outcome | None:
        """Find out generation and epoch; the outcome when that fails."""
        kept = self._ask(key, node)
        if isinstance(kept, Outcome):
            return kept
        epoch = kept.decode("ascii", "replace")
        if not kept:
            epoch = secrets.token_hex(16)
            data = encode.keep_data(self._generation, key, epoch.encode("ascii"))
            reply = self._call().report(_message(data, node), node.job_uid)
            if reply.status != "OK" or not reply.success:
                return replace(judge_report(reply, refusals=self._refusals), ambiguous=False)
        self._epoch, self._seen_at = epoch, self._now()
        return None

    def _ask(self, key: str, node: JobNode) -> bytes | Outcome:
        """What the master keeps under `key`, in the first generation that it understands."""
        generations = (self._generation,) if self._generation else encode.GENERATIONS
        for generation in generations:
            message = _message(encode.ask_data(generation, key), node)
            try:
                reply = self._call().get(message, node.job_uid)
            except Unreachable as failure:
                return replace(judge_failure(failure), ambiguous=False)  # it was only asked
            if reply.status != "OK":
                return judge_status(reply, refusals=self._refusals)
            kept = (encode.attributes(reply.data) or {}).get("value")
            if isinstance(kept, bytes):
                if generation != self._generation:
                    log.info(
                        "connected to a DLRover master",
                        extra=fields(receiver=self.address, generation=generation),
                    )
                self._generation = generation
                return kept
        return judge_status(Reply(status="OK", detail="the request was not understood"))

    def _report(self, report: Report, content: str, node: JobNode) -> Outcome:
        if not self._generation:
            asked = self._ask(_NOTHING, node)
            if isinstance(asked, Outcome):
                return asked
        if report.message is not None:
            data = encode.object_data(self._generation, *report.message)
        else:
            data = encode.report_data(self._generation, content, report.metric["node_rank"])
        reply = self._call().report(_message(data, node), node.job_uid)
        return judge_report(reply, refusals=self._refusals)

    def _call(self) -> Transport:
        self.used = self._now()
        if self._transport is None:
            self._transport = self._dial()
        return self._transport

    def _after(self, outcome: Outcome) -> None:
        """Count a rejection. After a failure disconnect, so that the next handshake is new."""
        if outcome.disposition is Disposition.DELIVERED:
            self._refusals = 0
        elif outcome.disposition is Disposition.RETRY:
            self._refusals += outcome.reason in ("refused", "wrong-job")
            self._disconnect()

    def _disconnect(self) -> None:
        transport, self._transport = self._transport, None
        self._generation = self._epoch = ""
        self._seen_at = float("-inf")
        if transport is not None:
            transport.close()


def _message(data: bytes, node: JobNode) -> encode.Message:
    return encode.Message(node_id=node.node_id, node_type=node.node_type, data=data)


def target(address: str) -> str:
    """`HOST:PORT` as transports take it.

    Raises:
        Unreachable: it is not such an address.
    """
    try:
        return parse.address(address)
    except ValueError as error:
        raise Unreachable("bad-address", f"{address!r} {error}", sent=False) from error

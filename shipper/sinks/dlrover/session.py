"""The talk with one master: one call at a time, in one sequence, over one connection.

Rules:

- Before a report is sent the master has been looked at within the last `LOOK_SECONDS`: it keeps a
  token of ours in its memory, and whoever does not have it is another life of the master, which
  has forgotten everything it acknowledged. No master starts in so short a time, so that what is
  sent after a look goes to the life that was seen.
- After any trouble the connection is thrown away, and the next look finds out anew who is there
  and which generation of messages it understands. So a report whose fate is unknown is sent again
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

from shipper.errors import Unreachable
from shipper.log import fields
from shipper.sinks.dlrover import encode
from shipper.sinks.dlrover.classify import (
    DELIVERED,
    Reply,
    judge_failure,
    judge_report,
    judge_status,
)
from shipper.sinks.dlrover.report import Report
from shipper.sinks.outcome import Disposition, Handshake, Outcome

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# Asked for where only the generation matters; nobody keeps anything there.
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
    """How a transport goes about its calls."""

    connect_seconds: float
    answer_seconds: float
    proxy: str  # a URL, `environment` for the one that this names, "" for none


@dataclass(frozen=True, kw_only=True, slots=True)
class JobNode:
    """On whose behalf a message is sent."""

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
        self._life = ""
        self._looked = float("-inf")
        self._refusals = 0  # reports and looks in a row that were answered "no"

    def look(self, key: str, speaker: JobNode) -> Handshake:
        """Who is there: the token of the master's present life, or why nobody can be met."""
        with self._lock:
            if self._life and self._now() - self._looked < LOOK_SECONDS:
                return Handshake(life=self._life)
            try:
                outcome = self._look(key, speaker)
            except Unreachable as failure:
                # What was sent is no report.
                outcome = replace(judge_failure(failure), ambiguous=False)
            if outcome is not None:
                self._note(outcome)
                return Handshake(outcome=outcome)
            return Handshake(life=self._life)

    def report(self, report: Report, contents: Sequence[str], speaker: JobNode) -> Sent:
        """Send a report's messages in their order; says how many of them have arrived."""
        with self._lock:
            for number, content in enumerate(contents):
                try:
                    outcome = self._report(report, content, speaker)
                except Unreachable as failure:
                    outcome = judge_failure(failure)
                self._note(outcome)
                if outcome.disposition is not Disposition.DELIVERED:
                    return Sent(outcome=outcome, messages=number)
            return Sent(outcome=DELIVERED, messages=len(contents))

    def generation(self, speaker: JobNode) -> str | Outcome:
        """Which generation of messages the master speaks; only asks, and leaves nothing there."""
        with self._lock:
            try:
                kept = self._ask(_NOTHING, speaker)
            except Unreachable as failure:
                return replace(judge_failure(failure), ambiguous=False)
            return kept if isinstance(kept, Outcome) else self._generation

    def close(self) -> None:
        """Hang up; the next call dials again."""
        with self._lock:
            self._hang_up()

    # --- under the lock ---------------------------------------------------------------------------

    def _look(self, key: str, speaker: JobNode) -> Outcome | None:
        """Find out generation and life; the outcome when that fails."""
        kept = self._ask(key, speaker)
        if isinstance(kept, Outcome):
            return kept
        life = kept.decode("ascii", "replace")
        if not kept:
            life = secrets.token_hex(16)
            data = encode.keep_data(self._generation, key, life.encode("ascii"))
            reply = self._call().report(_message(data, speaker), speaker.job_uid)
            if reply.status != "OK" or not reply.success:
                return replace(judge_report(reply, refusals=self._refusals), ambiguous=False)
        self._life, self._looked = life, self._now()
        return None

    def _ask(self, key: str, speaker: JobNode) -> bytes | Outcome:
        """What the master keeps under `key`, in the first generation that it understands."""
        generations = (self._generation,) if self._generation else encode.GENERATIONS
        for generation in generations:
            message = _message(encode.ask_data(generation, key), speaker)
            try:
                reply = self._call().get(message, speaker.job_uid)
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
        return judge_status(Reply(status="OK", detail="asked, and not understood"))

    def _report(self, report: Report, content: str, speaker: JobNode) -> Outcome:
        if not self._generation:
            asked = self._ask(_NOTHING, speaker)
            if isinstance(asked, Outcome):
                return asked
        data = encode.report_data(self._generation, content, report.metric["node_rank"])
        reply = self._call().report(_message(data, speaker), speaker.job_uid)
        return judge_report(reply, refusals=self._refusals)

    def _call(self) -> Transport:
        self.used = self._now()
        if self._transport is None:
            self._transport = self._dial()
        return self._transport

    def _note(self, outcome: Outcome) -> None:
        """Remember a no; hang up after trouble, so that the next look is a fresh one."""
        if outcome.disposition is not Disposition.RETRY:
            self._refusals = 0
            return
        self._refusals += outcome.reason in ("refused", "wrong-job")
        self._hang_up()

    def _hang_up(self) -> None:
        transport, self._transport = self._transport, None
        self._generation = self._life = ""
        self._looked = float("-inf")
        if transport is not None:
            transport.close()


def _message(data: bytes, speaker: JobNode) -> encode.Message:
    return encode.Message(node_id=speaker.node_id, node_type=speaker.node_type, data=data)

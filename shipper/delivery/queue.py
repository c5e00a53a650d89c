"""All spools of one ordering key for one sink: one request at a time, in fair turns.

All ranks and runs of a workload share the receiver's rows, so two requests for it at once would
lose updates. Requests for another workload need not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from shipper.delivery.pipeline import Pipeline, TurnResult
from shipper.delivery.policy import YIELD_SECONDS, Pace, RefusalBrake
from shipper.delivery.sink_state import SinkState
from shipper.errors import ShipperError
from shipper.log import fields
from shipper.sinks.outcome import NO_URL, TIMEOUT, Disposition, Outcome
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.owner import Lock, ProcessState
from spooler.spool.reader import Chunk, Reader

log = logging.getLogger(__name__)

TURN_SECONDS = 0.5
# A spool that cannot be read is retried after this many seconds.
RETRY_SECONDS = 30.0
# The poller wakes a spool that is read to its end; this is in case a wake-up was missed.
SLEEP_SECONDS = 300.0

QueueKey = tuple[str, str]  # sink, ordering key


@dataclass(kw_only=True, slots=True)
class _Member:
    """A pipeline in the queue: when it is due, and whether it has nothing more to send."""

    pipeline: Pipeline
    due: float
    owned: bool = True  # its writer lived at the last turn
    caught_up: bool = False
    finished: bool = False
    woken: bool = False  # something has changed since the turn began
    logged: str = ""


class DeliveryQueue:
    """The spools of one ordering key. `turn` is called by one thread at a time."""

    def __init__(
        self,
        *,
        key: str,
        sink_state: SinkState,
        flush_all: bool,
        now: Callable[[], float],
        resolve: Callable[[Identity, bool], Identity] | None = None,
    ) -> None:
        self.key = key
        self.state = SinkState(sink_state.sink, now, workload=key)
        self._sink = sink_state
        self._resolve = resolve
        self._flush_all = flush_all
        self._now = now
        self._members: dict[str, _Member] = {}
        self._lock = threading.Lock()
        self._brake = RefusalBrake()
        self._pace = Pace()
        self._held_until = 0.0  # monotonic; a failure that may be the sink's

    def add(self, pipeline: Pipeline) -> None:
        """Add a spool; it is due at once."""
        pipeline.brake = self._brake
        with self._lock:
            spool = pipeline.identity.spool
            self._members[spool] = _Member(pipeline=pipeline, due=self._now())

    def remove(self, spool: str) -> None:
        with self._lock:
            self._members.pop(spool, None)

    def pipelines(self) -> list[Pipeline]:
        with self._lock:
            return [member.pipeline for member in self._members.values()]

    def spools(self) -> list[str]:
        with self._lock:
            return list(self._members)

    def due(self) -> float:
        """Monotonic time of the next turn; infinity when there is none."""
        with self._lock:
            dues = [member.due for member in self._members.values() if not member.finished]
        if not dues:
            return float("inf")
        return max(min(dues), self._sink.ready_at, self.state.ready_at, self._held_until)

    def progress(self, spool: str) -> tuple[int, bool] | None:
        """Up to where a spool is acknowledged, and whether it is at its end and its writer gone."""
        with self._lock:
            member = self._members.get(spool)
            return None if member is None else (member.pipeline.position.seq, member.finished)

    def end_of(self, spool: str) -> int | None:
        """Up to where a spool is acknowledged that was read to its end; None for others."""
        with self._lock:
            member = self._members.get(spool)
            at_end = member is not None and member.caught_up and not member.finished
            return member.pipeline.position.seq if member is not None and at_end else None

    def pass_over(self, spool: str, news: Chunk) -> bool:
        """Go past what a spool has grown by if the sink takes none of it; whether it could.

        Not during a turn.
        """
        if self.end_of(spool) is None:
            return False
        with contextlib.suppress(ShipperError):  # the turn that follows logs it
            return self._members[spool].pipeline.pass_over(news)
        return False

    def wake(self, spool: str, news: Chunk | None = None) -> None:
        """A spool has changed: continue to read it if it was read to its end.

        `news` is all that it has grown by.
        """
        with self._lock:
            member = self._members.get(spool)
            if member is not None:
                member.woken = True
                # What is not the end any more must not be taken for it.
                member.pipeline.news = news if member.caught_up else None
                if member.caught_up:
                    # New data refutes that its process has ended.
                    member.caught_up, member.finished = False, False
                    member.due = min(member.due, self._now())

    def is_slow(self) -> bool:
        """Whether its last request timed out, or took long: the next one may take as long."""
        failure = self.state.failure
        return self._pace.is_slow or (failure is not None and failure.reason == TIMEOUT)

    def is_hopeless(self) -> bool:
        """Whether its records have no address to go to, which takes other settings."""
        failure = self.state.failure
        return failure is not None and failure.reason == NO_URL

    def caught_up(self) -> bool:
        """Whether every spool was read to its end and nothing is left to send."""
        with self._lock:
            return all(member.caught_up for member in self._members.values())

    def is_drained(self) -> bool:
        """Whether it is caught up and will also not report an unclean exit in a few seconds."""
        with self._lock:
            members = list(self._members.values())
        return all(
            member.caught_up and not (member.owned and _is_in_doubt(member.pipeline))
            for member in members
        )

    def flush(self) -> None:
        """Send all that is there as soon as possible, also open steps, from now on."""
        self._flush_all = True
        self.retry_now()
        for spool in self.spools():
            self.wake(spool)
        with self._lock:
            for member in self._members.values():
                member.due = min(member.due, self._now())

    def retry_now(self) -> None:
        """What caused its failures may be gone."""
        self._held_until = 0.0
        self.state.retry_now()

    def postpone(self) -> None:
        """Pause the whole queue after an internal error."""
        with self._lock:
            for member in self._members.values():
                member.due = self._now() + RETRY_SECONDS

    def turn(self) -> None:
        """Give one turn to the spool that is due longest."""
        with self._lock:
            waiting = [member for member in self._members.values() if not member.finished]
        if waiting:
            begun = self._now()
            self._turn(min(waiting, key=lambda member: member.due))
            self._pace.took(self._now() - begun)

    def _turn(self, member: _Member) -> None:
        member.woken = False
        pipeline = member.pipeline
        try:
            owned = pipeline.reader.is_owned()
            if self._resolve is not None:
                pipeline.identity = self._resolve(pipeline.identity, owned)
            result = pipeline.turn(
                now=self._now,
                until=self._now() + TURN_SECONDS,
                owned=owned,
                flush_all=self._flush_all,
            )
        except (SpoolError, ShipperError, OSError) as error:
            self._unreadable(member, error)
            return
        self._note(member, result, owned)

    def _note(self, member: _Member, result: TurnResult, owned: bool) -> None:
        now, pipeline, member.owned = self._now(), member.pipeline, owned
        if pipeline.take_delivered():
            # Before the failure that may have ended the turn, which starts a new backoff.
            self._sink.succeeded(key=self.key)
            self.state.succeeded()
            self._held_until = 0.0
        if result.failure is not None:
            member.caught_up = False
            self._note_failure(result.failure)
            member.due = now
            return
        with self._lock:
            member.caught_up = result.at_end
            linger = pipeline.linger_seconds()
            member.finished = result.at_end and not owned and linger is None
            if member.woken and member.caught_up:
                member.caught_up, member.finished = False, False
            if result.more or member.woken:
                member.due = now
            elif result.wait is not None:
                member.due = now + min(result.wait, pipeline.flush_seconds)
            elif result.at_end:
                member.due = now + min(SLEEP_SECONDS, linger or SLEEP_SECONDS)
            else:
                member.due = now + pipeline.flush_seconds

    def _note_failure(self, outcome: Outcome) -> None:
        of_sink = outcome.disposition is Disposition.RETRY and outcome.scope == "sink"
        if of_sink and not self._sink.is_alone(self.key):
            wait = self._sink.failed(outcome, key=self.key)
            self._held_until = self._now() + wait + YIELD_SECONDS
        else:
            self.state.failed(outcome)

    def _unreadable(self, member: _Member, error: Exception) -> None:
        """A spool cannot be read, or its position not be saved; the others continue."""
        member.caught_up = False
        member.due = self._now() + RETRY_SECONDS
        if str(error) == member.logged:
            return
        member.logged = str(error)
        log.error(
            "spool cannot be shipped, retrying",
            extra=fields(
                sink=self._sink.sink,
                workload=self.key,
                spool=member.pipeline.identity.spool,
                path=member.pipeline.reader.directory,
                detail=error,
                retry_in=RETRY_SECONDS,
            ),
        )


def _is_in_doubt(pipeline: Pipeline) -> bool:
    """Whether a writer that counts as living has lost its lock: in another pod, it has died."""
    try:
        evidence = Reader(pipeline.reader.directory).liveness_evidence()
    except (SpoolError, OSError):
        return False
    return evidence.lock is Lock.FREE_OFD and evidence.process is ProcessState.UNSEEN


def pending(
    queues: Mapping[QueueKey, DeliveryQueue], states: Mapping[str, SinkState]
) -> Iterator[str]:
    """One line for each spool and sink with records to send, and the current failure."""
    for (sink, _), queue in sorted(queues.items()):
        failure = states[sink].failure or queue.state.failure
        why = f" ({failure.reason}: {failure.detail})" if failure else ""
        for pipeline in queue.pipelines():
            try:
                count = pipeline.reader.last_seq() - pipeline.position.seq
                left = f"{count} records" if count > 0 else ""
                if not left:
                    pipeline.reader.is_drained(pipeline.position.seq)
            except (SpoolError, OSError) as error:
                left = f"unreadable ({error}), perhaps records"
            if left:
                yield f"{pipeline.reader.directory}: {left} for {sink}{why}"


def summary(
    queues: Mapping[QueueKey, DeliveryQueue], states: Mapping[str, SinkState], *, spools: int
) -> str:
    """One line: how many spools there are, and what each sink has pending; cheap."""
    counts = dict.fromkeys(states, 0)
    for (sink, _), queue in queues.items():
        for pipeline in () if queue.caught_up() else queue.pipelines():
            with contextlib.suppress(SpoolError, OSError):  # logged where it is read
                counts[sink] += max(0, pipeline.reader.last_seq() - pipeline.position.seq)
    parts = [f"{spools} spools"]
    for sink, count in counts.items():
        failure = states[sink].failure
        parts.append(f"{sink}: {count} pending{f' ({failure.reason})' if failure else ''}")
    return "; ".join(parts)

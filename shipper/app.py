"""Wires the parts of one service process: spools, queues, sinks, and who works on them.

Three kinds of threads use them. Housekeeping scans the root and cleans it, and is the only one that
adds or removes spools and queues; the others iterate over copies. The poller wakes queues. Workers
give queues their turns.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from shipper.config.schema import Config
from shipper.delivery.counters import Metrics, instrument
from shipper.delivery.credential_watch import CredentialWatch
from shipper.delivery.new_sinks import start_new_sinks
from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.delivery.queue import DeliveryQueue, QueueKey, pending
from shipper.delivery.resend import ResendingPipeline
from shipper.delivery.scheduler import Scheduler
from shipper.delivery.sink_state import SinkState
from shipper.delivery.workers import Workers, pool_of
from shipper.discovery.poller import SpoolPoller, poll_interval
from shipper.discovery.scanner import SpoolScanner
from shipper.health.liveness import ServiceLiveness
from shipper.ledger.ledger import Ledger
from shipper.log import fields
from shipper.retention.cleaner import Cleaner, TrackedSpool
from shipper.sinks import ResolvesIdentity, Sink, Volatile, build_sinks, enabled_sinks, workload_key
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk, Reader

log = logging.getLogger(__name__)

# How long the ledger keeps the positions of spools whose files are deleted.
MEMORY_SECONDS = 30 * 86400.0
# How often to store how far spools are written. It takes half a millisecond for each live one.
NOTE_SECONDS = 30.0


class App:
    """The parts of one service process."""

    def __init__(self, config: Config, *, once: bool, changed: Callable[[], None]) -> None:
        """`changed` is called when the main thread has something to do; from any thread."""
        self.config = config
        self.now = time.monotonic
        self.ledger = Ledger(config.state)
        self.metrics = Metrics()
        self.liveness = ServiceLiveness(self.metrics)
        self._context = DeliveryContext(ledger=self.ledger, config=config)
        enabled = enabled_sinks(config)
        start_new_sinks(self.ledger, {name: one.type for name, one in enabled.items()})
        self.sinks: dict[str, Sink] = {
            name: instrument(sink, self.metrics) for name, sink in build_sinks(enabled).items()
        }
        self.states = {
            name: SinkState(name, self.now, resumed=partial(self._put_all, (name,)))
            for name in self.sinks
        }
        self.spools: dict[str, TrackedSpool] = {}
        self.queues: dict[QueueKey, DeliveryQueue] = {}
        self.scheduler: Scheduler[QueueKey] = Scheduler(
            lambda key: self.queues[key].due(), self.now, lambda key: pool_of(key, self.queues)
        )
        self.workers = Workers(
            scheduler=self.scheduler,
            count=config.workers,
            turn=self.turn,
            after=lambda: changed() if self._flush_all else None,
        )
        self.cleaner = Cleaner(
            context=self._context,
            scheduler=self.scheduler,
            spools=self.spools,
            queues=self.queues,
            sinks=self.sinks.keys(),
            metrics=self.metrics,
        )
        self.scanner = SpoolScanner(
            config=config,
            ledger=self.ledger,
            shipping=self,
            quarantine=self.cleaner.quarantine.move_unattributed,
            now=self.now,
        )
        self.poller = SpoolPoller(self.wake, self.now)
        self._written: dict[str, int] = {}  # spool -> the seq that was stored last
        self._note_at = self.now()
        self._flush_all = once
        self._changed = changed
        self._credentials = CredentialWatch(self.sinks, self.states, self.now, config.read_timeout)

    # --- spools -----------------------------------------------------------------------------------

    def add_spool(self, reader: Reader, identity: Identity) -> None:
        """Ship a spool from now on, unless its job or the operator has disabled that."""
        directory, spool = reader.directory, identity.spool
        enabled = self.config.api_reporting and identity.api_reporting
        keys = [(name, sink.ordering_key(identity)) for name, sink in self.sinks.items()]
        # What may fail comes first: a spool that is known here is shipped.
        written = reader.last_seq() if enabled else 0
        self.ledger.remember_spool(spool, reader.place, identity.to_map(), written)
        pipelines = {key: self._pipeline(key, reader.another(), identity) for key in keys * enabled}
        self.spools[spool] = TrackedSpool(
            reader=reader, identity=identity, queues=tuple(keys), disabled=not enabled
        )
        values = fields(spool=spool, path=directory, workload=workload_key(identity))
        if not enabled:
            log.info("spool recorded, shipping is disabled for it", extra=values)
        else:
            log.info("shipping spool", extra=values)
            for key, pipeline in pipelines.items():
                self._add_pipeline(key, pipeline)
            # What was delivered before this process began can be deleted before it has a turn.
            if keys:
                self.cleaner.mark_dirty(keys[0])
        # Last: the first poll must find the queues to wake.
        seconds = poll_interval(self.config.seconds_to_flush(identity))
        self.poller.add(reader.another(), seconds)

    def remove_spool(self, spool: str) -> bool:
        """Ship a spool no more, until it is added again; False while one of its queues is busy."""
        keys = [key for key in self.spools[spool].queues if key in self.queues]
        if not self.scheduler.hold(keys):
            return False
        self.cleaner.forget(spool)
        for key in keys:
            self.scheduler.release(key)
        return True

    def _pipeline(self, key: QueueKey, reader: Reader, identity: Identity) -> Pipeline:
        sink = self.sinks[key[0]]
        make = ResendingPipeline if isinstance(sink, Volatile) else Pipeline
        return make(reader=reader, identity=identity, sink=sink, context=self._context)

    def _add_pipeline(self, key: QueueKey, pipeline: Pipeline) -> None:
        sink = self.sinks[key[0]]
        if key not in self.queues:
            self.queues[key] = DeliveryQueue(
                key=key[1],
                sink_state=self.states[sink.name],
                flush_all=self._flush_all,
                now=self.now,
                resolve=self._resolver(sink),
            )
        self.queues[key].add(pipeline)
        self.scheduler.put(key)
        self.workers.serve(sink.name)
        self._changed()  # its sink may have no workers yet

    def _resolver(self, sink: Sink) -> Callable[[Identity, bool], Identity] | None:
        """What completes identities for this sink."""
        if not isinstance(sink, ResolvesIdentity):
            return None
        resolve = sink.resolve
        return lambda identity, alive: resolve(identity, self.ledger, alive=alive)

    # --- turns ------------------------------------------------------------------------------------

    def wake(self, changed: Mapping[str, Reader | None]) -> None:
        """Wake queues of spools that have grown, as their readers noticed, or lost their writer.

        What they have grown by is read once for all sinks, and before any queue gets its turn:
        threads that read beside each other hinder each other at every system call.
        """
        woken = [key for spool, reader in changed.items() for key in self._wake(spool, reader)]
        for key in woken:
            self.scheduler.put(key)

    def _wake(self, spool: str, reader: Reader | None) -> Iterator[QueueKey]:
        """The queues that need a turn; the position of the others moves at once."""
        known = self.spools.get(spool)
        keys = [key for key in known.queues if key in self.queues] if known is not None else []
        ends = [end for key in keys if (end := self.queues[key].end_of(spool)) is not None]
        news = reader.growth(min(ends)) if reader is not None and ends else None
        for key in keys:
            if news is None or not self._pass_over(key, spool, news):
                self.queues[key].wake(spool, news)
                yield key

    def _pass_over(self, key: QueueKey, spool: str, news: Chunk) -> bool:
        if not self.scheduler.hold([key]):
            return False
        try:
            return self.queues[key].pass_over(spool, news)
        finally:
            self.scheduler.release(key)

    def turn(self, key: QueueKey) -> None:
        """Give a queue its turn, on a worker's thread."""
        self.liveness.turn_started()
        try:
            self.queues[key].turn()
        except Exception:
            # An internal error in one queue must not end the thread that all queues share.
            values = fields(sink=key[0], workload=key[1])
            log.exception("internal error, queue retried later", extra=values)
            self.queues[key].postpone()
        finally:
            self.cleaner.mark_dirty(key)
            self.liveness.turn_ended()

    def retry_renewed(self) -> None:
        """Retry the sinks whose credentials have changed on disk."""
        renewed = self._credentials.renewed()
        for key, queue in list(self.queues.items()) if renewed else ():
            if key[0] in renewed:
                queue.retry_now()
        self._put_all(renewed)

    def flush(self) -> None:
        """Deliver all that is there as soon as possible, and report each turn from now on."""
        self._flush_all = True
        for state in self.states.values():
            state.retry_now()
        for queue in list(self.queues.values()):
            queue.flush()
        self._put_all(self.states.keys())

    def _put_all(self, sinks: Collection[str]) -> None:
        """The queues of these sinks may be due earlier than they were."""
        for key in list(self.queues) if sinks else ():
            if key[0] in sinks:
                self.scheduler.put(key)

    # --- state ------------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether all that is there has been delivered, except what has no address to go to."""
        return (
            self.scanner.is_done
            and self.scheduler.is_idle()
            and all(
                queue.is_drained() or queue.is_hopeless() for queue in list(self.queues.values())
            )
        )

    def needs_operator(self) -> bool:
        """Whether a sink has a failure that no waiting ends."""
        return any(state.needs_operator for state in self.states.values())

    def pending(self) -> list[str]:
        """One line for each spool and sink that has records to send, and why."""
        lines = [f"{path}: {why}" for path, why in sorted(self.scanner.unreadable.items())]
        if not self.scanner.is_done:
            lines.append(f"{self.config.spool}: not scanned to its end, perhaps more spools")
        return [*lines, *pending(self.queues, self.states)]

    def outages(self) -> Iterator[tuple[QueueKey, SinkState]]:
        """The states of the sinks, with workload "", and of every queue that ever failed."""
        for name, state in self.states.items():
            yield (name, ""), state
        for key, queue in list(self.queues.items()):
            state = queue.state
            if state.outage is None:
                continue
            if state.failure is not None and queue.due() == float("inf"):
                state.clear()  # each of its spools is delivered, and its writer gone
            yield key, state

    def changes(self) -> object | None:
        """A value that changes with any spool or the ledger; None while that is not known."""
        if self.scanner.unreadable:
            return None
        return self.ledger.stamp(), self.poller.changes_seen, self.metrics.deletions()

    def clean(self) -> None:
        """Delete what retention and the limits do not keep."""
        if self.now() >= self._note_at:
            self._note_at = self.now() + NOTE_SECONDS
            self._note_written()
        self.cleaner.clean()
        self.poller.keep(self.spools.keys())
        discarded = self.ledger.trim_dead_letters(
            max_count=self.config.dead_letter_count, max_bytes=self.config.dead_letter_bytes
        )
        if discarded:
            log.error(
                "dead letters above their limit, oldest discarded",
                extra=fields(count=discarded, reason="dead-letter-limit"),
            )
        self.ledger.prune(before=time.time() - MEMORY_SECONDS)

    def _note_written(self) -> None:
        """Store how far the spools with pending records are written: their files may vanish."""
        written = {}
        for queue in self.queues.values():
            for spool in () if queue.caught_up() else queue.spools():
                with contextlib.suppress(KeyError, SpoolError, OSError):  # gone, or not readable
                    written[spool] = self.spools[spool].reader.last_seq()
        news = {spool: seq for spool, seq in written.items() if seq > self._written.get(spool, 0)}
        if news:
            self.ledger.note_written(news)
        self._written = written

    def close(self) -> None:
        """Close sinks and ledger; nothing may use them any more."""
        for sink in self.sinks.values():
            sink.close()
        self.ledger.close()

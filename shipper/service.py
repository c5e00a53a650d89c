"""The life of the service: finds spools, gives lanes their turns, tidies up, ends when told to.

The main thread answers signals and the service manager, and renews credentials. Looks into tenants'
folders run on other threads: housekeeping (finds spools, tidies up), the pulse, the workers. Only
housekeeping changes which spools and lanes there are; the others iterate over copies.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from shipper.admin.refresher import StatusRefresher
from shipper.config.schema import Config
from shipper.delivery import pending
from shipper.delivery.contents import Contents
from shipper.delivery.counters import Meters, measured
from shipper.delivery.credential_watch import CHECK_SECONDS, CredentialWatch
from shipper.delivery.new_sinks import start_new_sinks
from shipper.delivery.pipeline import Route, Together
from shipper.delivery.queue import Lane
from shipper.delivery.resend import RememberingRoute
from shipper.delivery.scheduler import Schedule
from shipper.delivery.shared import Recent, SharedReader
from shipper.delivery.sink_state import Health
from shipper.delivery.workers import LaneKey, Workers, queue_of
from shipper.discovery.poller import Pulse, seconds_between
from shipper.discovery.root_watcher import Watch
from shipper.discovery.scanner import Newcomers
from shipper.health.heartbeat import HeartbeatWriter
from shipper.health.liveness import HOUSEKEEPING, MAIN, ServiceLiveness
from shipper.health.sd_notify import SystemdNotifier
from shipper.ledger.ledger import Ledger
from shipper.log import fields, flush_repeats
from shipper.retention.cleaner import Spool, Tidying
from shipper.retention.maintenance import Housekeeping
from shipper.sinks import ResolvesIdentity, Sink, Volatile, build_sinks, enabled_sinks, workload_key
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# SIGTERM promises an end within ten seconds; a request or a look may take longer than its share.
STOP_SECONDS = 8.0
# What housekeeping and the page get to end when others have taken all of that.
LAST_SECONDS = 0.5
# How long the ledger remembers what was settled of spools whose files are gone.
MEMORY_SECONDS = 30 * 86400.0


class Service:
    """Ships everything under `config.spool` until `stop`; see `run` and `ship_once`."""

    def __init__(self, config: Config, *, once: bool = False) -> None:
        self._config = config
        self._once = once
        self._ledger = Ledger(config.state)
        self._now = time.monotonic
        self._manager = SystemdNotifier(os.environ, now=self._now)
        self._woken = threading.Event()  # the main thread has something to see to
        self._stopping = False
        self._tidied = self._now()
        self._spools: dict[str, Spool] = {}
        self._lanes: dict[LaneKey, Lane] = {}
        self._schedule: Schedule[LaneKey] = Schedule(
            lambda key: self._lanes[key].due(), self._now, lambda key: queue_of(key, self._lanes)
        )
        self._workers = Workers(
            schedule=self._schedule,
            lanes=self._lanes,
            count=config.workers,
            turn=self._turn,
            after=self._woken.set if once else lambda: None,
        )
        meters = Meters()
        enabled = enabled_sinks(config)
        start_new_sinks(self._ledger, {name: one.type for name, one in enabled.items()})
        self._sinks: dict[str, Sink] = {
            name: measured(sink, meters) for name, sink in build_sinks(enabled).items()
        }
        self._tidying = Tidying(
            config=config,
            ledger=self._ledger,
            schedule=self._schedule,
            spools=self._spools,
            lanes=self._lanes,
            meters=meters,
        )
        self._newcomers = Newcomers(
            config=config,
            ledger=self._ledger,
            is_known=self._is_known,
            take_in=self._take_in,
            set_aside=self._tidying.set_aside,
            now=self._now,
        )
        self._health = {name: Health(name, self._now) for name in self._sinks}
        self._credentials = CredentialWatch(
            self._sinks, self._health, self._now, config.read_timeout
        )
        self._pulse = Pulse(self._wake, self._now)
        self._house = Housekeeping(self._keep_house, self._woken.set)
        self._watch: Watch | None = None
        self._recent = Recent(self._now)
        self._contents = Contents()
        self._together = Together(ledger=self._ledger, config=config, contents=self._contents)
        self._heartbeat = HeartbeatWriter(self._ledger, self._now)
        self._liveness = ServiceLiveness(meters)
        self._meters = meters
        self._refresher: StatusRefresher | None = None
        if not once and config.http_listen != "off":
            self._refresher = StatusRefresher(
                config, self._ledger, meters, self._liveness, self._changes
            )

    # --- for whoever runs it ----------------------------------------------------------------------

    def run(self) -> None:
        """Ship until `stop` is called; returns within `STOP_SECONDS` of that."""
        log.info(
            "shipping %s, state in %s",
            self._config.spool,
            self._config.state,
            extra=fields(path=self._config.spool, state=self._config.state),
        )
        self._pulse.start()
        self._house.start()
        self._liveness.begin(lambda: [self._house.thread, *self._workers.all()])
        if self._refresher is not None:
            self._refresher.start()
        try:
            while not self._stopping:
                self._house.check()
                self._workers.start()
                self._beat_if_due()
                self._liveness.loop_ran(MAIN)
                self._tell_manager()
                self._retry_if_renewed()
                if self._once and self._is_done():
                    break
                self._pause()
        finally:
            self._stopping = True
            self._manager.stopping()
            self._end()
        self._house.check()

    def stop(self) -> None:
        """End soon; safe from any thread and from a signal handler."""
        self._stopping = True
        self._woken.set()

    def look(self) -> None:
        """Walk the root now: something has appeared there."""
        self._newcomers.look()
        self._house.wake()

    def pending(self) -> list[str]:
        """One line for each spool and sink that still has something to send, and why."""
        unreadable = sorted(self._newcomers.unreadable.items())
        lines = [f"{path}: {text}" for path, text in unreadable]
        if not self._newcomers.is_done:
            lines.append(f"{self._config.spool}: not walked to its end, perhaps more spools")
        return lines + pending.lines(self._lanes, self._health)

    def _is_open(self) -> bool:
        """Whether the root is there and can be watched."""
        return os.access(self._config.spool, os.R_OK | os.X_OK) and os.path.isdir(
            self._config.spool
        )

    # --- housekeeping -----------------------------------------------------------------------------

    def _keep_house(self) -> float:
        """Look for new spools and tidy up; seconds until the next time."""
        if not self._stopping:
            if self._watch is None and self._is_open():
                self._watch = Watch(self._config.spool, self.look)
            self._newcomers.walk_if_due()
            self._tidy_if_due()
            self._liveness.loop_ran(HOUSEKEEPING)
        return min(self._newcomers.seconds, self._tidied + self._tidying.seconds - self._now())

    def _keep_house_last(self, *, tidy: bool) -> None:
        if self._watch is not None:
            self._watch.stop()
        if tidy:
            self._tidy()

    # --- taking spools in -------------------------------------------------------------------------

    def _take_in(self, reader: Reader, identity: Identity) -> None:
        directory = reader.directory
        withheld = not (self._config.api_reporting and identity.api_reporting)
        workload = workload_key(identity)
        self._spools[identity.spool] = Spool(
            reader=reader,
            identity=identity,
            lanes=tuple((name, sink.ordering_key(identity)) for name, sink in self._sinks.items()),
            withheld=withheld,
        )
        self._ledger.remember_spool(identity.spool, directory, identity.to_map())
        if withheld:
            log.info(
                "%s: reporting is switched off for it; recorded, not shipped",
                directory,
                extra=fields(spool=identity.spool, path=directory),
            )
            self._feel(reader, identity)
            return
        log.info(
            "%s: shipping (%s)",
            directory,
            workload,
            extra=fields(spool=identity.spool, path=directory, workload=workload),
        )
        one_at_a_time = threading.Lock()
        for sink in self._sinks.values():
            own = SharedReader(
                directory,
                reader.place,
                recent=self._recent,
                contents=self._contents,
                lock=one_at_a_time,
            )
            self._open_route(sink, own, identity)
        # What was delivered before this service began can go before it has had a turn.
        self._tidying.touch(self._spools[identity.spool].lanes[0])
        # Last: what it feels first must find the lanes to wake.
        self._feel(reader, identity)

    def _is_known(self, directory: Path) -> bool:
        known = self._spools.get(directory.name)
        return known is not None and known.reader.directory == directory

    def _feel(self, reader: Reader, identity: Identity) -> None:
        seconds = seconds_between(self._config.seconds_to_flush(identity))
        self._pulse.add(Reader(reader.directory, reader.place), seconds)

    def _open_route(self, sink: Sink, reader: Reader, identity: Identity) -> None:
        key = (sink.name, sink.ordering_key(identity))
        lane = self._lanes.get(key)
        if lane is None:
            lane = Lane(
                key=key[1],
                sink_health=self._health[sink.name],
                flush_all=self._once,
                now=self._now,
                resolve=self._resolver(sink),
            )
        route = RememberingRoute if isinstance(sink, Volatile) else Route
        lane.add(
            route(
                reader=reader,
                identity=identity,
                sink=sink,
                together=self._together,
            )
        )
        self._lanes[key] = lane
        self._schedule.put(key)
        self._woken.set()  # its sink may have no workers yet

    def _resolver(self, sink: Sink) -> Callable[[Identity, bool], Identity] | None:
        """What completes identities for this sink."""
        if not isinstance(sink, ResolvesIdentity):
            return None
        resolve = sink.resolve
        return lambda identity, alive: resolve(identity, self._ledger, alive=alive)

    # --- turns ------------------------------------------------------------------------------------

    def _wake(self, spool: str) -> None:
        """There is something new in a spool, or its writer is gone."""
        known = self._spools.get(spool)
        if known is None:
            return
        self._recent.renew(spool)
        for key in known.lanes:
            lane = self._lanes.get(key)
            if lane is not None:
                lane.wake(spool)
                self._schedule.put(key)

    def _give_turn(self, key: LaneKey) -> None:
        try:
            self._lanes[key].turn()
        finally:
            self._tidying.touch(key)

    def _turn(self, key: LaneKey) -> None:
        """A lane's turn on a worker's thread."""
        self._liveness.turn_started()
        try:
            self._give_turn(key)
        except Exception:
            # A fault of ours in one lane must not end the thread all lanes share.
            log.exception(
                "%s, %s: unexpected; tried again later",
                *key,
                extra=fields(sink=key[0], workload=key[1]),
            )
            self._lanes[key].rest()
        finally:
            self._liveness.turn_ended()

    def _pause(self) -> None:
        """Let the main thread sleep until the next sign of life, or until it is woken."""
        if not self._stopping:
            longest = min(self._heartbeat.seconds, self._manager.ping_seconds)
            if any(health.needs_operator for health in self._health.values()):
                longest = min(longest, CHECK_SECONDS)
            self._woken.wait(max(0.001, longest))
        self._woken.clear()

    def _retry_if_renewed(self) -> None:
        """Retry the sinks whose credentials have changed on disk."""
        renewed = self._credentials.renewed()
        for key in list(self._lanes) if renewed else ():
            if key[0] in renewed:
                self._schedule.put(key)

    def _is_done(self) -> bool:
        return (
            self._newcomers.is_done
            and self._schedule.is_quiet()
            and all(lane.caught_up() for lane in list(self._lanes.values()))
        )

    def _end(self) -> None:
        self._pulse.end()
        self._schedule.end()
        if self._refresher is not None:
            self._refresher.end()
        deadline = self._now() + STOP_SECONDS
        idle = self._workers.went_home(within=STOP_SECONDS)
        last = partial(self._keep_house_last, tidy=idle)
        looked = self._house.end(last, within=max(LAST_SECONDS, deadline - self._now()))
        if self._refresher is not None:
            within = max(LAST_SECONDS, deadline - self._now())
            looked = self._refresher.join(within=within) and looked
        self._tidying.end()
        self._heartbeat.beat(self._healths(), stopped=True)
        if not idle:
            log.warning(
                "a request is still under way; its records stay pending and are sent again",
                extra=fields(reason="stopped-in-request"),
            )
        if not looked:
            log.warning(
                "a look into the spool root is still under way; it is left unfinished",
                extra=fields(path=self._config.spool, reason="stopped-in-look"),
            )
        if not (idle and looked):
            return
        for sink in self._sinks.values():
            sink.close()
        self._ledger.close()
        log.info(
            "stopped; positions are saved in %s",
            self._config.state,
            extra=fields(state=self._config.state),
        )

    def _changes(self) -> object | None:
        """Something else once a spool or the ledger has changed; None where that is not felt."""
        if self._newcomers.unreadable:
            return None
        return self._ledger.stamp(), self._pulse.woken, self._meters.deletions()

    def _healths(self) -> Iterator[tuple[LaneKey, Health]]:
        """Those of the sinks, with no workload, and of every lane that was ever in trouble."""
        for name, health in self._health.items():
            yield (name, ""), health
        for key, lane in list(self._lanes.items()):
            if lane.health.trouble is not None and lane.due() == float("inf"):
                lane.health.nobody_waits()  # each of its spools is settled, and its writer gone
            if lane.health.spell is not None:
                yield key, lane.health

    def _tell_manager(self) -> None:
        """Say that the service is ready, and for as long as it is healthy that it is alive."""
        if not self._liveness.ready():
            self._manager.ready(f"shipping {self._config.spool}")
            if not self._liveness.healthy():
                self._manager.alive()

    def _beat_if_due(self) -> None:
        """Say that we are here and where the port is, and what the log has held back."""
        if self._heartbeat.seconds > 0:
            return
        if self._refresher is not None:
            self._heartbeat.address = self._refresher.address
            self._heartbeat.problem = self._refresher.problem
        self._heartbeat.beat(self._healths())
        flush_repeats()

    def _tidy_if_due(self) -> None:
        if self._now() - self._tidied >= self._tidying.seconds:
            self._tidied = self._now()
            self._tidy()
            if self._manager.is_used:
                self._manager.status(
                    pending.summary(self._lanes, self._health, spools=len(self._spools))
                )

    def _tidy(self) -> None:
        """Delete what may go, and forget what is long over."""
        self._tidying.tidy()
        given_up = self._ledger.trim_dead_letters(
            max_count=self._config.dead_letter_count, max_bytes=self._config.dead_letter_bytes
        )
        if given_up:
            log.error(
                "%d dead letters are given up: more than their limits allow",
                given_up,
                extra=fields(count=given_up, reason="dead-letter-limit"),
            )
        self._ledger.prune(before=time.time() - MEMORY_SECONDS)


def ship_once(config: Config, *, timeout: float) -> list[str]:
    """Ship everything that is there; return what is still pending after `timeout` seconds."""
    service = Service(config, once=True)
    timer = threading.Timer(timeout, service.stop)
    timer.daemon = True
    timer.start()
    try:
        service.run()
    finally:
        timer.cancel()
    return service.pending()

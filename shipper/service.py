"""The service: main loop, housekeeping thread, signals and shutdown.

The main thread answers signals and the service manager, writes the heartbeat and checks
credentials. It never reads a tenant's directory: a disk that hangs must not stop it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial

from shipper.admin.refresher import StatusRefresher
from shipper.app import App
from shipper.config.schema import Config
from shipper.delivery.credential_watch import CHECK_SECONDS
from shipper.delivery.queue import summary
from shipper.discovery.root_watcher import RootWatcher
from shipper.discovery.same_spool import is_missing, missing_records
from shipper.errors import ShipperError, StateUnusable
from shipper.health.heartbeat import HeartbeatWriter
from shipper.health.liveness import HOUSEKEEPING, MAIN
from shipper.health.root_mark import RootMarker
from shipper.health.sd_notify import SystemdNotifier
from shipper.ledger.database import DATABASE_NAME, LOCK_NAME
from shipper.ledger.ledger import Ledger
from shipper.ledger.snapshot import read_snapshot
from shipper.log import fields, flush_repeats

log = logging.getLogger(__name__)

# SIGTERM promises an end within ten seconds, or a little more than `drain_seconds`; a request or a
# scan may take longer.
STOP_SECONDS = 8.0
# What housekeeping and the HTTP port get when others have used all of that.
LAST_SECONDS = 0.5
_JOIN_SECONDS = 0.1
_NO_ROOT = (
    "does not exist. The first job whose PRIMUS_LENS_WANDB_OUTPUT_PATH names it creates it:"
    " `lens-ship hook status` in that job's environment tells whether it records"
)
# How often to look whether the root is still the directory that is watched.
ROOT_SECONDS = 1.0
# Housekeeping that could not write the state, or not read a directory, is repeated after this.
RETRY_SECONDS = 10.0


class Housekeeping:
    """Calls `work` again and again on its thread, after the seconds it returns or once woken.

    `done` is called after each time, and when `work` has failed.
    """

    def __init__(self, work: Callable[[], float], done: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._work = work
        self._done = done
        self._last: Callable[[], None] | None = None
        self._woken = threading.Event()
        self._error: Exception | None = None

    def start(self) -> None:
        self.thread.start()

    def wake(self) -> None:
        """There is work now; from any thread."""
        self._woken.set()

    def check(self) -> None:
        """Raise what `work` or `last` has raised, which ended the thread."""
        if self._error is not None:
            raise self._error

    def stop(self, last: Callable[[], None], *, within: float) -> bool:
        """Call `last` after the current work, and end; whether that took at most `within`."""
        self._last = last
        self._woken.set()
        self.thread.join(max(0.0, within))
        return not self.thread.is_alive()

    def _run(self) -> None:
        try:
            while self._last is None:
                seconds = self._work()
                self._done()
                self._woken.wait(max(0.001, seconds))
                self._woken.clear()
            self._last()
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._error = error
            self._done()


class Service:
    """Ships everything under `config.spool` until `end`; see `run` and `ship_once`."""

    def __init__(self, config: Config, *, once: bool = False) -> None:
        self._config = config
        self._once = once
        self._woken = threading.Event()  # the main thread has something to do
        self._stopping = False
        self._end_at: float | None = None  # monotonic seconds; the end of a drain
        self._stop_by = float("inf")  # monotonic seconds
        self.app = App(config, once=once, changed=self._woken.set)
        self._now = self.app.now
        self._cleaned = self._now()
        self._state_missed = 0  # heartbeats
        self._marker = RootMarker(
            config.spool, config.state, self._now, by_pod=config.pod_directories
        )
        self._watcher: RootWatcher | None = None
        self._watched: tuple[int, int] | None = None  # device and inode of the root
        self._housekeeping = Housekeeping(self._keep_house, self._woken.set)
        self._manager = SystemdNotifier(os.environ, now=self._now)
        self._heartbeat = HeartbeatWriter(self.app.ledger, self._now)
        self._refresher: StatusRefresher | None = None
        if not once and config.http_listen != "off":
            app = self.app
            self._refresher = StatusRefresher(
                config, app.ledger, app.metrics, app.liveness, app.changes
            )

    def run(self) -> None:
        """Ship until `end` or `stop` is called; returns within their seconds of that."""
        log.info("service started", extra=fields(path=self._config.spool, state=self._config.state))
        app = self.app
        app.poller.start()
        self._housekeeping.start()
        app.liveness.begin(lambda: [self._housekeeping.thread, *app.workers.all()])
        if self._refresher is not None:
            self._refresher.start()
        try:
            while not self._stopping:
                self._housekeeping.check()
                app.workers.start()
                self._beat_if_due()
                app.liveness.loop_ran(MAIN)
                self._notify_manager()
                app.retry_renewed()
                if self._is_over():
                    break
                self._pause()
        finally:
            self._stopping = True
            self._stop_by = min(self._stop_by, self._now() + STOP_SECONDS)
            self._manager.stopping(within=2 * STOP_SECONDS)
            self._shut_down()
        self._housekeeping.check()

    def end(self) -> None:
        """Deliver what is there for up to `drain_seconds`, then shut down; from any thread.

        A second call shuts down at once.
        """
        if self._end_at is not None:
            self.stop(within=LAST_SECONDS)
        else:
            self._end_at = self._now() + self._config.drain_seconds
            self._woken.set()

    def stop(self, *, within: float = STOP_SECONDS) -> None:
        """Shut down, at most `within` seconds later; from any thread."""
        self._stop_by = min(self._stop_by, self._now() + within)
        self._stopping = True
        self._woken.set()

    def scan(self) -> None:
        """Scan the root now: something has appeared there."""
        self.app.scanner.request_scan()
        self._housekeeping.wake()

    # --- housekeeping thread ----------------------------------------------------------------------

    def _keep_house(self) -> float:
        """Scan for new spools and clean; seconds until the next time."""
        try:
            return self._scan_and_clean()
        except (ShipperError, OSError) as error:
            _log_failure(error)
            return RETRY_SECONDS
        finally:
            self.app.liveness.loop_ran(HOUSEKEEPING)

    def _scan_and_clean(self) -> float:
        scanner, cleaner = self.app.scanner, self.app.cleaner
        if not self._stopping:
            self._watch()
            self._marker.renew_if_due()
            scanner.scan_if_due()
            if self._now() - self._cleaned >= cleaner.seconds:
                self._cleaned = self._now()
                self.app.clean()
                if self._manager.is_used:
                    app = self.app
                    self._manager.status(summary(app.queues, app.states, spools=len(app.spools)))
        due = min(scanner.seconds, self._cleaned + cleaner.seconds - self._now())
        return min(due, ROOT_SECONDS)

    def _watch(self) -> None:
        """Watch the root, and whatever takes its place: after a mount it is another directory."""
        root = self._config.spool
        try:
            found = os.stat(root)
            usable = os.access(root, os.R_OK | os.X_OK) and os.path.isdir(root)
        except OSError:
            usable = False
        mark = (found.st_dev, found.st_ino) if usable else None
        ended = self._watcher is not None and self._watcher.has_ended
        if mark == self._watched and not ended:
            return
        if self._watcher is not None:
            self._watcher.stop()
        self._watched = mark
        self._watcher = RootWatcher(root, self.scan) if mark else None
        self.app.scanner.request_scan()

    def _keep_house_last(self, *, clean: bool) -> None:
        if self._watcher is not None:
            self._watcher.stop()
        self._marker.end()
        try:
            if clean:
                self.app.clean()
        except (ShipperError, OSError) as error:
            _log_failure(error)

    # --- main thread ------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        """Whether the service has to shut down; begins the drain after `end`."""
        if self._end_at is None:
            return self._once and self.app.is_done()
        if self._now() >= self._end_at:
            seconds = max(LAST_SECONDS, STOP_SECONDS - self._config.drain_seconds)
            self._stop_by = min(self._stop_by, self._now() + seconds)
            return True
        if not self._once:
            self._once = True
            seconds = self._config.drain_seconds
            log.info("delivering what is left before the end", extra=fields(seconds=seconds))
            self._manager.stopping(within=seconds + STOP_SECONDS)
            self.app.flush()
            self.scan()
        return self.app.is_done()

    def _pause(self) -> None:
        """Sleep until the next heartbeat, or until woken."""
        if not self._stopping:
            longest = min(self._heartbeat.seconds, self._manager.ping_seconds)
            if self._end_at is not None:
                longest = min(longest, self._end_at - self._now())
            if self.app.needs_operator():
                longest = min(longest, CHECK_SECONDS)
            self._woken.wait(max(0.001, longest))
        self._woken.clear()

    def _beat_if_due(self) -> None:
        """Write the heartbeat, and the repeats that the log has held back."""
        if self._heartbeat.seconds > 0:
            return
        self._check_state()
        if self._refresher is not None:
            self._heartbeat.address = self._refresher.address
            self._heartbeat.problem = self._refresher.problem
        self._heartbeat.beat(self.app.outages())
        flush_repeats()

    def _check_state(self) -> None:
        """End the service when its state was removed, before a second one works beside it.

        Raises:
            StateUnusable: at two heartbeats; a directory that is moved may come back.
        """
        ledger = self.app.ledger
        self._state_missed = 0 if ledger.is_in_place() else self._state_missed + 1
        if self._state_missed > 1:
            raise StateUnusable(
                f"state directory {ledger.directory}: {LOCK_NAME} or {DATABASE_NAME} was removed or"
                " replaced. The service ends. What it delivered last is sent again by the next"
                " service unless the directory is put back."
            )

    def _notify_manager(self) -> None:
        """Report that the service is ready, and ping the watchdog while it is healthy."""
        if not self.app.liveness.ready():
            self._manager.ready(f"shipping {self._config.spool}")
            if not self.app.liveness.healthy():
                self._manager.alive()

    def _shut_down(self) -> None:
        app = self.app
        app.poller.stop()
        app.scheduler.close()
        if self._refresher is not None:
            self._refresher.end()
        while not (idle := app.workers.join(within=_JOIN_SECONDS)):
            if self._now() >= self._stop_by:  # which a second signal moves
                break
        last = partial(self._keep_house_last, clean=idle)
        kept = self._housekeeping.stop(last, within=max(LAST_SECONDS, self._stop_by - self._now()))
        if self._refresher is not None:
            within = max(LAST_SECONDS, self._stop_by - self._now())
            kept = self._refresher.join(within=within) and kept
        app.cleaner.stop()
        self._heartbeat.beat(app.outages(), stopped=True)
        if not idle:
            log.warning(
                "request still in flight at shutdown, its records stay pending",
                extra=fields(reason="stopped-in-request"),
            )
        if not kept:
            log.warning(
                "spool root still being read at shutdown",
                extra=fields(path=self._config.spool, reason="stopped-in-scan"),
            )
        if idle and kept:
            app.close()
            log.info("service stopped", extra=fields(state=self._config.state))


def _log_failure(error: Exception) -> None:
    log.error(
        "housekeeping failed, nothing is deleted until it works again",
        extra=fields(detail=error, retry_in=RETRY_SECONDS),
    )


def ship_once(config: Config, *, timeout: float) -> list[str]:
    """Ship everything that is there; what is still pending after `timeout` seconds or Ctrl-C."""
    service = Service(config, once=True)
    # Its time is over then: a request in flight is sent again by the next service.
    timer = threading.Timer(timeout, partial(service.stop, within=LAST_SECONDS))
    timer.daemon = True
    timer.start()
    try:
        with suppress(KeyboardInterrupt):  # ends it as the timeout does
            service.run()
    finally:
        timer.cancel()
    lines = [f"{config.spool}: {_NO_ROOT}"] if is_missing(config.spool) else []
    with closing(Ledger(config.state, exclusive=False)) as ledger:
        missing = missing_records(read_snapshot(ledger), service.app.sinks)
    lines += [f"{place}: gone, with {count} records" for place, count in missing.items()]
    return lines + service.app.pending()

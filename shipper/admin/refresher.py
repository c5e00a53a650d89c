"""Collects the status every few seconds for the page and the metrics, and opens the HTTP port.

While nothing changes only the time, the disk and the heartbeat are read, and everything every few
minutes: a thousand idle spools cost next to nothing. One thread does it. A failure is logged, tried
again, and does not affect delivery.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from shipper.admin.history import SAMPLE_SECONDS, StatusHistory
from shipper.admin.routes import PROBES, Routes
from shipper.config.parse import host_and_port
from shipper.config.schema import Config
from shipper.delivery.counters import Metrics
from shipper.errors import ShipperError
from shipper.health.liveness import ServiceLiveness
from shipper.http_server import HttpServer
from shipper.ledger.ledger import Ledger
from shipper.log import fields
from shipper.status.collect import StatusCollector
from shipper.status.model import Status
from spooler.errors import SpoolError

log = logging.getLogger(__name__)

# Everything is collected so often although no change is known: a spool may be deleted by hand.
FULL_SECONDS = 300.0


class StatusRefresher:
    """Started with `start`, ended with `end`; `address` and `problem` are those of the port.

    `changes` returns another value whenever the status may have changed, and None while that is
    not known.
    """

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        meters: Metrics,
        liveness: ServiceLiveness,
        changes: Callable[[], object | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = ""
        self.problem = ""
        self.status: Status | None = None
        self._listen = host_and_port(config.http_listen)
        self._collector = StatusCollector(config, ledger)
        self._changes = changes
        self._now = now
        self._seen: object | None = None  # the changes at the last full collection
        self._collected = 0.0
        self._history = StatusHistory()
        keys = config.keys_of_steps
        self._routes = Routes(lambda: self.status, self._history, meters, liveness, keys)
        self._server: HttpServer | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Open the port and start to collect."""
        self._open()
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._server is not None:
            self._server.close()

    def join(self, *, within: float) -> bool:
        """Wait for the collection in progress; whether it has ended."""
        self._thread.join(within)
        return not self._thread.is_alive()

    def refresh(self) -> Status:
        """Collect everything, or only what changes without an event if nothing has changed."""
        changes = self._changes()
        due = self._now() - self._collected >= FULL_SECONDS
        if self.status is not None and changes is not None and changes == self._seen and not due:
            self.status = self._collector.refresh(self.status)
        else:
            self.status = self._collector.collect()
            self._seen, self._collected = changes, self._now()
        return self.status

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                if self._server is None:
                    self._open()
                self._history.add(self.refresh())
            except (ShipperError, SpoolError, OSError) as error:
                # A locked ledger or a missing disk must not end this thread.
                log.error(
                    "status not collected, page and metrics show the last one",
                    extra=fields(reason="status", detail=error),
                )
            self._ended.wait(SAMPLE_SECONDS)

    def _open(self) -> None:
        host, port = self._listen
        try:
            self._server = HttpServer(host, port, self._routes.answer, at_once=PROBES)
        except OSError as error:
            problem = f"{host}:{port}: {error.strerror or error}"
            if problem != self.problem:
                log.error(
                    "HTTP port not opened, delivery continues, --http-listen sets another port",
                    extra=fields(reason="http-port", detail=problem, retry_seconds=SAMPLE_SECONDS),
                )
            self.problem = problem
            return
        self.address, self.problem = self._server.url, ""
        log.info("HTTP port opened", extra=fields(address=self.address))

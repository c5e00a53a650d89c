"""Looks at everything every few seconds for the page and the metrics, and keeps the port open.

While nothing happens it looks at the clock, the disk and the sign of life only, and at everything
every few minutes: a thousand idle spools cost next to nothing that way.

One thread. It runs beside shipping and is in nobody's way: what fails here is said once, and tried
again with the next look. Nothing of it runs where the port is switched off.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from shipper.admin import Probes
from shipper.admin.history import SAMPLE_SECONDS, History
from shipper.admin.metrics import MetricsState
from shipper.admin.routes import Routes
from shipper.config.parse import host_and_port
from shipper.config.schema import Config
from shipper.delivery.counters import Meters
from shipper.errors import ShipperError
from shipper.http_server import HttpServer, Request, Response
from shipper.ledger.ledger import Ledger
from shipper.log import fields
from shipper.status.collect import StatusCollector, status_inputs
from shipper.status.model import Status
from spooler.errors import SpoolError

log = logging.getLogger(__name__)

# Everything is looked at so often though nothing is known to have happened: a spool that has ended
# may be deleted by hand, and a pulse may be missed by a fault of ours.
WHOLE_SECONDS = 300.0


class StatusRefresher:
    """Started with `start`, ended with `end`; `address` and `problem` tell of the port."""

    def __init__(
        self,
        listen: tuple[str, int],
        survey: StatusCollector,
        source: MetricsState,
        life: Probes,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = ""
        self.problem = ""
        self._listen = listen
        self._survey = survey
        self._source = source
        self._life = life
        self._now = now
        self._news: object | None = None  # as of the last look at everything
        self._looked = 0.0
        self._history = History()
        self._answers = Routes(source, self._history, life)
        self._listener: HttpServer | None = None
        self._said = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def start(self) -> None:
        """Open the port, and look from now on."""
        self._open()
        self._thread.start()

    def end(self) -> None:
        """Close the port, and look no more."""
        self._ended.set()
        if self._listener is not None:
            self._listener.close()

    def ended(self, *, within: float) -> bool:
        """Whether the look under way has come to its end, within the seconds."""
        self._thread.join(within)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._look()
            except (ShipperError, SpoolError, OSError) as error:
                # The ledger may be locked, a disk may be gone: none of it may end this thread.
                self._say(f"cannot look at where everything stands: {error}", error)
            self._ended.wait(SAMPLE_SECONDS)

    def _look(self) -> None:
        if self._listener is None:
            self._open()
        overview = self._overview()
        self._source.overview = overview
        self._history.add(overview)

    def _overview(self) -> Status:
        """Look at everything; while nothing has happened, what was seen before still holds."""
        news, last = self._life.news(), self._source.overview
        stale = self._now() - self._looked >= WHOLE_SECONDS
        if last is not None and news is not None and news == self._news and not stale:
            return self._survey.renew(last)
        overview = self._survey.take()
        self._news, self._looked = news, self._now()
        return overview

    def _open(self) -> None:
        host, port = self._listen
        try:
            self._listener = HttpServer(host, port, self._answer)
        except OSError as error:
            self.problem = f"{host}:{port}: {error.strerror or error}"
            self._say(
                f"no page, no metrics and no probes: {self.problem}; shipping goes on, and the port"
                f" is tried again every {SAMPLE_SECONDS:.0f} s: give --http-listen another one",
                error,
            )
            return
        self.address, self.problem = self._listener.url, ""
        log.info("page, metrics and probes: %s", self.address, extra=fields(address=self.address))

    def _answer(self, request: Request) -> Response:
        self._source.moved = self._life.moved()
        return self._answers.answer(request.path)

    def _say(self, text: str, error: Exception) -> None:
        if text != self._said:
            self._said = text
            log.error("%s", text, extra=fields(reason="page", detail=error))


def build_refresher(
    config: Config, ledger: Ledger, meters: Meters, life: Probes
) -> StatusRefresher | None:
    """What these settings ask for; None where the port is switched off."""
    if config.http_listen == "off":
        return None
    return StatusRefresher(
        host_and_port(config.http_listen),
        StatusCollector(status_inputs(config, ledger)),
        MetricsState(meters),
        life,
    )

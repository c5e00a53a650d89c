"""The receiver as a whole: a listener, a store, and the handlers between them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.kit.processor import answers, queries
from tests.kit.processor.answers import Reply
from tests.kit.processor.errors import CannotListen, StoreFailed
from tests.kit.processor.listener import Exchange, Listener
from tests.kit.processor.processing import Processor
from tests.kit.processor.routes import Call, Route, find
from tests.kit.processor.store import Store

_log = logging.getLogger(__name__)
_Self = TypeVar("_Self", bound="Receiver")
_ABOUT = """\
This is the telemetry-processor of the tests of lens-ship: not for production.
It takes POST {prefix}/wandb/detection, metrics, logs and batch, and shows what arrived under
GET {prefix}/workloads, {prefix}/workloads/UID/rows, {prefix}/workloads/UID/metrics/available,
{prefix}/workloads/UID/metrics/data?metrics=a,b, {prefix}/detections and {prefix}/requests.
"""


class Receiver:
    """A telemetry-processor on this machine; not for production.

    It may be stopped and started again, on the same port and over the same database. ``pods``
    may be changed while it runs; ``store`` may be read at any time.
    """

    def __init__(
        self,
        *,
        path: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        prefix: str = "/v1",
        pods: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
        self.pods = dict(pods or {})
        self.store = Store(path=path)
        self._processor = Processor(store=self.store, pods=self.pods)
        self._listener: Listener | None = None
        self._accepting: threading.Thread | None = None

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL that a client needs, prefix included."""
        return f"http://{self.host}:{self.port}{self.prefix}"

    def start(self) -> None:
        """Open the store, bind the port, and serve in the background."""
        if self._listener is not None:
            return
        self.store.open()
        try:
            listener = self.listen()
        except (OSError, OverflowError) as error:
            self.store.close()
            message = (
                f"cannot listen on {self.host}:{self.port}: {error}; choose a free port of an"
                " address of this machine, or port 0 for any"
            )
            raise CannotListen(message) from error
        self.port = listener.server_port
        self._listener = listener
        self._accepting = threading.Thread(
            target=listener.serve_forever, name="receiver-accept", daemon=True
        )
        self._accepting.start()

    def listen(self) -> Listener:
        """Bind the port; the place to speak another protocol on it."""
        return Listener(address=(self.host, self.port), conclude=self.conclude)

    def stop(self) -> None:
        """Go away: close the port, every open connection, and the store."""
        listener, accepting = self._listener, self._accepting
        if listener is None or accepting is None:
            return
        self._listener = self._accepting = None
        listener.leave()
        accepting.join()
        self.store.close()

    def conclude(self, exchange: Exchange, call: Call) -> None:
        """Answer one request on its connection; the place to behave differently."""
        exchange.send(self.answer(call))

    def answer(self, call: Call) -> Reply:
        """Process one request and return its answer; what it stores is committed by then."""
        try:
            return self._answer(call)
        except StoreFailed:
            _log.exception("the store failed during %s %s", call.method, call.path)
            return answers.failure("the store of the receiver failed; its log says why")

    def _answer(self, call: Call) -> Reply:
        route = find(call.method, call.path, self.prefix)
        if route is not None:
            if call.method == "POST":
                return self._processor.answer(route.name, call)
            return self._look(route, call)
        reply = answers.not_found()
        shorter = call.path[:-1]
        if call.path.endswith("/") and find(call.method, shorter, self.prefix) is not None:
            query = call.target.partition("?")[2]
            reply = answers.redirect(call.method, shorter + (f"?{query}" if query else ""))
        if call.method == "POST":
            return self._processor.refuse(call, reply, "no handler at this path")
        return reply

    def _look(self, route: Route, call: Call) -> Reply:
        names = [name for given in call.query.get("metrics", ()) for name in given.split(",")]
        workload = call.query.get("workload_uid", [None])[-1]
        looks: dict[str, Callable[[], Reply]] = {
            "about": lambda: answers.plain(200, _ABOUT.format(prefix=self.prefix)),
            "pods": lambda: answers.success(self.pods),
            "workloads": lambda: answers.flat(queries.workloads(self.store)),
            "available": lambda: answers.flat(queries.available(self.store, route.workload)),
            "data": lambda: answers.flat(queries.data(self.store, route.workload, names)),
            "rows": lambda: answers.flat(queries.rows(self.store, route.workload)),
            "detections": lambda: answers.flat(queries.detections(self.store, workload)),
            "requests": lambda: answers.flat(queries.requests(self.store)),
        }
        return looks[route.name]()


def serve(
    host: str,
    port: int,
    path: Path,
    prefix: str = "/v1",
    *,
    ready: Callable[[Receiver], None] | None = None,
    until: threading.Event | None = None,
) -> None:
    """Run a receiver until ``until`` is set or the terminal interrupts; blocks.

    ``ready`` is called once it accepts connections, with the receiver and so its URL.
    """
    with Receiver(host=host, port=port, path=path, prefix=prefix) as receiver:
        _log.info("listening at %s; what is received is kept in %s", receiver.url, path)
        try:
            if ready is not None:
                ready(receiver)
            (until or threading.Event()).wait()
        except KeyboardInterrupt:
            _log.info("interrupted")

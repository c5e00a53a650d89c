"""The paths of the HTTP port. Every answer is made from the last status."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from shipper.admin.curves import Curves
from shipper.admin.history import StatusHistory
from shipper.admin.metrics import CONTENT_TYPE, Exposition
from shipper.delivery.counters import Metrics
from shipper.health.liveness import ServiceLiveness
from shipper.http_server import HttpRequest, HttpResponse
from shipper.humanize import to_json
from shipper.status.model import Status
from shipper.status.summary import summarize

# What the table of the page shows; `lens-ship status --all` shows every spool.
SPOOLS = 200
_JSON = "application/json"
PROBES = "/-/"  # how their paths begin


class Routes:
    """Safe for several threads."""

    def __init__(
        self,
        status: Callable[[], Status | None],
        history: StatusHistory,
        meters: Metrics,
        liveness: ServiceLiveness,
        step_keys: Sequence[str],
    ) -> None:
        self._status = status
        self._history = history
        self._exposition = Exposition(meters, status, lambda: liveness.last_run)
        self._curves = Curves(step_keys)
        self._reading = threading.Lock()  # one request at a time reads spools for curves
        page = _page()
        self._routes: dict[str, Callable[[], HttpResponse]] = {
            "/": lambda: page,
            f"{PROBES}healthy": lambda: _probe(liveness.healthy(), "healthy"),
            f"{PROBES}ready": lambda: _probe(liveness.ready(), "ready"),
            "/metrics": self._metrics,
            "/api/status": self._read_status,
            "/api/curves": self._read_curves,
        }

    def answer(self, request: HttpRequest) -> HttpResponse:
        route = self._routes.get(request.path)
        return route() if route else HttpResponse(status=404, body=b"404 not found\n")

    def _metrics(self) -> HttpResponse:
        return HttpResponse(status=200, body=self._exposition.text(), content_type=CONTENT_TYPE)

    def _read_status(self) -> HttpResponse:
        """As `lens-ship status --json`, with the worst spools only, and the last hour."""
        status = self._status()
        if status is None:
            return _json({"status": None})
        summary, history = summarize(status).to_map(), self._history.to_map()
        return _json({"status": summary, **status.to_map(SPOOLS), "history": history})

    def _read_curves(self) -> HttpResponse:
        status = self._status()
        if status is None:
            return _json({"curves": []})
        with self._reading:
            return _json({"curves": self._curves.of(status)})


def _probe(problem: str, well: str) -> HttpResponse:
    return HttpResponse(status=503 if problem else 200, body=f"{problem or well}\n".encode())


def _json(value: Any) -> HttpResponse:
    return HttpResponse(status=200, body=to_json(value), content_type=_JSON)


def _page() -> HttpResponse:
    """The page, with a policy under which only the page's own script and style run."""
    text = resources.files("shipper.admin").joinpath("page.html").read_text(encoding="utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(text, 'script')}",
            f"style-src {_hash(text, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return HttpResponse(
        status=200,
        body=text.encode(),
        content_type="text/html; charset=utf-8",
        headers=(("Content-Security-Policy", policy),),
    )


def _hash(text: str, element: str) -> str:
    inside = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    digest = hashlib.sha256((inside[1] if inside else "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

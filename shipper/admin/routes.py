"""Which path gives what; everything is answered from the last look."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any

import orjson

import spooler
from shipper.admin import Probes
from shipper.admin.curves import Curves
from shipper.admin.history import History
from shipper.admin.metrics import CONTENT_TYPE, Exposition, MetricsState
from shipper.http_server import Response
from shipper.status.model import SinkStatus, SpoolStatus, Status
from shipper.status.summary import badness, summarize

# The table is for people; all of them are in `lens-ship status --all`.
SPOOLS = 200
_JSON = "application/json"


class Routes:
    """Safe for several threads."""

    def __init__(self, source: MetricsState, history: History, life: Probes) -> None:
        self._source = source
        self._history = history
        self._life = life
        self._exposition = Exposition(source)
        self._curves = Curves()
        self._reading = threading.Lock()  # one reads spools for curves, the others wait for it
        self._page = _page()
        self._routes: dict[str, Callable[[], Response]] = {
            "/": lambda: self._page,
            "/-/healthy": lambda: _probe(self._life.healthy(), "healthy"),
            "/-/ready": lambda: _probe(self._life.ready(), "ready"),
            "/metrics": self._metrics,
            "/api/overview": self._overview,
            "/api/curves": self._read_curves,
        }

    def answer(self, path: str) -> Response:
        """The answer to GET of a path."""
        route = self._routes.get(path)
        return route() if route else Response(status=404, body=b"404 not found\n")

    def _metrics(self) -> Response:
        return Response(status=200, body=self._exposition.text(), content_type=CONTENT_TYPE)

    def _overview(self) -> Response:
        overview = self._source.overview
        if overview is None:
            return _json({"status": None})
        return _json({**facts(overview), "history": self._history.to_map()})

    def _read_curves(self) -> Response:
        overview = self._source.overview
        if overview is None:
            return _json({"curves": []})
        with self._reading:
            return _json({"curves": self._curves.of(overview)})


def facts(overview: Status) -> dict[str, Any]:
    """What the page shows; no more of a spool than its table needs."""
    verdict = summarize(overview)
    sign, disk = overview.sign, overview.disk
    ranked = sorted(overview.spools, key=badness)
    return {
        "status": {
            "level": verdict.level,
            "headline": verdict.headline,
            "also": list(verdict.also),
        },
        "time": overview.time,
        "root": overview.root,
        "version": spooler.__version__,
        "started": sign.started if sign else None,
        "behind": overview.pending,
        "behind_bytes": overview.pending_bytes,
        "oldest": overview.age(overview.oldest),
        "spools_total": len(ranked),
        "spools_writing": sum(spool.state == "writing" for spool in ranked),
        "disk": {"used": disk.used, "limit": disk.limit, "free": disk.free, "size": disk.size},
        "sinks": [_sink(sink, overview) for sink in overview.sinks],
        "spools": [_spool(spool, overview) for spool in ranked[:SPOOLS]],
        "dropped": dict(overview.dropped),
    }


def _sink(sink: SinkStatus, overview: Status) -> dict[str, Any]:
    first = sink.troubles[0] if sink.troubles else None
    return {
        "sink": sink.sink,
        "behind": sink.pending,
        "bytes": sink.pending_bytes,
        "oldest": overview.age(sink.oldest),
        "delivered": sink.delivered,
        "rate": sink.rate,
        "dead": dict(sink.dead),
        "lost": dict(sink.lost),
        "left_out": sink.left_out,
        "state": _state(sink),
        "trouble": None
        if first is None
        else {
            "reason": first.reason,
            "detail": first.detail,
            "workload": first.workload,
            "since": first.since,
            "until": first.until,
        },
    }


def _state(sink: SinkStatus) -> str:
    if sink.paused is not None:
        return "alarm" if sink.paused.alarm else "paused"
    return "partly" if sink.present else "ok"


def _spool(spool: SpoolStatus, overview: Status) -> dict[str, Any]:
    return {
        "spool": spool.spool,
        "workload": spool.workload,
        "rank": spool.rank,
        "state": spool.state,
        "written": spool.written,
        "behind": spool.pending,
        "oldest": overview.age(spool.oldest),
        "newest": overview.age(spool.newest),
        "bytes": spool.bytes,
        "dead": spool.dead,
        "lost": spool.lost,
        "problem": spool.problem.replace(f"{overview.root}/", ""),
    }


def _probe(problem: str, well: str) -> Response:
    if problem:
        return Response(status=503, body=f"{problem}\n".encode())
    return Response(status=200, body=f"{well}\n".encode())


def _json(value: Any) -> Response:
    return Response(status=200, body=orjson.dumps(value), content_type=_JSON)


def _page() -> Response:
    """The page with a policy that lets nothing run but what stands in it."""
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
    return Response(
        status=200,
        body=text.encode(),
        content_type="text/html; charset=utf-8",
        headers=(("Content-Security-Policy", policy),),
    )


def _hash(text: str, element: str) -> str:
    inside = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    digest = hashlib.sha256((inside[1] if inside else "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

"""The routes of the dev server.

Responses to POST have the envelope of the telemetry-processor: `meta.code` 2000 for success, else
the HTTP status. Reading routes, which only this server has, return plain JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from shipper.dev_server.store import TelemetryStore, Upload, Write
from shipper.errors import StoreFailed
from shipper.http_server import HttpRequest, HttpResponse, HttpServer, ServerLimits
from shipper.log import fields

SUCCESS = 2000
NO_IDS = "either workload_uid or pod_name is required"
_LIMITS = ServerLimits(connections=64, seconds=60.0, body_bytes=64 << 20)
_JSON = "application/json; charset=utf-8"
_NOT_FOUND = HttpResponse(status=404, body=b"404 page not found")
_START_PAGE = """\
lens-ship dev-server: a telemetry-processor to try lens-ship with. Not for production.

{counts}

Accepts  POST {prefix}/wandb/metrics, logs, detection, batch
Shows    GET  {prefix}/workloads, {prefix}/workloads/UID/rows, {prefix}/detections,
              {prefix}/requests
"""

_log = logging.getLogger(__name__)


class DevServer:
    """Listens as soon as it is made, until `close`.

    Raises:
        OSError: the address is in use or does not belong to this host.
        StoreFailed: the file at `path` cannot be used.
    """

    def __init__(self, path: Path, host: str, port: int, prefix: str = "/v1") -> None:
        self._prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
        self._store = TelemetryStore(path)
        try:
            self._server = HttpServer(host, port, self.answer, _LIMITS)
        except BaseException:
            self._store.close()
            raise

    @property
    def url(self) -> str:
        """The base URL for `--processor-url`."""
        return self._server.url + self._prefix

    @property
    def start_page(self) -> str:
        return f"{self._server.url}/"

    def close(self) -> None:
        self._server.close()
        self._store.close()

    def answer(self, request: HttpRequest) -> HttpResponse:
        prefix, _, rest = request.path.partition(f"{self._prefix}/")
        route = [] if prefix else [unquote(part) for part in rest.split("/")]
        try:
            if request.method == "POST":
                return self._receive(route, request)
            return self._start_page() if request.path == "/" else self._show(route)
        except StoreFailed as error:
            _log.error("database failed", extra=fields(reason="store", detail=error))
            return _envelope(500, "the database failed, see the log of the server", {})

    def _receive(self, route: list[str], request: HttpRequest) -> HttpResponse:
        uploads: list[Upload] = []
        error = ""
        try:
            if len(route) != 2 or route[0] != "wandb" or route[1] not in (*_WRITES, "batch"):
                response, error = _NOT_FOUND, "unknown path"
            else:
                uploads = _uploads(route[1], json.loads(request.body))
                response = _accepted(route[1], uploads)
        except _MALFORMED as problem:
            error = str(problem) if isinstance(problem, ValueError) else repr(problem)
            message = error if error == NO_IDS else "invalid request format"
            response = _envelope(400, message, None)
        if error:
            extra = fields(reason="rejected", path=request.path, detail=error)
            _log.warning("request rejected", extra=extra)
        row = {
            "received_at": time.time(),
            "path": request.path,
            "status": response.status,
            "body_bytes": len(request.body),
            "lens_ship_records": request.headers.get("Lens-Ship-Records"),
            "error": error,
        }
        self._store.add(row, uploads)
        return response

    def _show(self, route: list[str]) -> HttpResponse:
        store = self._store
        shown: Any = None
        match route:
            case ["pods", "workload", "cache"]:
                return _envelope(200, "OK", {})
            case ["workloads"]:
                shown = store.workloads()
            case ["workloads", workload, "rows"]:
                shown = store.rows(workload)
            case ["detections"]:
                shown = store.detections()
            case ["requests"]:
                shown = store.requests()
        if shown is None:
            return _NOT_FOUND
        return HttpResponse(status=200, body=json.dumps(shown).encode(), content_type=_JSON)

    def _start_page(self) -> HttpResponse:
        requests = self._store.requests()
        rejected = sum(request["status"] != 200 for request in requests)
        counts = [f"Requests: {len(requests):,}, rejected: {rejected:,}"]
        counts += [
            "Workload {workload_uid}: steps {first_step:,} to {last_step:,} ({steps:,} in total),"
            " runs: {runs:,}".format(**workload)
            for workload in self._store.workloads()
        ]
        text = _START_PAGE.format(prefix=self._prefix, counts="\n".join(counts))
        return HttpResponse(status=200, body=text.encode())


def _accepted(name: str, uploads: list[Upload]) -> HttpResponse:
    counts = [{"count": one.items, "workloads_count": 1, "success_count": 1} for one in uploads]
    if name == "batch":
        return _envelope(200, "OK", {"success": True, "results": counts})
    return _envelope(200, "OK", {"message": f"{name} stored", **counts[0]})


def _envelope(status: int, message: str, data: Any) -> HttpResponse:
    meta = {"code": SUCCESS if status == 200 else status, "message": message}
    body = json.dumps({"meta": meta, "data": data, "tracing": None}).encode()
    return HttpResponse(status=status, body=body, content_type=_JSON)


# --- from JSON to what is stored; a body of another form raises one of these errors --------------

_MALFORMED = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


def _uploads(name: str, body: dict[str, Any]) -> list[Upload]:
    """A pod counts as a workload of its own, as this server knows no pods."""
    if name == "batch":
        return [one for part in _WRITES if body.get(part) for one in _uploads(part, body[part])]
    workload, run = body.get("workload_uid") or body.get("pod_name"), body.get("run_id", "")
    if not workload:
        raise ValueError(NO_IDS)
    (workload + run).encode()  # raises for what is not text
    items = 1 if name == "detection" else len(body[name])
    return [Upload(workload_uid=workload, run_id=run, items=items, writes=_WRITES[name](body))]


def _metrics(body: dict[str, Any]) -> list[Write]:
    steps: dict[int, dict[str, Any]] = {}
    times: dict[int, float] = {}
    for point in body["metrics"]:
        steps.setdefault(_step(point), {})[point["name"]] = point["value"]
        times.setdefault(_step(point), float(point["timestamp"]))
    return [(step, times[step], _dump(data)) for step, data in steps.items()]


def _logs(body: dict[str, Any]) -> list[Write]:
    return [(_step(e), float(e["timestamp"]), _dump({**e["data"]})) for e in body["logs"]]


def _detection(body: dict[str, Any]) -> list[Write]:
    return [(None, float(body.get("timestamp", 0)), _dump({**body}))]


_WRITES: dict[str, Callable[[dict[str, Any]], list[Write]]] = {
    "detection": _detection,
    "metrics": _metrics,
    "logs": _logs,
}


def _step(item: dict[str, Any]) -> int:
    step = int(item["step"])
    if abs(step) >= 2**63:
        raise OverflowError(f"step {step} is out of range")
    return step


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)

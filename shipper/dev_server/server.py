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

from shipper.dev_server.store import StepWrite, TelemetryStore, Upload
from shipper.errors import StoreFailed
from shipper.http_server import HttpServer, Request, Response, ServerLimits
from shipper.log import fields

SUCCESS = 2000
NO_IDS = "either workload_uid or pod_name is required"
_LIMITS = ServerLimits(connections=64, seconds=60.0, body_bytes=64 << 20)
_JSON = "application/json; charset=utf-8"
_ABOUT = """\
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

    def answer(self, request: Request) -> Response:
        if request.method == "GET" and request.path == "/":
            text = _ABOUT.format(prefix=self._prefix, counts=self._counts())
            return Response(status=200, body=text.encode())
        prefix, _, rest = request.path.partition(f"{self._prefix}/")
        route = [] if prefix else [unquote(part) for part in rest.split("/")]
        try:
            if request.method == "POST":
                return self._receive(route, request)
            return self._show(route)
        except StoreFailed as error:
            _log.error("database failed", extra=fields(reason="store", detail=error))
            return _envelope(500, "the database failed, see the log of the server", {})

    def _receive(self, route: list[str], request: Request) -> Response:
        parse = _PARSERS.get(route[1]) if len(route) == 2 and route[0] == "wandb" else None
        uploads: list[Upload] = []
        error = ""
        if parse is None:
            response, error = Response(status=404, body=b"404 page not found"), "unknown path"
        else:
            try:
                uploads = parse(json.loads(request.body))
                response = _accepted(route[1], uploads)
            except _MALFORMED as problem:
                error = str(problem) if isinstance(problem, ValueError) else repr(problem)
                message = error if error == NO_IDS else "invalid request format"
                response = _envelope(400, message, None)
        if error:
            extra = fields(reason="rejected", path=request.path, detail=error)
            _log.warning("request rejected", extra=extra)
        self._store.add(
            {
                "received_at": time.time(),
                "path": request.path,
                "status": response.status,
                "body_bytes": len(request.body),
                "lens_ship_records": request.headers.get("Lens-Ship-Records"),
                "error": error,
            },
            uploads,
        )
        return response

    def _show(self, route: list[str]) -> Response:
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
            return Response(status=404, body=b"404 page not found")
        return Response(status=200, body=json.dumps(shown).encode(), content_type=_JSON)

    def _counts(self) -> str:
        requests = self._store.requests()
        rejected = sum(request["status"] != 200 for request in requests)
        lines = [f"Requests: {len(requests):,}, rejected: {rejected:,}"]
        lines += [
            "Workload {workload_uid}: steps {first_step:,} to {last_step:,} ({steps:,} in total),"
            " runs: {runs:,}".format(**workload)
            for workload in self._store.workloads()
        ]
        return "".join(f"{line}\n" for line in lines)


def _accepted(name: str, uploads: list[Upload]) -> Response:
    counts = [
        {"count": upload.items, "workloads_count": 1, "success_count": 1} for upload in uploads
    ]
    if name != "batch":
        return _envelope(200, "OK", {"message": f"{name} stored", **counts[0]})
    return _envelope(200, "OK", {"success": True, "results": counts})


def _envelope(status: int, message: str, data: Any) -> Response:
    meta = {"code": SUCCESS if status == 200 else status, "message": message}
    body = json.dumps({"meta": meta, "data": data, "tracing": None}).encode()
    return Response(status=status, body=body, content_type=_JSON)


def _metrics(body: dict[str, Any]) -> list[Upload]:
    steps: dict[int, dict[str, Any]] = {}
    times: dict[int, float] = {}
    for point in body["metrics"]:
        steps.setdefault(_step(point), {})[point["name"]] = point["value"]
        times.setdefault(_step(point), float(point["timestamp"]))
    writes = [StepWrite(step=n, timestamp=times[n], data=_dump(data)) for n, data in steps.items()]
    return [_upload(body, len(body["metrics"]), writes)]


def _logs(body: dict[str, Any]) -> list[Upload]:
    writes = [
        StepWrite(
            step=_step(entry), timestamp=float(entry["timestamp"]), data=_dump({**entry["data"]})
        )
        for entry in body["logs"]
    ]
    return [_upload(body, len(writes), writes)]


def _detection(body: dict[str, Any]) -> list[Upload]:
    return [_upload(body, 1, [], _dump({**body}))]


def _batch(body: dict[str, Any]) -> list[Upload]:
    names = [name for name in ("detection", "metrics", "logs") if body.get(name)]
    return [upload for name in names for upload in _PARSERS[name](body[name])]


# From JSON to what is stored. A body of another form raises one of the errors below.
_PARSERS: dict[str, Callable[[dict[str, Any]], list[Upload]]] = {
    "metrics": _metrics,
    "logs": _logs,
    "detection": _detection,
    "batch": _batch,
}
_MALFORMED = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


def _upload(
    body: dict[str, Any], items: int, writes: list[StepWrite], detection: str = ""
) -> Upload:
    """A pod counts as a workload of its own, as this server knows no pods."""
    workload, run = body.get("workload_uid") or body.get("pod_name"), body.get("run_id", "")
    if not workload:
        raise ValueError(NO_IDS)
    (workload + run).encode()  # raises for what is not text
    return Upload(
        workload_uid=workload, run_id=run, items=items, writes=tuple(writes), detection=detection
    )


def _step(item: dict[str, Any]) -> int:
    step = int(item["step"])
    if abs(step) >= 2**63:
        raise OverflowError(f"step {step} is out of range")
    return step


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)

"""The routes of the dev server.

Responses to POST have the envelope of the telemetry-processor: `meta.code` 2000 for success, else
the HTTP status. Reading routes, which only this server has, return plain JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
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
Shows    GET  {prefix}/workloads, {prefix}/workloads/UID/rows,
              {prefix}/workloads/UID/metrics/available,
              {prefix}/workloads/UID/metrics/data?metrics=a,b,
              {prefix}/detections, {prefix}/requests
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
            return self._show(route, request)
        except StoreFailed as error:
            _log.error("database failed: %s", error, extra=fields(reason="store", detail=error))
            return _envelope(500, "the database failed, see the log of the server", {})

    def _receive(self, route: list[str], request: Request) -> Response:
        parse = _PARSERS.get(route[1]) if len(route) == 2 and route[0] == "wandb" else None
        uploads: list[Upload] = []
        error = ""
        if parse is None:
            response, error = Response(status=404, body=b"404 page not found"), "unknown path"
        else:
            try:
                uploads = parse(_object(json.loads(request.body, parse_constant=_reject)))
                response = _accepted(route[1], uploads)
            except (ValueError, OverflowError, RecursionError) as problem:
                error = str(problem)
                message = error if error == NO_IDS else "invalid request format"
                response = _envelope(400, message, None)
        if error:
            extra = fields(reason="rejected", path=request.path, detail=error)
            _log.warning("request rejected: %s: %s", request.path, error, extra=extra)
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

    def _show(self, route: list[str], request: Request) -> Response:
        names = [name for given in request.query.get("metrics", ()) for name in given.split(",")]
        store = self._store
        shown: Any = None
        match route:
            case ["pods", "workload", "cache"]:
                return _envelope(200, "OK", {})
            case ["workloads"]:
                shown = store.workloads()
            case ["workloads", workload, "rows"]:
                shown = store.rows(workload)
            case ["workloads", workload, "metrics", "available"]:
                shown = store.metric_names(workload)
            case ["workloads", workload, "metrics", "data"]:
                shown = store.points(workload, names)
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


# --- from JSON to what is stored; a ValueError says what is wrong ---------------------------------


def _metrics(body: Mapping[str, Any]) -> list[Upload]:
    steps: dict[int, dict[str, Any]] = {}
    times: dict[int, float] = {}
    points = _objects(body, "metrics")
    for point in points:
        step = _step(point)
        steps.setdefault(step, {})[_text(point, "name")] = _number(point, "value")
        times.setdefault(step, float(_number(point, "timestamp")))
    writes = [StepWrite(step=n, timestamp=times[n], data=_dump(data)) for n, data in steps.items()]
    return [_upload(body, len(points), writes)]


def _logs(body: Mapping[str, Any]) -> list[Upload]:
    writes = [
        StepWrite(
            step=_step(entry),
            timestamp=float(_number(entry, "timestamp")),
            data=_dump(_object(entry.get("data"))),
        )
        for entry in _objects(body, "logs")
    ]
    return [_upload(body, len(writes), writes)]


def _detection(body: Mapping[str, Any]) -> list[Upload]:
    return [_upload(body, 1, [], _dump(body))]


def _batch(body: Mapping[str, Any]) -> list[Upload]:
    parts = {name: _object(body[name]) for name in ("detection", "metrics", "logs") if name in body}
    return [upload for name, part in parts.items() for upload in _PARSERS[name](part)]


_PARSERS: dict[str, Callable[[Mapping[str, Any]], list[Upload]]] = {
    "metrics": _metrics,
    "logs": _logs,
    "detection": _detection,
    "batch": _batch,
}


def _upload(
    body: Mapping[str, Any], items: int, writes: list[StepWrite], detection: str = ""
) -> Upload:
    """Names of pods stand for their workload, as this server knows no pods."""
    names = [_text(body, name) for name in ("workload_uid", "pod_name", "run_id")]
    workload = names[0] or names[1]
    if not workload:
        raise ValueError(NO_IDS)
    "".join(names).encode()  # a lone surrogate is a ValueError
    return Upload(
        workload_uid=workload,
        run_id=names[2],
        items=items,
        writes=tuple(writes),
        detection=detection,
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object is missing")
    return value


def _objects(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = body.get(name)
    if not isinstance(values, list):
        raise ValueError(f"{name} is not a list")
    return [_object(value) for value in values]


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    return value


def _number(item: Mapping[str, Any], name: str) -> int | float:
    value = item.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is not a number")
    return value


def _step(item: Mapping[str, Any]) -> int:
    step = _number(item, "step")
    if not isinstance(step, int) or not -(2**63) <= step < 2**63:
        raise ValueError("step is not an integer of 64 bits")
    return step


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)


def _reject(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

"""A plain client of the receiver, and the points it posts."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from tests.kit.spools import PATIENCE_SECONDS


@dataclass(frozen=True, kw_only=True)
class Got:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def meta(self) -> tuple[int, str]:
        return self.json["meta"]["code"], self.json["meta"]["message"]

    @property
    def data(self) -> Any:
        return self.json["data"]


class Client:
    """A plain HTTP client on one kept connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Got:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body=body, headers=named)
        answer = self.connection.getresponse()
        return Got(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=answer.read(),
        )

    def get(self, path: str) -> Any:
        got = self.ask("GET", "/v1" + path)
        assert got.status == 200
        return got.json

    def post(self, part: str, **fields: Any) -> Got:
        return self.ask("POST", f"/v1/wandb/{part}", json.dumps(fields))

    def metrics(self, *points: dict[str, Any], **fields: Any) -> Got:
        return self.post("metrics", **{"workload_uid": "w", "metrics": points, **fields})

    def logs(self, *entries: dict[str, Any], **fields: Any) -> Got:
        return self.post("logs", **{"workload_uid": "w", "logs": entries, **fields})

    def rows(self, workload: str = "w") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/workloads/{workload}/rows")
        return found

    def document(self) -> dict[str, Any]:
        """Return the document of the only row."""
        (row,) = self.rows()
        document: dict[str, Any] = row["performance"]
        return document


def metric(
    name: str = "loss", value: float = 1.0, step: int = 0, at: float = 0.0
) -> dict[str, Any]:
    return {"name": name, "value": value, "step": step, "timestamp": at}


def log(step: int = 0, at: float = 0.0, **data: Any) -> dict[str, Any]:
    return {"step": step, "timestamp": at, "data": data}

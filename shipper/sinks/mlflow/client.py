"""Requests to an MLflow tracking server; what it refuses is raised with its outcome."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import orjson

from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.http_client.client import LISTING_LIMIT
from shipper.sinks.mlflow.classify import classify, content
from shipper.sinks.options import HttpOptions, http_client
from shipper.sinks.outcome import Disposition, Outcome

_API = "/api/2.0/mlflow/"
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN = "MLFLOW_TRACKING_TOKEN"


class Refused(Exception):
    """The server answered with something else than what was asked for."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class MlflowClient:
    """One server. Every method raises `Refused`, or `Unreachable` without an answer."""

    def __init__(self, options: HttpOptions, environ: Mapping[str, str]) -> None:
        self.url = options.url
        self.http = http_client(options)
        files = options.token_file or options.headers_file
        self._headers, self._secrets = ({}, ()) if files else from_variables(environ)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        address = f"{self.url}{_API}{path}?{urlencode(query)}"
        return self._read(self.http.get(address, self._headers))

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> dict[str, Any]:
        headers = {
            **self._headers,
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        answer = self.http.post(
            f"{self.url}{_API}{path}", orjson.dumps(body), headers, limit=LISTING_LIMIT
        )
        return self._read(answer)

    def version(self) -> str:
        """The version of the server; "" where it does not tell."""
        try:
            answer = self.http.get(f"{self.url}/version", self._headers)
        except Unreachable:
            return ""
        text = answer.body[:40].decode("ascii", "replace").strip()
        return text if answer.status == 200 and text[:1].isdigit() else ""

    def _read(self, answer: Answer) -> dict[str, Any]:
        outcome = classify(answer)
        if outcome.disposition is Disposition.DELIVERED:
            return content(answer) or {}
        self.http.disconnect()
        detail = outcome.detail
        for secret in self._secrets:
            detail = detail.replace(secret, "***")
        raise Refused(replace(outcome, detail=detail))


def from_variables(environ: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Headers, and the secrets in them, as MLflow's own client reads them."""
    user, password = environ.get(USERNAME, ""), environ.get(PASSWORD, "")
    token = environ.get(TOKEN, "")
    if user and password:
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {both}"}, (both, password)
    return ({"Authorization": f"Bearer {token}"}, (token,)) if token else ({}, ())

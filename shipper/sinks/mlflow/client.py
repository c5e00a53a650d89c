"""Requests to an MLflow tracking server; what it refuses is raised with its outcome."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson

from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.http_client.client import LISTING_LIMIT
from shipper.sinks.mlflow.classify import classify, content
from shipper.sinks.mlflow.encode import StoredRun, stored_run
from shipper.sinks.options import HttpOptions, http_client
from shipper.sinks.outcome import Disposition, Outcome, Reason, blocked

_API = "/api/2.0/mlflow/"
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN = "MLFLOW_TRACKING_TOKEN"
T = TypeVar("T")


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
        return self._judged(self.http.get(address, self._headers))

    def post(self, path: str, body: Mapping[str, Any] | bytes, **headers: str) -> dict[str, Any]:
        headers = {
            **self._headers,
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        packed = body if isinstance(body, bytes) else orjson.dumps(body)
        answer = self.http.post(f"{self.url}{_API}{path}", packed, headers, limit=LISTING_LIMIT)
        return self._judged(answer)

    def run(self, run_id: str) -> StoredRun:
        answer = self.get("runs/get", run_id=run_id)
        return _read(lambda: stored_run(answer["run"]))

    def create_run(self, body: Mapping[str, Any]) -> StoredRun:
        answer = self.post("runs/create", body)
        return _read(lambda: stored_run(answer["run"]))

    def search(self, body: Mapping[str, Any]) -> list[StoredRun]:
        answer = self.post("runs/search", body)
        return _read(lambda: [stored_run(one) for one in answer.get("runs", ())])

    def experiment(self, name: str) -> tuple[str, bool]:
        """The id of an experiment, and whether it is deleted."""
        answer = self.get("experiments/get-by-name", experiment_name=name)
        found = _read(lambda: answer["experiment"])
        return _read(lambda: (str(found["experiment_id"]), found["lifecycle_stage"] == "deleted"))

    def create_experiment(self, name: str) -> str:
        answer = self.post("experiments/create", {"name": name})
        return _read(lambda: str(answer["experiment_id"]))

    def experiments(self, body: Mapping[str, Any]) -> tuple[list[str], str]:
        """Ids of a page of experiments, and the token of the next page or ""."""
        answer = self.post("experiments/search", body)
        ids = _read(lambda: [str(one["experiment_id"]) for one in answer.get("experiments", ())])
        return ids, str(answer.get("next_page_token") or "")

    def version(self) -> str:
        """The version of the server; "" where it does not tell."""
        try:
            answer = self.http.get(f"{self.url}/version", self._headers)
        except Unreachable:
            return ""
        text = answer.body[:40].decode("ascii", "replace").strip()
        return text if answer.status == 200 and text[:1].isdigit() else ""

    def _judged(self, answer: Answer) -> dict[str, Any]:
        outcome = classify(answer)
        if outcome.disposition is Disposition.DELIVERED:
            return content(answer) or {}
        self.http.disconnect()
        detail = outcome.detail
        for secret in self._secrets:
            detail = detail.replace(secret, "***")
        raise Refused(replace(outcome, detail=detail))


def _read(part: Callable[[], T]) -> T:
    """A part of an answer, which another service does not have."""
    try:
        return part()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        detail = f"an answer that lens-ship cannot read ({type(error).__name__}: {error})"
        raise Refused(blocked(Reason.OTHER_SERVICE.word, detail)) from error


def from_variables(environ: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Headers, and the secrets in them, as MLflow's own client reads them.

    Raises:
        ValueError: the token cannot be in a header.
    """
    user, password = environ.get(USERNAME, ""), environ.get(PASSWORD, "")
    token = environ.get(TOKEN, "").strip()
    if user and password:
        both = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {both}"}, (both, password)
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{TOKEN} has characters that a header cannot have")
    return ({"Authorization": f"Bearer {token}"}, (token,)) if token else ({}, ())

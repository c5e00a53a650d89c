"""The client of the telemetry-processor: its base URL, the prefix that answers, its timeouts.

The processor's routes are below `/v1`, but its own client's documented default is `/api/v1`. When
the given base answers 404, the client tries the other prefix, and keeps it if the processor answers
there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.http_client.client import HttpClient
from shipper.log import fields
from shipper.sinks import Memory, workload_key
from shipper.sinks.options import HttpOptions, http_client
from shipper.sinks.outcome import TIMEOUT, Disposition, Outcome, Reason, classify_failure
from shipper.sinks.processor.classify import classify, is_processors, pods_in
from shipper.sinks.processor.workloads import Workloads
from spooler.spool.identity import Identity

log = logging.getLogger(__name__)

PODS_PATH = "/pods/workload/cache"
_PREFIXES = ("/api/v1", "/v1")

# The time for an answer grows to this many times what is set, and no further.
TIMEOUT_GROWTH = 10.0


@dataclass(kw_only=True)
class AdaptiveTimeout:
    """How long an answer may take: `base` seconds, more where one has taken longer or did not come.

    A receiver that is behind works through its requests in turn and drops those whose sender has
    hung up. To hang up at a fixed time makes a thousand nodes undo each other's work; to wait in
    turn costs none of them anything.
    """

    base: float
    seconds: float

    def answered(self, took: float) -> None:
        """Twice what this answer took, within the limits."""
        self.seconds = min(max(self.base, 2 * took), self.base * TIMEOUT_GROWTH)

    def missed(self) -> None:
        """None came in time."""
        self.seconds = min(2 * self.seconds, self.base * TIMEOUT_GROWTH)


class ProcessorClient:
    """Posts to the processor under the prefix that answers.

    `base_url` is the operator's choice; where it is empty, the URL that the training process
    recorded is used for its own records.
    """

    def __init__(self, base_url: str, http: HttpClient) -> None:
        self._base_url = base_url
        self.http = http
        self._working: dict[str, str] = {}
        # Workload and path -> how long its answers may take, where that is not what is set.
        self._timeouts: dict[tuple[str, str], AdaptiveTimeout] = {}
        self._lock = threading.Lock()
        self.workloads = Workloads(self.pods, self.base_url, time.monotonic)

    @classmethod
    def of(cls, options: HttpOptions) -> ProcessorClient:
        return cls(options.url, http_client(options))

    def send(
        self,
        identity: Identity,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        items: int | None,
        tries: int,
    ) -> Outcome:
        """Post to `path` below the base and judge what comes back.

        An address that a job recorded is that job's own: others need not wait for its trouble.
        """
        outcome = self._send(identity, path, body, headers, items=items, tries=tries)
        if outcome.disposition is Disposition.RETRY and outcome.reason == Reason.BAD_REQUEST.word:
            # At once, on another connection: a pause would not change what was cut on its way.
            outcome = self._send(identity, path, body, headers, items=items, tries=tries + 1)
        return outcome if self._base_url else replace(outcome, scope="workload")

    def _send(
        self,
        identity: Identity,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        items: int | None,
        tries: int,
    ) -> Outcome:
        try:
            outcome = classify(self._post(identity, path, body, headers), items=items, tries=tries)
        except Unreachable as failure:
            outcome = classify_failure(failure, tries=tries)
        if outcome.disposition is not Disposition.DELIVERED:
            self.http.disconnect()
        return outcome

    def pods(self, base: str) -> Mapping[str, Any] | None:
        """The processor's map from pod name to its workloads; None when it cannot be had now."""
        try:
            return pods_in(self.http.get(self._working.get(base, base) + PODS_PATH))
        except Unreachable:
            return None
        finally:
            self.http.disconnect()

    def base_url(self, identity: Identity) -> str:
        """The operator's, else the one that the job recorded."""
        return (self._base_url or identity.api_base_url).rstrip("/")

    def _post(
        self, identity: Identity, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        given = self.base_url(identity)
        if not given:
            raise Unreachable("no-url", "no processor_url, and the job recorded none", sent=False)
        base = self._working.get(given, given)
        answer = self._post_adaptively(workload_key(identity), base, path, body, headers)
        if answer.status == 404:
            answer = self._try_other(given, base, path, body, headers) or answer
        return answer

    def _post_adaptively(
        self, workload: str, base: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """Post, and learn from it how long this workload's next answer may take."""
        usual = self.http.read_seconds
        key = (workload, path)
        timeout = self._timeouts.get(key) or AdaptiveTimeout(base=usual, seconds=usual)
        began = time.monotonic()
        try:
            answer = self.http.post(base + path, body, headers, read_seconds=timeout.seconds)
        except Unreachable as failure:
            if failure.reason == TIMEOUT:
                timeout.missed()
                self._timeouts[key] = timeout
            raise
        timeout.answered(time.monotonic() - began)
        if timeout.seconds == usual:
            self._timeouts.pop(key, None)
        else:
            self._timeouts[key] = timeout
        return answer

    def _try_other(
        self, given: str, base: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer | None:
        other = other_prefix(base)
        if other is None:
            return None
        answer = self.http.post(other + path, body, headers)
        if not is_processors(answer):
            # A page of another service must not become the address.
            return None
        with self._lock:
            known = self._working.get(given) == other
            self._working[given] = other
        if not known:
            log.warning(
                "URL answers 404, using the other prefix",
                extra=fields(url=base, instead=other),
            )
        return answer


class ProcessorBase:
    """What the sinks of a telemetry-processor have in common. Equal options share one client."""

    def __init__(self, name: str, options: HttpOptions, shared: dict[Any, Any]) -> None:
        self.name = name
        key = (ProcessorClient, options.http())
        if key not in shared:
            shared[key] = ProcessorClient.of(options)
        self._client: ProcessorClient = shared[key]

    def ordering_key(self, identity: Identity) -> str:
        return workload_key(identity)

    def resolve(self, identity: Identity, memory: Memory, *, alive: bool) -> Identity:
        return self._client.workloads.complete(identity, memory, alive=alive)

    def destination(self, identity: Identity) -> str:
        return self._client.base_url(identity)

    def credentials(self) -> Hashable:
        return self._client.http.credentials.stamp()

    def close(self) -> None:
        self._client.http.close()


def other_prefix(base: str) -> str | None:
    """The same host under the other known prefix; None for a path that is neither nor empty."""
    parts = urlsplit(base)
    path = parts.path.rstrip("/")
    for prefix, other in (_PREFIXES, _PREFIXES[::-1]):
        if path.endswith(prefix) and not (prefix == "/v1" and path.endswith("/api/v1")):
            return urlunsplit(parts._replace(path=path[: -len(prefix)] + other))
    if not path:
        return urlunsplit(parts._replace(path="/v1"))
    return None

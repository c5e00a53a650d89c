"""A client for another kind of master, brought along by the operator.

`package.module:attribute` names an object with `report_diagnosis_agent_metrics(metric)`, or a class
or function that makes one; a maker that has a parameter `master_addr` is given the address. The
client is handed a metric with DLRover's eight attributes and `to_json`. Failures and decisions go
to `report_failures` and `report_event`, with the arguments of DLRover's client. Without these
methods they are dropped as `unsupported`. What a client returns is delivered, unless it returns
False; what it raises is tried again, and for a report that must not arrive twice counts as perhaps
delivered, unless it is a `ConnectionRefusedError`.
"""

from __future__ import annotations

import inspect
import json
import logging
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from shipper.errors import ConfigError
from shipper.log import fields
from shipper.sinks.dlrover.classify import RETRY_SECONDS, rejected
from shipper.sinks.dlrover.report import Report
from shipper.sinks.dlrover.session import JobNode, Sent
from shipper.sinks.outcome import DELIVERED, Disposition, Handshake, Outcome

log = logging.getLogger(__name__)

METHOD = "report_diagnosis_agent_metrics"
_METHODS = {"NodeFailure": "report_failures", "Event": "report_event"}
_UNSUPPORTED = Outcome(
    disposition=Disposition.DROPPED,
    reason="unsupported",
    detail="the client has no report_failures or no report_event",
)


class WorkerTrainingMetric:
    """One report as DLRover's class of this name has it; clients send the name along."""

    def __init__(self, report: Report) -> None:
        self.timestamp: int = report.timestamp
        self.data_type: str = report.data_type
        self.data_content: str = report.metric["data_content"]
        self.node_id: int = report.metric["node_id"]
        self.node_type: str = report.metric["node_type"]
        self.node_rank: int = report.metric["node_rank"]
        self.is_final_result: bool = report.metric["is_final_result"]
        self.need_report: bool = report.metric["need_report"]

    def to_json(self) -> str:
        """The eight attributes as JSON."""
        return json.dumps(vars(self))


class CustomClientSession:
    """The session with a client of the operator's, which knows no epochs."""

    def __init__(self, address: str, client: Any, now: Callable[[], float]) -> None:
        self.address = address
        self.used = now()
        self._client = client
        self._now = now
        self._lock = threading.Lock()
        self._refusals = 0

    def handshake(self, key: str, node: JobNode) -> Handshake:
        return Handshake()

    def report(self, report: Report, contents: Sequence[str], node: JobNode) -> Sent:
        """Hand the whole report over; how it travels is the client's business."""
        with self._lock:
            self.used = self._now()
            try:
                answer = self._hand_over(report)
            except Exception as error:  # noqa: BLE001 - border with code that is not ours
                return Sent(outcome=_judge(error), messages=0)
            if answer is _UNSUPPORTED:
                return Sent(outcome=_UNSUPPORTED, messages=0)
            if answer is False:
                outcome = rejected("refused", "the client returned False", self._refusals)
                self._refusals = (
                    self._refusals + 1 if outcome.disposition is Disposition.RETRY else 0
                )
                return Sent(outcome=outcome, messages=0)
            self._refusals = 0
            return Sent(outcome=DELIVERED, messages=len(contents))

    def _hand_over(self, report: Report) -> Any:
        if report.message is None:
            return getattr(self._client, METHOD)(WorkerTrainingMetric(report))
        name, values = report.message
        method = getattr(self._client, _METHODS[name], None)
        return _UNSUPPORTED if method is None else method(**values)

    def close(self) -> None:
        """End the client, if it can be."""
        end = getattr(self._client, "close", None)
        if callable(end):
            try:
                end()
            except Exception as error:  # noqa: BLE001 - border with code that is not ours
                log.warning(
                    "custom client failed to close",
                    extra=fields(receiver=self.address, detail=f"{type(error).__name__}: {error}"),
                )


def load(place: str) -> Callable[[str], Any]:
    """What makes a client for an address.

    Raises:
        ConfigError: there is no such module or attribute, or it is neither client nor maker.
    """
    module, _, attribute = place.partition(":")
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # importing runs code that is not ours
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            [f"--dlrover-client {place}: {reason}; it is package.module:name"]
        ) from error
    if hasattr(found, METHOD) and not inspect.isclass(found):
        return lambda _address: found
    if not callable(found):
        raise ConfigError([f"--dlrover-client {place}: it has no {METHOD} and makes nothing"])
    return lambda address: _make(place, found, address)


def _make(place: str, maker: Callable[..., Any], address: str) -> Any:
    takes = "master_addr" in inspect.signature(maker).parameters
    client = maker(master_addr=address) if takes else maker()
    if not hasattr(client, METHOD):
        raise TypeError(f"{place} made a {type(client).__name__}, which has no {METHOD}")
    return client


def _judge(error: Exception) -> Outcome:
    return Outcome(
        disposition=Disposition.RETRY,
        reason="client-failed",
        detail=f"{type(error).__name__}: {error}",
        ambiguous=not isinstance(error, ConnectionRefusedError),
        retry_after=RETRY_SECONDS,
    )

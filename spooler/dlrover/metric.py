"""What a diagnosis report is in the program: `WorkerTrainingMetric`, with DLRover's names and JSON.

`taken` is the door: it takes our own objects and DLRover's, by their attributes, and gives the
eight fields of a `report` record as a master must get them. What can mean one thing only is
corrected (milliseconds become seconds, no timestamp becomes now); anything else is refused, because
one bad timestamp makes a master refuse every later report of that type, of every node.
"""

from __future__ import annotations

import datetime
import enum
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spooler.async_exceptions import ours
from spooler.config import environ, read
from spooler.errors import ReportRefused
from spooler.records.report import FIELDS
from spooler.spool.identity import Identity

# A timestamp of this size or more counts milliseconds, microseconds, nanoseconds: as seconds, the
# first would be the year 5138.
_UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
_EARLIEST = 10**9  # the year 2001: what is smaller counts from the start of something else
# A clock may be ahead; by more than this it is none, and would stop the master's own tidying.
_AHEAD_SECONDS = 86400
_NOTHING: Mapping[str, Any] = {}


class DiagnosisDataType(str, enum.Enum):
    """What a report's content is. Members are texts, as in DLRover."""

    GENERIC = "GENERIC"
    TRAINING_LOG = "TRAINING_LOG"
    XPU_TIMER_METRIC = "XPU_TIMER_METRIC"
    STACK_TRACE = "STACK_TRACE"

    def __str__(self) -> str:
        return str(self.value)


def node_id() -> int:
    """That of the spool's identity, 0 where the environment has none."""
    return read(Identity, environ())["node_id"] or 0


def node_type() -> str:
    """That of the spool's identity: `worker` where the environment has none."""
    return str(read(Identity, environ())["node_type"])


def node_rank() -> int:
    """That of the spool's identity, 0 where no launcher has given one."""
    return read(Identity, environ())["node_rank"] or 0


@dataclass
class WorkerTrainingMetric:
    """One report for the training master; `timestamp` in whole Unix seconds, 0 for now.

    `source` is ours: where the content came from, for a collector that goes on there later. It is
    no part of the JSON.
    """

    timestamp: int = 0
    data_type: str = DiagnosisDataType.GENERIC
    data_content: str = ""
    node_id: int = field(default_factory=node_id)
    node_type: str = field(default_factory=node_type)
    node_rank: int = field(default_factory=node_rank)
    is_final_result: bool = False
    need_report: bool = False
    source: Mapping[str, Any] | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.timestamp:
            self.timestamp = int(time.time())

    def to_json(self) -> str:
        """The eight fields as DLRover writes them."""
        return json.dumps({name: getattr(self, name) for name in FIELDS})

    @classmethod
    def from_json(cls, text: str) -> WorkerTrainingMetric:
        """The metric that `to_json`, ours or DLRover's, has written.

        Raises:
            ValueError: it is not JSON.
            TypeError: it has a field that a metric has not.
        """
        return cls(**json.loads(text))


def taken(data: Any, *, now: float, own: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
    """The eight fields of `data`, checked and corrected; `now` in Unix seconds.

    `own` has values for fields that `data` has not.

    Raises:
        ReportRefused: a field is missing or means nothing; it says which and why.
    """
    checks: dict[str, Callable[[Any], Any]] = {
        "timestamp": lambda value: _timestamp(value, now),
        "data_type": _type,
        "data_content": _content,
        **_NODE_CHECKS,
        "is_final_result": bool,
        "need_report": bool,
    }
    if not any(_has(data, name) for name in ("data_type", "data_content")):
        kind = type(data).__name__
        raise ReportRefused("report-shape", f"a {kind} is not a WorkerTrainingMetric")
    return {name: check(_field(data, name, own.get(name))) for name, check in checks.items()}


def node(own: Mapping[str, Any]) -> dict[str, Any]:
    """`node_id` and `node_type` of the process, those in `own` first, checked as in `taken`."""
    return {name: _NODE_CHECKS[name](own.get(name)) for name in ("node_id", "node_type")}


_NODE_CHECKS: dict[str, Callable[[Any], Any]] = {
    "node_id": lambda value: node_id() if value is None else _integer("node_id", value),
    "node_type": lambda value: _text("node_type", value) if value else node_type(),
    "node_rank": lambda value: node_rank() if value is None else _integer("node_rank", value),
}


def _has(data: Any, name: str) -> bool:
    return hasattr(data, name) or hasattr(data, f"_{name}")


def _field(data: Any, name: str, otherwise: Any) -> Any:
    """A public attribute, or the private one of an object that has no public name for it."""
    value = getattr(data, name, getattr(data, f"_{name}", None))
    return otherwise if value is None else value


def _timestamp(value: Any, now: float) -> int:
    if isinstance(value, datetime.datetime):
        value = value.timestamp()
    if isinstance(value, str):
        try:
            value = float(value) if value.strip() else 0
        except ours(ValueError):
            raise ReportRefused("report-timestamp", f"{value!r} is not a time") from None
    if value is None or value == 0:
        return int(now)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ReportRefused("report-timestamp", f"{value!r} is not a time")
    for least, unit in _UNITS:
        if value >= least:
            value = value / unit
    if not _EARLIEST <= value <= now + _AHEAD_SECONDS:
        raise ReportRefused("report-timestamp", f"{value!r} is not a time in Unix seconds")
    return int(value)


def _type(value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value if isinstance(value.value, str) else value.name
    if value is None or value == "":
        return DiagnosisDataType.GENERIC.value
    return _text("data_type", value)


def _content(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    return "" if value is None else _text("data_content", value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if not isinstance(value, str):
        raise ReportRefused(_reason(name), f"{name} is a {type(value).__name__}, not text")
    return str(value)


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError(value)
        return int(value)
    except ours(TypeError, ValueError, OverflowError):
        raise ReportRefused(_reason(name), f"{name} is {value!r}, not a whole number") from None


def _reason(name: str) -> str:
    return {"data_content": "report-content", "data_type": "report-type"}.get(name, "report-node")

"""From a record to the messages that a master is sent of it, checked. Pure.

A master trusts what it is sent: a timestamp in milliseconds makes it refuse the reports of every
node until it restarts, a missing field is taken for its own. So whatever comes from a file is
checked here, and sent with all eight fields and no other.

A failure and a decision are messages of their own. They make a master write them to its log, and do
nothing: an order to start another node, late by minutes, would hit a node that is healthy again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipper.sinks.dlrover import encode
from spooler.errors import MalformedBody
from spooler.records import decision, failure
from spooler.records.report import FIELDS, decode
from spooler.spool.identity import Identity

# Unix seconds from 2001 to 2286: milliseconds and nanoseconds lie beyond.
_FIRST, _LAST = 10**9, 10**10
# Text that may be cut at the ends of lines. A sample of metrics is judged as a whole.
_SPLITTABLE = frozenset({"TRAINING_LOG", "STACK_TRACE"})
# A repetition of such a report makes the master see a hang that is none.
_ONCE = frozenset({"XPU_TIMER_METRIC"})

# A timestamp so much later than its record is none: a master would not tidy up until then.
AHEAD_SECONDS = 600.0
# Below this there is no room for text worth sending.
_LEAST_ROOM = 64


class InvalidReport(Exception):
    """Raised for a record that no master may be sent; its text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The eight fields, checked; `time` is when the record was made, in Unix seconds.

    `master` is the address that the program itself has named, "" for none. `made` is `time` by the
    monotonic clock of that boot, None where it was not recorded. `message` is the name and the
    values of a message of another class; of `metric` then only time and node count.
    """

    metric: Mapping[str, Any]
    time: float
    master: str = ""
    made: float | None = None
    message: tuple[str, Mapping[str, Any]] | None = None

    @property
    def timestamp(self) -> int:
        """When the data was taken, Unix seconds."""
        return int(self.metric["timestamp"])

    @property
    def data_type(self) -> str:
        """What kind of data it is."""
        return str(self.metric["data_type"])

    @property
    def once(self) -> bool:
        """Whether a repetition does harm."""
        return self.data_type in _ONCE


def of_record(kind: str, body: Mapping[str, Any], identity: Identity) -> Report:
    """The report of a record of any kind that the sink takes.

    Raises:
        InvalidReport: a field is missing or not what it should be.
    """
    try:
        if kind == failure.NAME:
            return _of_failure(failure.decode(body))
        if kind == decision.NAME:
            return _of_decision(decision.decode(body), identity)
    except MalformedBody as error:
        raise InvalidReport(str(error)) from None
    return read(body)


def _of_failure(record: failure.FailureRecord) -> Report:
    level = "process_error" if record.level == "node_error" else record.level
    values = {
        "error_data": record.error_data,
        "restart_count": record.restart_count,
        "level": level,
    }
    return _message("NodeFailure", values, record, record.node_id, record.node_type)


def _of_decision(record: decision.DecisionRecord, identity: Identity) -> Report:
    node_id, node_type = identity.node_id or 0, identity.node_type
    values = {
        "event_type": "info" if record.action == "NONE" else "error",
        "instance": f"{node_type}-{node_id}",
        "action": "diagnose_training_failure",
        "msg": f"{record.action}: {record.reason}",
        "labels": {
            "rule": record.rule,
            "evidence": record.evidence,
            "seen_in": record.seen_in,
            "restart_count": str(record.restart_count),
            "rank": str(identity.rank if identity.rank is not None else identity.node_rank or 0),
        },
    }
    return _message("Event", values, record, node_id, node_type)


def _message(
    name: str,
    values: Mapping[str, Any],
    record: failure.FailureRecord | decision.DecisionRecord,
    node_id: int,
    node_type: str,
) -> Report:
    made = _seconds(record.time, record.time)
    metric = {"timestamp": made, "data_type": name, "node_id": node_id, "node_type": node_type}
    return Report(
        metric=metric,
        time=record.time,
        master=record.master,
        made=record.monotonic,
        message=(name, values),
    )


def read(body: Mapping[str, Any]) -> Report:
    """Check the decoded body of a `report` record.

    Raises:
        InvalidReport: a field is missing or not what it should be.
    """
    try:
        record = decode(body)
    except MalformedBody as error:
        raise InvalidReport(str(error)) from None
    if not record.data_type:
        raise InvalidReport("data_type is empty")
    metric = {name: getattr(record, name) for name in FIELDS}
    metric["timestamp"] = _seconds(record.timestamp, record.time)
    ahead = metric["timestamp"] - record.time  # both by the clock of the process
    if ahead > AHEAD_SECONDS:
        raise InvalidReport(f"timestamp is {ahead:.0f} s later than the record")
    return Report(metric=metric, time=record.time, master=record.master, made=record.monotonic)


def contents(report: Report, limit: int) -> tuple[str, ...]:
    """The JSON of each message of a report; several where its text is cut at the ends of lines.

    Raises:
        InvalidReport: it is larger than `limit` bytes on the wire and must not be cut.
    """
    whole = encode.metric_json(report.metric)
    node_type = report.metric["node_type"]
    if report.message is not None:
        bytes_ = encode.object_size(*report.message, node_type)
    else:
        bytes_ = encode.size(whole, node_type)
    if bytes_ <= limit:
        return (whole,)
    room = limit - encode.size(encode.metric_json({**report.metric, "data_content": ""}), node_type)
    if report.data_type not in _SPLITTABLE or room < _LEAST_ROOM:
        raise InvalidReport(
            f"{bytes_} bytes on the wire, more than the {limit} that a master takes"
        )
    return tuple(
        encode.metric_json({**report.metric, "data_content": piece})
        for piece in _pieces(report.metric["data_content"], room)
    )


def _seconds(value: float, made: float) -> int:
    """Whole seconds; 0 stands for the time of the record, as it does for the master."""
    seconds = int(value) or int(made) if math.isfinite(value) and math.isfinite(made) else 0
    if not _FIRST <= seconds < _LAST:
        raise InvalidReport(f"timestamp is {value!r:.60}, not Unix time in seconds")
    return seconds


def _pieces(text: str, room: int) -> Iterator[str]:
    """Text cut at the ends of lines into pieces of at most `room` bytes as JSON."""
    piece: list[str] = []
    taken = 0
    for line in _short_lines(text, room):
        cost = _cost(line)
        if piece and taken + cost > room:
            yield "".join(piece)
            piece, taken = [], 0
        piece.append(line)
        taken += cost
    if piece:
        yield "".join(piece)


def _short_lines(text: str, room: int) -> Iterator[str]:
    """Its lines with their ends; one that has no room even alone is cut between characters."""
    for line in text.splitlines(keepends=True):
        if _cost(line) <= room:
            yield line
            continue
        # No character takes more than six bytes.
        step = max(1, room // 6)
        yield from (line[at : at + step] for at in range(0, len(line), step))


def _cost(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")) - 2

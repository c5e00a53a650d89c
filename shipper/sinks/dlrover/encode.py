"""The wire contract of the training master, from bytes to meaning; described here only. Pure.

**Calls.** gRPC in plain text, service `elastic.Master`: `report` (Message to Response) stores
something, `get` (Message to Message) asks for something. HTTP from 0.5.0 on: `POST /report` and
`POST /get` with JSON ``{"node_id", "node_type", "data": base64 of the same pickle}``. Both may
carry `job_uid` (gRPC metadata, HTTP header): a master that has a uid refuses another one.

**Protobuf.** Message: 1 `node_id` int32, 2 `node_type` string, 3 `data` bytes. Response:
1 `success` bool, 2 `reason` string.

**Data** is a pickle (protocol 4) of one object: class name, then attributes. Its module is
`dlrover.python.common.comm` for masters from 0.5.0 on and `dlrover.python.common.grpc` for 0.4.0;
the wrong one is answered as if nothing had been sent.

- `DiagnosisReportData`: `data_cls` (always `WorkerTrainingMetric`), `data_content` (JSON with
  exactly the eight fields of that class, not escaped to ASCII), `node_rank`.
- `NodeFailure`: `error_data` (JSON of DLRover's agent), `restart_count`, `level`. With the level
  `process_error` the master logs the first one of each `restart_count`, and keeps `error_data` as
  the exit reason of the node. With `node_error` it starts another node in place of this one.
- `Event`: `event_type`, `instance`, `action`, `msg`, `labels` (text by text). The master logs it.
- `KeyValuePair`: `key`, `value` (bytes), `op`. A `report` of it with op `set` keeps the value in
  the master's memory, a `get` of it with op `get` returns it, or `b""` when it is not there.

**Answers.** A gRPC `report` answers ``08 01`` for stored, nothing for not stored. A gRPC `get`
answers a Message whose data is a pickle, empty when the request was not understood. HTTP answers
200 with a pickle of `BaseResponse` (`success`, `data`; `success` means nothing in the answer to a
`get`). Pickles that a master sends are looked through opcode by opcode and never loaded: loading
one runs what its sender wants.

**Sizes.** A master of 0.5.0 to 0.6.1 takes gRPC messages of at most 4,194,304 bytes.
"""

from __future__ import annotations

import base64
import json
import pickletools
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipper import protobuf

REPORT_METHOD = "/elastic.Master/report"
GET_METHOD = "/elastic.Master/get"
JOB_UID = "job_uid"
# The generations of masters by the module of their messages, the newer one first.
GENERATIONS = ("dlrover.python.common.comm", "dlrover.python.common.grpc")
DATA_CLASS = "WorkerTrainingMetric"
# What a master has to say fits into a few hundred bytes; what is longer is not looked at.
ANSWER_LIMIT = 64 * 1024

_STORED = b"\x08\x01"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What either transport carries; `data` is the pickle."""

    node_id: int
    node_type: str
    data: bytes


# --- what is sent ---------------------------------------------------------------------------------


def report_data(generation: str, content: str, node_rank: int) -> bytes:
    """The pickle of a report whose JSON is `content`."""
    values = {"data_cls": DATA_CLASS, "data_content": content, "node_rank": node_rank}
    return object_data(generation, "DiagnosisReportData", values)


def object_data(generation: str, name: str, values: Mapping[str, Any]) -> bytes:
    """The pickle of an object of this class, without frame and memo, which no master needs."""
    return b"\x80\x04" + _value(generation) + _value(name) + b"\x93)\x81" + _value(values) + b"b."


def keep_data(generation: str, key: str, value: bytes) -> bytes:
    """The pickle that has the master keep `value` in its memory."""
    return object_data(generation, "KeyValuePair", {"key": key, "value": value, "op": "set"})


def ask_data(generation: str, key: str) -> bytes:
    """The pickle that asks for what the master keeps under `key`."""
    return object_data(generation, "KeyValuePair", {"key": key, "value": b"", "op": "get"})


def to_protobuf(message: Message) -> bytes:
    """The gRPC message; fields with their default value are left out, as protobuf does."""
    node_type = message.node_type.encode("utf-8", "replace")
    values = ((1, message.node_id), (2, node_type), (3, message.data))
    return b"".join(protobuf.field(number, value) for number, value in values if value)


def to_json(message: Message) -> bytes:
    """The HTTP body."""
    body = {
        "node_id": message.node_id,
        "node_type": message.node_type,
        "data": base64.b64encode(message.data).decode("ascii"),
    }
    return json.dumps(body).encode("ascii")


def size(content: str, node_type: str) -> int:
    """Bytes of the largest gRPC message that carries this JSON, whatever else is in it."""
    text = len(content.encode("utf-8", "surrogatepass"))
    return text + len(node_type.encode("utf-8", "replace")) + _FRAME


def object_size(name: str, values: Mapping[str, Any], node_type: str) -> int:
    """Bytes of the largest gRPC message that carries this object."""
    data = object_data(GENERATIONS[0], name, values)
    return len(to_protobuf(Message(node_id=-1, node_type=node_type, data=data)))


def metric_json(metric: Mapping[str, Any]) -> str:
    """The JSON of a report's fields; text stays what it is."""
    return json.dumps(dict(metric), ensure_ascii=False)


# --- what comes back ------------------------------------------------------------------------------


def stored(response: bytes) -> bool | None:
    """Whether a gRPC response says stored; None when it is no such response."""
    if response == _STORED:
        return True
    fields = _fields(response)
    if fields is None or set(fields) - {1, 2} or not isinstance(fields.get(1, 0), int):
        return None
    return fields.get(1, 0) == 1


def message_data(response: bytes) -> bytes | None:
    """The data of a gRPC message; None when it is no such message."""
    fields = _fields(response)
    if fields is None:
        return None
    data = fields.get(3, b"")
    return data if isinstance(data, bytes) else None


def attributes(pickled: bytes) -> dict[str, Any] | None:
    """The plain attributes of a pickled object, read from its opcodes; None when it is no pickle.

    Only booleans, numbers, text and bytes are there; nothing is loaded or called.
    """
    if not pickled or len(pickled) > ANSWER_LIMIT:
        return None
    found: dict[str, Any] = {}
    name: str | None = None
    try:
        for kind, value in _literals(pickled):
            if name is not None and kind != "other":
                found[name] = value
                name = None
            else:
                name = value if kind == "text" else None
    except (ValueError, IndexError, KeyError, struct.error, OverflowError):
        return None
    return found


# --- pickle ---------------------------------------------------------------------------------------


def _value(value: str | bytes | int | Mapping[str, Any]) -> bytes:
    if isinstance(value, Mapping):
        pairs = b"".join(_value(key) + _value(item) for key, item in value.items())
        return b"}(" + pairs + b"u"
    if isinstance(value, str):
        return _sized(value.encode("utf-8", "surrogatepass"), b"\x8c", b"X")
    if isinstance(value, bytes):
        return _sized(value, b"C", b"B")
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def _sized(data: bytes, short: bytes, long: bytes) -> bytes:
    if len(data) < 256:
        return short + bytes([len(data)]) + data
    return long + len(data).to_bytes(4, "little") + data


_SKIPPED = frozenset({"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "FRAME"})
_BOOLEANS = {"NEWTRUE": True, "NEWFALSE": False}


def _literals(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """The plain values in a pickle in their order; everything else is `other`."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _SKIPPED:
            continue
        if opcode.name in _BOOLEANS:
            yield "bool", _BOOLEANS[opcode.name]
        elif isinstance(argument, str) and "UNICODE" in opcode.name:
            yield "text", argument
        elif isinstance(argument, bytes) and "BYTES" in opcode.name:
            yield "bytes", argument
        elif isinstance(argument, int) and "INT" in opcode.name:
            yield "int", argument
        else:
            yield "other", None


# --- protobuf -------------------------------------------------------------------------------------


def _fields(data: bytes) -> dict[int, int | bytes] | None:
    """Values by field number; None when the bytes are not a message."""
    try:
        return dict(protobuf.fields(data))
    except protobuf.MalformedMessage:
        return None


# What a message holds besides its JSON and node type, at most.
_LARGEST = Message(node_id=-1, node_type="", data=report_data(GENERATIONS[0], "x" * 256, 2**63 - 1))
_FRAME = len(to_protobuf(_LARGEST)) - 256 + 2 * len(protobuf.varint(2**32))

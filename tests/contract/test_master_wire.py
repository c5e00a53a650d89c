"""The bytes for a training master: fixed, read back by independent lines and by DLRover itself.

The golden files were written once and are never made anew: what was sent is what a master knows.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import pickletools
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipper.sinks.dlrover import encode
from tests.kit.master import PYTHON, needs_master

GOLDEN = Path(__file__).parent.parent / "golden" / "master-wire"
METRIC = {
    "timestamp": 1700000100,
    "data_type": "TRAINING_LOG",
    "data_content": '日志\n"a"\t🙂\n',
    "node_id": 3,
    "node_type": "worker",
    "node_rank": 4,
    "is_final_result": False,
    "need_report": False,
}
COMM, OLDER = "dlrover.python.common.comm", "dlrover.python.common.grpc"
BINARIES = sorted(path.name for path in GOLDEN.glob("*.bin"))


def message(data: bytes, node_id: int = 3, node_type: str = "worker") -> encode.Message:
    return encode.Message(node_id=node_id, node_type=node_type, data=data)


MADE = {
    "report-comm.bin": message(encode.report_data(COMM, encode.metric_json(METRIC), 4)),
    "report-grpc.bin": message(encode.report_data(OLDER, encode.metric_json(METRIC), 4)),
    "report-odd-ids.bin": message(
        encode.report_data(COMM, encode.metric_json(METRIC), -(2**40)), -1, ""
    ),
    "keep.bin": message(encode.keep_data(COMM, "lens-ship/0123", b"abcd"), 0),
    "ask.bin": message(encode.ask_data(COMM, "lens-ship/0123"), 0),
}


# --- an independent reading -----------------------------------------------------------------------


def fields(data: bytes) -> dict[int, Any]:
    """Protobuf by the book, for fields that are varints or bytes."""
    stream, found = io.BytesIO(data), {}

    def varint() -> int:
        number = place = 0
        while (byte := stream.read(1)[0]) & 128:
            number, place = number | (byte & 127) << place, place + 7
        return number | byte << place

    while stream.tell() < len(data):
        tag = varint()
        found[tag >> 3] = varint() if tag & 7 == 0 else stream.read(varint())
    return found


class Named:
    """Whatever was pickled."""


class Unpickler(pickle.Unpickler):
    """The standard library's, for bytes of ours; it remembers what class was named."""

    name = ""

    def find_class(self, module: str, name: str) -> Any:
        self.name = f"{module}:{name}"
        return Named


def unpickled(data: bytes) -> tuple[str, dict[str, Any]]:
    unpickler = Unpickler(io.BytesIO(data))
    return unpickler.name, vars(unpickler.load()) | {"class": unpickler.name}


@pytest.mark.parametrize("name", BINARIES)
def test_the_bytes_are_those_that_were_always_sent(name: str) -> None:
    assert encode.to_protobuf(MADE[name]) == (GOLDEN / name).read_bytes()
    assert MADE.keys() == set(BINARIES)


@pytest.mark.parametrize(("name", "module"), [("comm", COMM), ("grpc", OLDER)])
def test_a_report_means_what_it_should(name: str, module: str) -> None:
    told = fields((GOLDEN / f"report-{name}.bin").read_bytes())
    assert (told[1], told[2]) == (3, b"worker")
    _, values = unpickled(told[3])
    assert values.pop("class") == f"{module}:DiagnosisReportData"
    content = values.pop("data_content")
    assert values == {"data_cls": "WorkerTrainingMetric", "node_rank": 4}
    assert json.loads(content) == METRIC
    assert "日志" in content, "not escaped: an escape takes twice the bytes"


def test_odd_numbers_survive() -> None:
    told = fields((GOLDEN / "report-odd-ids.bin").read_bytes())
    assert told[1] - 2**64 == -1
    assert 2 not in told
    assert unpickled(told[3])[1]["node_rank"] == -(2**40)


@pytest.mark.parametrize(("name", "value", "op"), [("keep", b"abcd", "set"), ("ask", b"", "get")])
def test_the_token_is_kept_and_asked_for(name: str, value: bytes, op: str) -> None:
    told = fields((GOLDEN / f"{name}.bin").read_bytes())
    assert unpickled(told[3])[1] == {
        "class": f"{COMM}:KeyValuePair",
        "key": "lens-ship/0123",
        "value": value,
        "op": op,
    }


def test_the_http_body_carries_the_same_pickle() -> None:
    body = json.loads((GOLDEN / "report.json").read_bytes())
    pickled = fields((GOLDEN / "report-comm.bin").read_bytes())[3]
    assert body == {
        "node_id": 3,
        "node_type": "worker",
        "data": base64.b64encode(pickled).decode(),
    }
    assert encode.to_json(MADE["report-comm.bin"]) == (GOLDEN / "report.json").read_bytes()


# --- DLRover's own reading ------------------------------------------------------------------------

_READ = """
import json, sys
from pathlib import Path
from dlrover.proto import elastic_training_pb2 as proto
from dlrover.python.common import comm
from dlrover.python.diagnosis.common.diagnosis_data import WorkerTrainingMetric
for name in sys.argv[2:]:
    message = proto.Message()
    message.ParseFromString((Path(sys.argv[1]) / name).read_bytes())
    read = comm.deserialize_message(message.data)
    told = {k: v.decode() if isinstance(v, bytes) else v for k, v in vars(read).items()}
    if "data_content" in told:
        told["metric"] = json.loads(WorkerTrainingMetric.from_json(told["data_content"]).to_json())
    print(json.dumps([name, message.node_id, message.node_type, type(read).__name__, told]))
response = proto.Response(success=True)
print(json.dumps([response.SerializeToString().hex(), proto.Response().SerializeToString().hex()]))
"""


@needs_master
def test_dlrover_reads_the_same() -> None:
    if "0.4.0" in str(PYTHON):
        pytest.skip("0.4.0 has no module of this name")
    names = ["report-comm.bin", "report-odd-ids.bin", "keep.bin", "ask.bin"]
    done = subprocess.run(
        [PYTHON, "-c", _READ, GOLDEN, *names],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    *told, responses = [line for line in lines if line]
    by_name = {line[0]: line[1:] for line in told}
    node_id, node_type, class_name, values = by_name["report-comm.bin"]
    assert (node_id, node_type, class_name) == (3, "worker", "DiagnosisReportData")
    assert values["metric"] == METRIC
    assert by_name["report-odd-ids.bin"][0] == -1
    assert by_name["keep.bin"][2:] == [
        "KeyValuePair",
        {"key": "lens-ship/0123", "value": "abcd", "op": "set"},
    ]
    assert responses == ["0801", ""]


# --- what comes back ------------------------------------------------------------------------------


class BaseResponse:
    """As DLRover has it."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("success", [True, False])
def test_a_flag_is_read_from_the_opcodes_of_any_protocol(protocol: int, success: bool) -> None:
    answer = pickle.dumps(BaseResponse(success=success, data=b""), protocol)
    if protocol < 2:
        assert encode.attributes(answer) is not None
        return
    assert (encode.attributes(answer) or {})["success"] is success


def test_what_a_pickle_would_do_is_not_done(tmp_path: Path) -> None:
    evil = f"cos\nsystem\n(S'touch {tmp_path}/done'\ntR.".encode()
    assert encode.attributes(evil) == {}
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_long_is_not_looked_at() -> None:
    assert encode.attributes(pickle.dumps(b"x" * encode.ANSWER_LIMIT)) is None


@given(st.binary(max_size=200))
def test_no_bytes_at_all_are_taken_for_yes_or_raise(data: bytes) -> None:
    encode.attributes(data)
    encode.message_data(data)
    if encode.stored(data):
        assert fields(data)[1] == 1


@given(
    st.text(), st.text(max_size=40), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31)
)
def test_a_message_is_never_larger_than_it_was_said_to_be(
    text: str, node_type: str, rank: int, node_id: int
) -> None:
    content = encode.metric_json({**METRIC, "data_content": text})
    for generation in encode.GENERATIONS:
        data = encode.report_data(generation, content, rank)
        sent = encode.to_protobuf(message(data, node_id, node_type))
        assert len(sent) <= encode.size(content, node_type)
        assert encode.message_data(sent) == data
        pickletools.dis(data, io.StringIO())

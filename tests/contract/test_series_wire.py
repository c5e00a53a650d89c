"""The bytes of OTLP and remote write, read and made again by code that is not ours."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import cramjam
import pytest
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from shipper import protobuf
from shipper.sinks import Batch, PlanInput
from shipper.sinks.otlp import encode as otlp
from shipper.sinks.otlp.sink import OtlpOptions, OtlpSink, from_variables
from shipper.sinks.prometheus import encode as prometheus
from shipper.sinks.prometheus.sink import PrometheusOptions, PrometheusSink
from shipper.sinks.timeseries.sink import SignalRequest
from spooler.records import decision, failure, report
from spooler.spool.reader import Stored
from tests.kit.shipping import T0, finish, step, stored
from tests.kit.spools import identity

WHO = identity(
    workload_uid="w",
    rank=3,
    local_rank=0,
    world_size=8,
    pod_name="p-0",
    pod_uid="u",
    namespace="n",
    node_name="node-1",
    slurm_job_id="17",
    otel_resource_attributes="team=a%20b,dl.rank=99",
)
RECORDS = stored(
    step(0, **{"loss": 0.0, "train/loss": -1.5, "text": "é", "step": 4}),
    step(-1, loss=2.5),
    finish(),
    ("report", report.EXAMPLE),
    ("failure", failure.EXAMPLE),
    ("decision", decision.EXAMPLE),
)


def requests(
    sink: OtlpSink | PrometheusSink, records: Sequence[Stored] = RECORDS
) -> list[SignalRequest]:
    plan = sink.plan(PlanInput(identity=WHO, records=records, ended=True))
    return [one for batch in plan.batches for one in sink.requests(batch.payload, WHO)]


def otlp_sink(**options: Any) -> OtlpSink:
    return OtlpSink("one", OtlpOptions(url="http://h", logs=True, **options), {})


@pytest.mark.parametrize("step", ["gauge", "attribute", "both"])
def test_otlp_is_what_its_own_library_writes(step: str) -> None:
    found = requests(otlp_sink(step=step, gzip=False))
    assert {one.signal for one in found} == {"metrics", "logs"}
    for one in found:
        assert one.url == f"http://h/v1/{one.signal}"
        metrics = one.signal == "metrics"
        message: Message = ExportMetricsServiceRequest() if metrics else ExportLogsServiceRequest()
        message.ParseFromString(one.body)
        assert message.SerializeToString(deterministic=True) == one.body


def test_a_point_has_the_step_of_its_own_row() -> None:
    axes = {"t": [None, ["loss", "t"]], "e": [None, ["acc", "e"]]}
    kind, body = step(7, loss=0.5, t=50, acc=0.25, e=3)
    records = stored((kind, {**body, "axes": axes}))
    sink = otlp_sink(step="both", gzip=False)
    (one, *_) = requests(sink, records)
    message = ExportMetricsServiceRequest.FromString(one.body)
    (scope,) = message.resource_metrics[0].scope_metrics
    steps = {
        metric.name: pair.value.int_value
        for metric in scope.metrics
        for pair in metric.gauge.data_points[0].attributes
        if pair.key == "step"
    }
    assert steps == {
        "training.loss": 50,
        "training.t": 50,
        "training.step": 50,
        "training.acc": 3,
        "training.e": 3,
    }


def test_points_are_read_back() -> None:
    (one, *_) = requests(otlp_sink())
    message = ExportMetricsServiceRequest.FromString(gzip.decompress(one.body))
    (resource,) = message.resource_metrics
    told = {pair.key: pair.value for pair in resource.resource.attributes}
    assert told["service.instance.id"].string_value == "w-rank3"
    assert (told["dl.rank"].int_value, told["team"].string_value) == (3, "a b")
    assert told["k8s.node.name"].string_value == "node-1"
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "lens-ship"
    values = {
        (metric.name, *(pair.value.string_value for pair in point.attributes)): [
            point.time_unix_nano,
            point.as_int if point.WhichOneof("value") == "as_int" else point.as_double,
        ]
        for metric in scope.metrics
        for point in metric.gauge.data_points
        if point.time_unix_nano == round(T0) * 10**9
    }
    at = round(T0) * 10**9
    assert values == {
        ("training.loss", "3", "r"): [at, 0.0],
        ("training.train/loss", "train/loss", "3", "r"): [at, -1.5],
        ("training.step", "step", "3", "r"): [at, 4.0],
        ("training.step", "3", "r"): [at, 0],
        ("training.run.status", "3", "r"): [at, 1],
    }
    assert not any(metric.unit for metric in scope.metrics)


def test_log_records_are_read_back() -> None:
    found = [one for one in requests(otlp_sink(numbers=False)) if one.signal == "logs"]
    records = [
        record
        for one in found
        for resource in ExportLogsServiceRequest.FromString(gzip.decompress(one.body)).resource_logs
        for record in resource.scope_logs[0].log_records
    ]
    assert [record.event_name for record in records] == [
        *("training.step", "training.step", "training.finish", ""),
        *("training.failure", "training.decision"),
    ]
    assert '"text":"é"' in records[0].body.string_value
    told = {pair.key: pair.value for pair in records[0].attributes}
    assert (told["step"].int_value, told["lens.seq"].int_value) == (0, 1)
    assert told["event.name"].string_value == "training.step"
    assert told["lens.spool"].string_value == WHO.spool
    assert [record.severity_text for record in records[-2:]] == ["ERROR", "ERROR"]
    assert "exitcode" in records[-2].body.string_value


def test_remote_write_is_sorted_labels_and_samples() -> None:
    sink = PrometheusSink("one", PrometheusOptions(url="http://h/api/v1/write"), {})
    (one,) = requests(sink)
    series = [value for number, value in protobuf.fields(unsnappy(one.body)) if number == 1]
    found = {}
    for each in series:
        parts = list(protobuf.fields(protobuf.message(each)))
        labels = [dict(protobuf.fields(protobuf.message(v))) for number, v in parts if number == 1]
        names = [protobuf.text(label[1]) for label in labels]
        assert names == sorted(set(names))
        texts = [protobuf.text(label[2]) for label in labels]
        assert all(texts)
        samples = [dict(protobuf.fields(protobuf.message(v))) for number, v in parts if number == 2]
        times = [protobuf.signed(sample[2]) for sample in samples]
        assert times == sorted(times)
        known = dict(zip(names, texts, strict=True))
        found[known["__name__"], known.get("lens_name", "")] = [
            protobuf.double(sample[1]) for sample in samples
        ]
    assert found == {
        ("training_loss", ""): [2.5, 0.0],  # step -1 is a second older
        ("training_train_loss", "train/loss"): [-1.5],
        ("training_step", "step"): [4.0],
        ("training_step", ""): [-1.0, 0.0],
        ("training_run_status", ""): [1.0],
    }


def unsnappy(data: bytes) -> bytes:
    """What a block of literals holds."""
    return bytes(cramjam.snappy.decompress_raw(data))


@pytest.mark.parametrize("size", [0, 1, 4, 59, 60, 61, 62, 256, 65536, 65537, 65597, 200_000])
def test_a_block_of_literals_is_snappy(size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    assert unsnappy(prometheus.snappy(data)) == data


@pytest.mark.parametrize(("count", "message"), [(0, ""), (0, "a warning"), (5, "too many labels")])
def test_a_partial_success_is_read(count: int, message: str) -> None:
    partial = ExportMetricsPartialSuccess(rejected_data_points=count, error_message=message)
    answer = ExportMetricsServiceResponse(partial_success=partial)
    assert otlp.rejected(answer.SerializeToString()) == (count, message)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"\xff" * 20])
def test_any_other_body_rejects_nothing(body: bytes) -> None:
    assert otlp.rejected(body) == (0, "")


def test_variables_of_opentelemetry_are_read() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Basic%20YQ%3D%3D, x-scope = team-a",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
    }
    headers = {"Authorization": "Basic YQ==", "x-scope": "team-a"}
    assert from_variables(environ) == (headers, 2.5)
    assert from_variables({}) == ({}, None)


def test_a_batch_says_what_is_in_it() -> None:
    batches: tuple[Batch, ...] = (
        otlp_sink().plan(PlanInput(identity=WHO, records=RECORDS, ended=True)).batches
    )
    assert batches[0].counts == {"points": 5, "nonfinite": 0, "left_out": 0}

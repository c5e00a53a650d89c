"""What a step costs the sinks of time series and MLflow between spool and wire.

    python bench/series.py [--rounds 20]

500 records of 8 numbers are planned and encoded, in one thread. No request is made.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from shipper.sinks import Batch, PlanInput, Sink
from shipper.sinks.mlflow.runs import Run
from shipper.sinks.mlflow.sink import MlflowOptions, MlflowSink
from shipper.sinks.otlp.sink import OtlpOptions, OtlpSink
from shipper.sinks.processor import encode
from shipper.sinks.processor.metrics import MetricsOptions, MetricsSink
from shipper.sinks.prometheus.sink import PrometheusOptions, PrometheusSink
from spooler.records import step
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

STEPS = 500
NAMES = ("loss", "lr", "grad_norm", "train/acc", "tokens_per_s", "mem", "step_time", "lm loss")
WHO = Identity(spool="20260101T000000-1-00000000", created=1.7e9, pid=1, host="h", rank=1)


def contestants() -> Iterator[tuple[str, Sink, Callable[[Batch], int]]]:
    """Name, sink, and what encodes a batch and counts its bytes."""
    for name, sink in (
        ("otlp", OtlpSink("one", OtlpOptions(url="http://h"), {})),
        ("otlp, gzip = false", OtlpSink("one", OtlpOptions(url="http://h", gzip=False), {})),
        ("prometheus", PrometheusSink("one", PrometheusOptions(url="http://h"), {})),
    ):
        yield name, sink, partial(encoded, sink)
    mlflow, run = MlflowSink("one", MlflowOptions(url="http://h"), {}), Run(id="0" * 32)
    yield "mlflow", mlflow, lambda batch: sum(map(len, mlflow.requests(run, batch.payload)))
    processor = MetricsSink("one", MetricsOptions(), {})
    yield "telemetry-processor", processor, lambda batch: len(encode.body(batch.payload, WHO))


def encoded(sink: OtlpSink | PrometheusSink, batch: Batch) -> int:
    return sum(len(one.body) for one in sink.requests(batch.payload, WHO))


def records() -> tuple[Stored, ...]:
    draw = random.Random(1)
    bodies = (
        step.encode("r", number, 1.7e9 + number, True, {name: draw.random() for name in NAMES})
        for number in range(STEPS)
    )
    return tuple(
        Stored(seq=seq, kind=step.NAME, body=codec.pack(body)) for seq, body in enumerate(bodies, 1)
    )


def measure(sink: Sink, size: Callable[[Batch], int], rounds: int) -> dict[str, Any]:
    chunk = PlanInput(identity=WHO, records=records(), ended=True)
    sent = sum(map(size, sink.plan(chunk).batches))  # and what is kept made is made
    begun = time.process_time()
    for _ in range(rounds):
        for batch in sink.plan(chunk).batches:
            size(batch)
    seconds = (time.process_time() - begun) / rounds
    points = STEPS * len(NAMES)
    return {"us": seconds / STEPS * 1e6, "points": points / seconds, "bytes": sent / points}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    print(f"{'sink':20} {'µs a step':>10} {'points/s of a core':>20} {'bytes a point':>14}")
    for name, sink, size in contestants():
        found = measure(sink, size, given.rounds)
        print(f"{name:20} {found['us']:10.1f} {found['points']:20,.0f} {found['bytes']:14.1f}")


if __name__ == "__main__":
    main()

"""Whatever a step holds, its request is JSON that the receiver takes, and numbers stay."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipper.sinks import values
from shipper.sinks.processor import encode
from shipper.steps import Step, collect_steps
from spooler.records import detection
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored
from tests.kit.processor.posts import LogEntry, MetricPoint, detection_post, logs_post, metrics_post
from tests.kit.processor.rows import document_refused, id_refused
from tests.kit.spools import identity

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates and U+0000 among them
NAMES = TEXT | st.sampled_from(["step", "step_", "run_id__", "", "_", "loss/nonfinite", "loss"])
NUMBERS = st.floats() | st.integers(-(2**63), 2**64 - 1) | st.booleans()
PLACEHOLDER = st.fixed_dictionaries({"_type": st.just("integer") | TEXT})
VALUES = st.recursive(
    st.none() | NUMBERS | TEXT | st.binary(max_size=5) | PLACEHOLDER,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(-9, 9), inner),
    max_leaves=8,
)
DATA = st.dictionaries(NAMES, VALUES, max_size=6)
RUNS = TEXT | st.just("r")
TIMES = st.floats()
WHO = st.builds(
    identity,
    workload_uid=st.text(st.characters(), max_size=300),
    pod_uid=TEXT,
    pod_name=TEXT,
    created=st.floats(),
    rank=st.none() | st.integers(-(2**63), 2**63 - 1),
)
OPTIONS = st.builds(encode.Options, drop_non_numeric=st.booleans(), rank_prefix=st.booleans())


def received(request: encode.Request, who: Identity) -> tuple[MetricPoint | LogEntry, ...]:
    """What the receiver decodes from a request; it raises for what it would refuse."""
    body = encode.body(request, who)
    assert not document_refused(json.dumps(json.loads(body)))
    if request.path == "/wandb/logs":
        logs = logs_post(body)
        assert not id_refused(logs.ids.workload_uid)
        return logs.logs
    metrics = metrics_post(body)
    assert not id_refused(metrics.ids.workload_uid)
    assert not id_refused(metrics.ids.pod_uid)
    return metrics.metrics


def from_record(run: str, number: int, time: float, data: dict[str, Any]) -> list[Step]:
    """The step as it comes out of a spool."""
    body = {"run": run, "step": number, "time": time, "closed": True, "data": data}
    record = Stored(seq=1, kind="step", body=codec.pack(body))
    return list(collect_steps([record]).complete)


@settings(deadline=None)
@given(RUNS, st.integers(0, 2**31 - 1), TIMES, DATA, WHO, OPTIONS)
@example("r", 0, 0.0, {"": 1, "_": 2, "step": 3, "step_": 4}, identity(), encode.Options())
@example("r", 0, 0.0, {"x": [[[[]]]], "y": {"z": {}}}, identity(), encode.Options())
def test_every_step_is_taken(
    run: str,
    number: int,
    time: float,
    data: dict[str, Any],
    who: Identity,
    options: encode.Options,
) -> None:
    (step,) = from_record(run, number, time, data)
    assert encode.problem(step) == ""
    encoded = encode.encode_step(step, who, options)
    request = encode.Request(path=encoded.path, run=run, parts=(encoded,))
    elements = received(request, who)
    assert len(elements) == request.items
    for element in elements:
        assert element.step == number
        assert 0 <= element.timestamp <= values.TIME_MAX


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="ascii", exclude_characters="\0")), NUMBERS))
@example({"step": 1, "step_": 2, "step__": 3, "": 4, "_": 5})
def test_every_finite_number_arrives_under_a_name_of_its_own(data: dict[str, Any]) -> None:
    (step,) = from_record("r", 1, 0.0, data)
    who = identity()
    encoded = encode.encode_step(step, who, encode.Options())
    finite = [float(value) for value in data.values() if math.isfinite(value)]
    points = received(encode.Request(path=encoded.path, run="r", parts=(encoded,)), who)
    sent = [p.value for p in points if isinstance(p, MetricPoint)]
    names = [p.name for p in points if isinstance(p, MetricPoint)]
    assert len(set(names)) == len(names)
    assert sent[: len(finite)] == finite
    assert len(sent) - len(finite) <= encoded.nonfinite


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 40)), max_size=30)


@settings(deadline=None)
@given(STEPS, st.integers(1, 5), st.integers(1, 2000))
def test_grouping_keeps_every_step_once_in_the_order_of_its_run_within_the_limits(
    made: list[tuple[str, bool, int]], max_steps: int, max_bytes: int
) -> None:
    who = identity()
    encoded = [
        encode.encode_step(
            Step(
                run=run,
                step=number,
                time=0.0,
                data={f"m{i}": "text" if text else i for i in range(width)},
                seqs=(number,),
            ),
            who,
            encode.Options(),
        )
        for number, (run, text, width) in enumerate(made, 1)
    ]
    requests = encode.group(encoded, max_steps=max_steps, max_bytes=max_bytes)
    firsts = [r.steps[0].seqs for r in requests]
    assert firsts == sorted(firsts)
    for run in "abc":
        parts = [step for r in requests if r.run == run for step in r.steps]
        assert parts == [step for step in encoded if step.run == run]
    for request in requests:
        assert {step.path for step in request.steps} == {request.path}
        assert len(request.steps) <= max_steps
        size = sum(len(step.fragment) + 1 for step in request.steps)
        assert size <= max_bytes or len(request.steps) == 1
        assert len(received(request, who)) == request.items


_SECTIONS = st.dictionaries(TEXT, st.dictionaries(TEXT, VALUES, max_size=2), max_size=2)


@settings(deadline=None)
@given(st.floats(), _SECTIONS, _SECTIONS, TEXT, WHO)
def test_a_detection_of_anything_is_json_without_what_a_database_refuses(
    time: float, evidence: dict[str, Any], hints: dict[str, Any], tracker: str, who: Identity
) -> None:
    record = detection.encode(
        run="r", time=time, look=1, evidence=evidence, hints=hints, tracker=tracker
    )
    body = encode.detection_body(detection.decode(codec.unpack(codec.pack(record))), who)
    parsed = json.loads(body)
    assert not document_refused(json.dumps(parsed))
    assert isinstance(parsed["timestamp"], int | float)
    if not evidence and not hints:
        assert detection_post(body).document["type"] == "framework_detection_raw"

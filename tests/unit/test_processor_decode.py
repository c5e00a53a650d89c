"""The receiver decodes a body by the rules of Go's encoding/json, and refuses what Go refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kit.processor.decode import DEEPEST
from tests.kit.processor.errors import InvalidRequest
from tests.kit.processor.posts import (
    MetricPoint,
    batch_post,
    detection_post,
    logs_post,
    metrics_post,
)


def point(fields: str) -> MetricPoint:
    """Decode one metric out of the text of its fields."""
    (only,) = metrics_post(b'{"metrics":[{%s}]}' % fields.encode()).metrics
    return only


def entry(data: str) -> Any:
    """Decode the free-form data of one log entry."""
    (only,) = logs_post(b'{"logs":[{"data":%s}]}' % data.encode()).logs
    return only.data


def detection(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


SYNTAX_ERRORS = {
    "empty body": b"",
    "only white space": b" \r\n\t",
    "cut short": b'{"metrics":[{"name":"loss"',
    "NaN": b'{"x":NaN}',
    "Infinity": b'{"x":Infinity}',
    "-Infinity": b'{"x":-Infinity}',
    "leading zero": b'{"x":01}',
    "no digit before the point": b'{"x":.5}',
    "no digit after the point": b'{"x":1.}',
    "plus sign": b'{"x":+1}',
    "hex": b'{"x":0x10}',
    "single quotes": b"{'x':1}",
    "trailing comma in an object": b'{"x":1,}',
    "trailing comma in an array": b'{"x":[1,]}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "raw control character": b'{"x":"a\tb"}',
    "\\x escape": b'{"x":"\\x41"}',
    "invalid UTF-8 outside a string": b'{"x":1\xff}',
    "gzip": b"\x1f\x8b\x08\x00",
    "nested beyond all limits": b"[" * 100_000,
}


@pytest.mark.parametrize("body", SYNTAX_ERRORS.values(), ids=SYNTAX_ERRORS)
def test_a_syntax_error_refuses_the_body_even_inside_an_unknown_field(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        batch_post(body)


TYPE_ERRORS = {
    "int64 with a point": '"step":1.0',
    "int64 with an exponent": '"step":1e3',
    "int64 as a string": '"step":"1"',
    "int64 as a bool": '"step":true',
    "int64 one too large": f'"step":{2**63}',
    "int64 one too small": f'"step":{-(2**63) - 1}',
    "int64 of thousands of digits": f'"step":{"9" * 5000}',
    "int64 as an object": '"step":{}',
    "float64 as a string": '"value":"1"',
    "float64 as a bool": '"value":false',
    "float64 as an array": '"value":[1]',
    "float64 too large": '"value":1e309',
    "float64 too large, as an integer": f'"value":{"9" * 320}',
    "float64 of thousands of digits": f'"value":{"9" * 5000}',
    "timestamp as a string": '"timestamp":"now"',
    "string as a number": '"name":1',
    "string as an array": '"name":[]',
    "map value as a number": '"tags":{"a":1}',
    "map value as a bool": '"tags":{"a":true}',
    "map value nested": '"tags":{"a":{}}',
    "map as a list": '"tags":[]',
    "map as a string": '"tags":"a"',
}


@pytest.mark.parametrize("fields", TYPE_ERRORS.values(), ids=TYPE_ERRORS)
def test_a_type_error_refuses_the_body(fields: str) -> None:
    with pytest.raises(InvalidRequest):
        point(fields)


WRONG_BODIES = {
    "the body is a list": b"[]",
    "the body is a string": b'"x"',
    "the body is a number": b"1",
    "metrics is an object": b'{"metrics":{}}',
    "a metric is a number": b'{"metrics":[1]}',
    "an ignored source is a number": b'{"source":1}',
    "an ignored timestamp is a string": b'{"timestamp":"1"}',
    "run_id is a number": b'{"run_id":7}',
    "workload_uid is a list": b'{"workload_uid":["a"]}',
}


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_wrong_types_around_the_points_refuse_the_body(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        metrics_post(body)


ACCEPTED = {
    "int64 smallest": (f'"step":{-(2**63)}', "step", -(2**63)),
    "int64 largest": (f'"step":{2**63 - 1}', "step", 2**63 - 1),
    "int64 minus zero": ('"step":-0', "step", 0),
    "int64 null": ('"step":null', "step", 0),
    "int64 missing": ("", "step", 0),
    "float64 as an integer": ('"value":3', "value", 3.0),
    "float64 with an exponent": ('"value":1e3', "value", 1000.0),
    "float64 rounds big integers": (f'"value":{2**53 + 1}', "value", float(2**53)),
    "float64 vanishing": ('"value":1e-400', "value", 0.0),
    "float64 null": ('"value":null', "value", 0.0),
    "string null": ('"name":null', "name", ""),
    "string missing": ("", "name", ""),
    "name in capitals": ('"NAME":"a"', "name", "a"),
    "name with a long s": ('"\u017ftep":3', "step", 3),
    "a Turkish dotless i is another letter": ('"t\u0131mestamp":3', "timestamp", 0.0),
    "repeated: the last wins": ('"step":1,"step":2', "step", 2),
    "repeated in another case: the last wins": ('"step":1,"STEP":2', "step", 2),
    "exact spelling has no privilege over order": ('"STEP":2,"step":1', "step", 1),
    "repeated with null: null changes nothing": ('"step":1,"step":null', "step", 1),
    "unknown fields": ('"colour":{"deep":[1,"x",null]},"step":1', "step", 1),
    "unknown field beyond float64": ('"colour":1e999,"step":1', "step", 1),
    "unknown field of thousands of digits": (f'"colour":{"9" * 5000},"step":1', "step", 1),
    "lone high surrogate": ('"name":"a\\ud800b"', "name", "a\ufffdb"),
    "lone low surrogate": ('"name":"\\udc00"', "name", "\ufffd"),
    "surrogate pair": ('"name":"\\ud83d\\ude00"', "name", "\U0001f600"),
    "U+0000": ('"name":"a\\u0000"', "name", "a\0"),
}


@pytest.mark.parametrize(("fields", "name", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_field_is_decoded(fields: str, name: str, expected: object) -> None:
    value = getattr(point(fields), name)
    assert (value, type(value)) == (expected, type(expected))


def test_the_kelvin_sign_is_a_k() -> None:
    assert metrics_post('{"wor\u212aload_uid":"w"}'.encode()).ids.workload_uid == "w"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"\xff", "\ufffd"), (b"\xe2\x82", "\ufffd\ufffd"), (b"\xed\xa0\x80", "\ufffd" * 3)],
    ids=["one byte", "cut short", "encoded surrogate"],
)
def test_each_byte_that_is_not_utf8_is_replaced(raw: bytes, expected: str) -> None:
    assert metrics_post(b'{"run_id":"a%sz"}' % raw).ids.run_id == f"a{expected}z"


@pytest.mark.parametrize("rest", [b"{}", b" garbage", b"\n[1,2", b"\xff"])
def test_what_follows_the_first_value_is_ignored(rest: bytes) -> None:
    assert metrics_post(b' \n{"run_id":"r"}' + rest).ids.run_id == "r"


def test_null_as_the_body_is_an_empty_request() -> None:
    post = metrics_post(b"null")
    assert (post.ids.workload_uid, post.metrics) == ("", ())


def test_null_as_a_list_element_is_a_zero_element() -> None:
    post = metrics_post(b'{"metrics":[null]}')
    assert post.metrics == (MetricPoint(name="", value=0.0, step=0, timestamp=0.0),)


@pytest.mark.parametrize("body", [b"{}", b'{"metrics":null}', b'{"metrics":[]}'])
def test_a_list_that_is_absent_null_or_empty_is_empty(body: bytes) -> None:
    assert metrics_post(body).metrics == ()


def test_repeated_lists_merge_element_by_element() -> None:
    body = b'{"metrics":[{"name":"a","step":1},{"name":"b"}],"metrics":[{"value":5}]}'
    assert metrics_post(body).metrics == (MetricPoint(name="a", value=5.0, step=1, timestamp=0.0),)


def test_repeated_maps_merge_and_null_empties_them() -> None:
    assert logs_post(b'{"logs":[{"data":{"a":1},"data":{"b":2}}]}').logs[0].data == {"a": 1, "b": 2}
    assert logs_post(b'{"logs":[{"data":{"a":1},"data":null}]}').logs[0].data == {}


def test_free_form_numbers_become_float64() -> None:
    assert entry(f'{{"n":{2**53 + 1},"list":[1,{{"m":2}}]}}') == {
        "n": float(2**53),
        "list": [1.0, {"m": 2.0}],
    }
    assert isinstance(entry('{"n":1}')["n"], float)


def test_free_form_values_keep_their_types() -> None:
    assert entry('{"s":"x","t":true,"z":null,"o":{"k":[]}}') == {
        "s": "x",
        "t": True,
        "z": None,
        "o": {"k": []},
    }


@pytest.mark.parametrize("data", ['{"x":1e400}', '{"x":[-1e400]}', f'{{"x":{"9" * 5000}}}'])
def test_free_form_numbers_beyond_float64_refuse_the_body(data: str) -> None:
    with pytest.raises(InvalidRequest):
        entry(data)


def test_free_form_values_may_be_deep_but_not_too_deep() -> None:
    def nested(levels: int) -> str:
        return '{"x":' + "[" * levels + "]" * levels + "}"

    assert entry(nested(DEEPEST))["x"] is not None
    with pytest.raises(InvalidRequest, match="deeper"):
        entry(nested(DEEPEST + 2))


def test_a_complaint_says_where_and_what() -> None:
    body = b'{"metrics":[{"step":1},{"tags":{"host":7}}]}'
    with pytest.raises(InvalidRequest, match=r"metrics\.\[1\]\.tags\.host: a string .* not 7"):
        metrics_post(body)


DETECTION_TYPE_ERRORS = {
    "confidence as a number": {"hints": {"confidence": 0.9}},
    "gpu_count as a float": {"evidence": {"hardware": {"gpu_count": 8.0}}},
    "environment value as a number": {"evidence": {"environment": {"RANK": 0}}},
    "package version as a number": {"evidence": {"software": {"packages": {"torch": 2}}}},
    "module flag as a string": {"evidence": {"pytorch": {"detected_modules": {"fsdp": "yes"}}}},
    "available as a number": {"evidence": {"pytorch": {"available": 1}}},
    "framework as a string": {"evidence": {"wrapper_frameworks": {"lightning": "2.1"}}},
    "a tag as a number": {"evidence": {"wandb": {"tags": [1]}}},
    "evidence as a list": {"evidence": []},
    "an indicator as a number": {"hints": {"primary_indicators": [1]}},
}


@pytest.mark.parametrize("fields", DETECTION_TYPE_ERRORS.values(), ids=DETECTION_TYPE_ERRORS)
def test_a_type_error_in_a_detection_refuses_it(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        detection_post(detection(**fields))


def test_the_nullable_parts_of_a_detection_may_be_null_or_absent() -> None:
    null = {"pytorch": None, "hardware": None, "software": None, "build": None}
    for body in (detection(evidence=null), detection()):
        evidence = detection_post(body).document["evidence"]
        assert {name: evidence[name] for name in null} == null


def test_null_map_values_of_a_detection_are_empty_strings() -> None:
    post = detection_post(detection(evidence={"environment": {"RANK": None}}))
    assert post.document["evidence"]["environment"] == {"RANK": ""}


def test_a_detection_is_passed_on_without_tags_and_three_hints() -> None:
    body = detection(
        evidence={"wandb": {"project": "p", "tags": ["t"]}},
        hints={
            "confidence": "high",
            "primary_indicators": ["i"],
            "framework_layers": {"a": {}},
            "possible_frameworks": ["megatron"],
        },
    )
    document = detection_post(body).document
    assert document["evidence"]["wandb"] == {"project": "p", "name": "", "id": "", "config": {}}
    assert document["hints"] == {
        "wrapper_frameworks": [],
        "base_frameworks": [],
        "possible_frameworks": ["megatron"],
    }


@pytest.mark.parametrize("body", [b"{}", b"null", b'{"metrics":null,"logs":null}'])
def test_the_parts_of_a_batch_may_be_absent(body: bytes) -> None:
    post = batch_post(body)
    assert (post.detection, post.metrics, post.logs) == (None, None, None)


@pytest.mark.parametrize("part", ["detection", "metrics", "logs"])
def test_a_part_of_a_batch_is_an_object_not_a_list(part: str) -> None:
    with pytest.raises(InvalidRequest):
        batch_post(b'{"%s":[{}]}' % part.encode())

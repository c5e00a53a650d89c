"""Any value becomes plain, bounded JSON, and says where it was cut."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, namedtuple
from pathlib import PurePosixPath
from typing import Any

import numpy
import pytest

from spooler.json_safe import SizeLimits, json_safe


class Precision(str, enum.Enum):
    BF16 = "bf16"


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Enum):
    A = "a"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (2**53, 2**53),
        (2**53 + 1, str(2**53 + 1)),
        (-(2**60), str(-(2**60))),
        (True, True),
        (None, None),
        ("a\0b\udc80", "a\ufffdb\ufffd"),
        (Precision.BF16, "bf16"),
        (Level.LOW, 1),
        (Mode.A, "<test_detection_json_safe.Mode>"),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({1: "a", None: "b", 1.5: "c", (1,): "d"}, None),
        (numpy.float32(0.5), 0.5),
        (numpy.float64("inf"), "Infinity"),
        (numpy.int64(7), 7),
        (numpy.bool_(True), True),
        (numpy.str_("s"), "s"),
        (numpy.zeros(2), "<numpy.ndarray>"),
        (numpy.complex64(1j), "<numpy.complex64>"),
        (b"x", "<builtins.bytes>"),
        (PurePosixPath("/a"), "<pathlib.PurePosixPath>"),
        (int, "<builtins.type>"),
    ],
)
def test_each_kind_of_value(value: Any, expected: Any) -> None:
    result = json_safe(value)
    if isinstance(value, dict) and expected is None:
        assert result == {"1": "a", "null": "b", "1.5": "c", "<builtins.tuple>": "d"}
        return
    if isinstance(value, (Mode, PurePosixPath)):
        # The module's name depends on how it was loaded.
        assert result.endswith(f"{type(value).__qualname__}>")
        return
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (list(range(10)), SizeLimits(items=3), [0, 1, 2, "[cut] 7 items"]),
        ({"a": 1, "b": 2, "c": 3}, SizeLimits(keys=2), {"a": 1, "b": 2, "[cut]": "1 keys"}),
        ({"a": {"b": {"c": 1}}}, SizeLimits(depth=2), {"a": {"b": "[cut] depth"}}),
        ("a b " * 100, SizeLimits(text=4), "a b [cut]"),
        ({"abcdef": 1}, SizeLimits(key=3), {"abc[cut]": 1}),
        ([1, 2], SizeLimits(total=10), "[cut]"),
    ],
)
def test_a_cut_is_visible(value: Any, limits: SizeLimits, expected: Any) -> None:
    assert json_safe(value, limits=limits) == expected


@pytest.mark.parametrize("total", [64, 100, 1000, 5000])
def test_the_result_stays_in_its_budget(total: int) -> None:
    value = {
        f"k{n}": [{"é" * n: "\U0001f600" * n, "n": [n] * n} for _ in range(5)] for n in range(40)
    }
    result = json_safe(value, limits=SizeLimits(total=total))
    assert len(json.dumps(result)) <= total


def test_a_number_too_long_to_write_is_described() -> None:
    assert json_safe(10**5000) == "<integer of 16610 bits>"


def test_a_value_in_two_places_is_no_cycle() -> None:
    shared = [1]
    assert json_safe({"a": shared, "b": shared}) == {"a": [1], "b": [1]}


def test_plain_settings_go_before_nested_ones_and_keep_their_order() -> None:
    value = {"huge": ["x" * 50] * 100, "lr": 0.1, "nested": {"a": 1}}
    result = json_safe(value, limits=SizeLimits(total=300))
    assert list(result)[:2] == ["huge", "lr"]
    assert result["[cut]"] == "1 keys"


def test_a_credential_cut_in_half_does_not_show() -> None:
    text = "a " * 1020 + "sk-proj-" + "abc123" * 20
    assert "sk-" not in json_safe(text)
    # Masking shortens; what moves up from behind the seam must not be half a credential.
    keys = " ".join("sk-proj-abcdef123456" + f"{n:04}" for n in range(100))
    assert "sk-" not in json_safe(keys)


def test_cleaning_twice_changes_nothing() -> None:
    value = {"a": [float("nan"), {"token": "abc"}], "b": "https://u:p@h", "c": {1, 2}}
    once = json_safe(value, hide_by_key=True)
    assert json_safe(once, hide_by_key=True) == once

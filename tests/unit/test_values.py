"""Values of `wandb.log`: numbers stay numbers, the rest is shown as what it is, nothing raises."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spooler.recorder import _pack
from spooler.records import values
from spooler.records.values import careful
from spooler.spool import codec


class Colour(enum.Enum):
    RED = 1


class Mood(enum.Enum):
    CALM = "calm"


@dataclasses.dataclass
class Losses:
    main: Any = 0.5
    parts: Any = Colour.RED


class Level(enum.IntEnum):
    HIGH = 3


class Tensor:
    """A torch tensor by its shape: dtype, shape, item, tolist."""

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape, self.dtype = value, shape, "torch.float32"

    def item(self) -> Any:
        return self.value

    def tolist(self) -> Any:
        return [self.value] * math.prod(self.shape)


class Media:
    _log_type = "histogram"


class Float:
    def __float__(self) -> float:
        return 0.5


def through(value: Any) -> Any:
    """`value` as it is read back after the recorder has packed it."""
    return codec.unpack(_pack({"v": value}))["v"]


NUMBERS = {
    "int": (7, 7),
    "bool": (True, True),
    "float": (0.1, 0.1),
    "largest int": (2**64 - 1, 2**64 - 1),
    "beyond 64 bits": (2**70, 2.0**70),
    "far below": (-(2**80), -(2.0**80)),
    "float32": (np.float32(0.5), 0.5),
    "float64": (np.float64(0.1), 0.1),
    "float16": (np.float16(0.5), 0.5),
    "int8": (np.int8(-3), -3),
    "uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "numpy bool": (np.bool_(True), True),
    "0-d array": (np.array(2.5), 2.5),
    "array of one": (np.array([2.5]), 2.5),
    "array of one, deep": (np.array([[7]]), 7),
    "longdouble": (np.longdouble(0.5), 0.5),
    "tensor": (Tensor(0.25), 0.25),
    "tensor of one": (Tensor(3, (1, 1)), 3),
    "Decimal": (decimal.Decimal("0.25"), 0.25),
    "Fraction": (fractions.Fraction(1, 4), 0.25),
    "has a float": (Float(), 0.5),
    "Enum": (Colour.RED, 1),
    "IntEnum": (Level.HIGH, 3),
    "infinity": (math.inf, math.inf),
    "numpy infinity": (np.float32(-np.inf), -math.inf),
}


@pytest.mark.parametrize(("value", "expected"), NUMBERS.values(), ids=NUMBERS.keys())
def test_a_number_stays_a_number(value: Any, expected: Any) -> None:
    for shown in (through(value), codec.unpack(codec.pack({"v": careful(value)}))["v"]):
        assert shown == expected
        assert type(shown) is type(expected)


@pytest.mark.parametrize(
    "value", [math.nan, np.float32("nan"), np.array(math.nan), Tensor(math.nan)]
)
def test_nan_stays_nan(value: Any) -> None:
    assert math.isnan(through(value))


OTHERS = {
    "None": (None, None),
    "text": ("ü", "ü"),
    "numpy text": (np.str_("ü"), "ü"),
    "list": ([1, np.float32(0.5), "x"], [1, 0.5, "x"]),
    "tuple": ((1, 2), [1, 2]),
    "named tuple": (collections.namedtuple("P", "x y")(1, 2), [1, 2]),
    "set": ({7}, [7]),
    "range": (range(3), [0, 1, 2]),
    "nested map": ({"a": {"b": np.int64(1)}}, {"a": {"b": 1}}),
    "ordered map": (collections.OrderedDict(a=1), {"a": 1}),
    "mapping": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "small array": (np.arange(3), [0, 1, 2]),
    "empty array": (np.array([]), []),
    "date": (datetime.date(2024, 1, 2), "2024-01-02"),
    "moment": (datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),) * 2,
    "text enum": (Mood.CALM, "calm"),
    "data class": (Losses(parts=Losses()), {"main": 0.5, "parts": {"main": 0.5, "parts": 1}}),
    "class": (Losses, {"_type": "object", "class": "builtins.type"}),
    "array": (np.zeros((5, 20)), {"_type": "array", "shape": [5, 20], "dtype": "float64"}),
    "media": (Media(), {"_type": "histogram", "class": f"{__name__}.Media"}),
    "path": (Path("/x"), {"_type": "object", "class": "pathlib.PosixPath"}),
    "uuid": (uuid.UUID(int=1), {"_type": "object", "class": "uuid.UUID"}),
    "long complex": (np.clongdouble(1j), {"_type": "object", "class": "numpy.clongdouble"}),
    "complex": (1j, {"_type": "object", "class": "builtins.complex"}),
    "numpy complex": (np.complex64(1j), {"_type": "object", "class": "builtins.complex"}),
    "function": (math.sin, {"_type": "object", "class": "builtins.builtin_function_or_method"}),
    "astronomic": (10**400, {"_type": "integer", "bits": 1329, "negative": False}),
    "and below": (-(10**400), {"_type": "integer", "bits": 1329, "negative": True}),
}


@pytest.mark.parametrize(("value", "expected"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_number_is_shown_as_what_it_is(value: Any, expected: Any) -> None:
    if isinstance(expected, datetime.datetime):
        expected = expected.isoformat()
    assert through(value) == expected
    assert careful(value) == expected


class Raises:
    """Stands for a tensor on a device that is gone, and for any other surprise."""

    dtype, shape = "float32", ()

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def item(self) -> Any:
        raise self.error


@pytest.mark.promise("G2")
@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        RuntimeError("CUDA error"),
        ZeroDivisionError(),
        Exception("any"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_value_that_raises_costs_itself_and_not_its_step(error: BaseException) -> None:
    shown = codec.unpack(_pack({"bad": Raises(error), "good": 0.5, "nested": {"good": 1}}))
    assert shown["good"] == 0.5
    assert shown["nested"] == {"good": 1}
    assert shown["bad"]["_type"] == "error"
    assert shown["bad"]["error"] == type(error).__name__


class BadKey:
    def __str__(self) -> str:
        raise ValueError("no name")


class BadMap(dict[str, Any]):
    def items(self) -> Any:
        raise ValueError("no items")


@pytest.mark.promise("G2")
@pytest.mark.parametrize("value", [{BadKey(): 1}, BadMap(a=object()), {"x": [Raises(OSError())]}])
def test_careful_never_raises(value: Any) -> None:
    codec.unpack(codec.pack(careful({"v": value, "good": 1})))
    assert careful({"v": value, "good": 1})["good"] == 1


@pytest.mark.promise("G2")
def test_a_value_that_contains_itself_is_cut() -> None:
    loop: dict[str, Any] = {"good": 1}
    loop["self"] = loop
    shown = through(loop)
    assert shown["good"] == 1
    for _ in range(values.DEPTH_LIMIT - 2):
        shown = shown["self"]
    assert shown["self"]["_type"] == "cut"


@pytest.mark.promise("G2")
def test_a_very_deep_value_is_cut_not_refused() -> None:
    deep: Any = 1
    for _ in range(2000):
        deep = [deep]
    assert codec.unpack(_pack({"deep": deep, "good": 0.5}))["good"] == 0.5


def test_a_huge_step_keeps_its_numbers_and_cuts_the_rest() -> None:
    shown = codec.unpack(
        _pack({"loss": 0.5, "text": "x" * 2_000_000, "list": list(range(100_000)), "raw": b"x" * 9})
    )
    assert shown["loss"] == 0.5
    assert shown["text"].startswith("xxx")
    assert shown["text"].endswith("[2000000 characters]")
    assert shown["list"] == {"_type": "list", "length": 100_000}
    assert shown["raw"] == {"_type": "bytes", "length": 9}


def test_a_step_below_that_size_is_kept_whole() -> None:
    text, numbers = "x" * 100_000, list(range(5000))
    shown = codec.unpack(_pack({"text": text, "list": numbers}))
    assert shown == {"text": text, "list": numbers}


@pytest.mark.promise("G8")
def test_the_user_s_value_is_not_changed() -> None:
    data = {"a": {"b": [np.float32(1), {2, 3}]}, "big": 2**70, "odd": object()}
    before = repr(data)
    _pack(data)
    assert repr(data) == before

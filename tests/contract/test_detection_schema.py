"""What is collected decodes in the receiver, whatever the job looks like.

The checker below knows the receiver's field types and nothing of the code that fills them: it is
written as the receiver decodes, where one wrong type refuses the whole request.
"""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from spooler import detection
from spooler.detection.environment import NAMES

CONFIG_BYTES = 64 * 1024

# --- the receiver's schema ------------------------------------------------------------------------

TEXT, TRUTH, WHOLE, REAL, ANY = "text", "truth", "whole", "real", "any"


def texts(of: Any) -> tuple[str, Any]:
    """Write down a list."""
    return ("list", of)


def table(of: Any) -> tuple[str, Any]:
    """Write down a map with text keys."""
    return ("map", of)


SCHEMA: dict[str, Any] = {
    "evidence": {
        "wandb": {
            "project": TEXT,
            "name": TEXT,
            "id": TEXT,
            "config": table(ANY),
            "tags": texts(TEXT),
        },
        "environment": table(TEXT),
        "pytorch": {
            "available": TRUTH,
            "version": TEXT,
            "cuda_available": TRUTH,
            "detected_modules": table(TRUTH),
        },
        "wrapper_frameworks": table(table(ANY)),
        "base_frameworks": table(table(ANY)),
        "system": table(ANY),
        "hardware": {
            "gpu_arch": TEXT,
            "gpu_count": WHOLE,
            "gpu_memory_gb": REAL,
            "gpu_name": TEXT,
            "rocm_version": TEXT,
            "cuda_version": TEXT,
        },
        "software": {"rocm_version": TEXT, "packages": table(TEXT)},
        "build": dict.fromkeys(
            (
                "build_url",
                "dockerfile_url",
                "image_tag",
                "build_date",
                "git_commit",
                "git_branch",
                "git_repo",
                "ci_pipeline_id",
            ),
            TEXT,
        ),
    },
    "hints": {
        "wrapper_frameworks": texts(TEXT),
        "base_frameworks": texts(TEXT),
        "possible_frameworks": texts(TEXT),
        "primary_indicators": texts(TEXT),
        "confidence": TEXT,
        "framework_layers": table(table(ANY)),
    },
}

KINDS = {TEXT: str, TRUTH: bool, WHOLE: int}


def complaints(value: Any, kind: Any = SCHEMA, where: str = "") -> list[str]:
    """Everything about a value that the receiver refuses, or silently changes."""
    if isinstance(kind, dict):
        return fields(value, kind, where)
    if isinstance(kind, tuple):
        return members(value, kind, where)
    if kind == ANY:
        return free(value, where)
    if kind == REAL:
        return [] if type(value) in (int, float) and math.isfinite(value) else [f"{where}: {value}"]
    if type(value) is not KINDS[kind]:
        return [f"{where}: {kind} expected, {value!r} found"]
    return text_complaints(value, where) if kind == TEXT else []


def fields(value: Any, kind: dict[str, Any], where: str) -> list[str]:
    if type(value) is not dict:
        return [f"{where}: object expected"]
    found = [f"{where}.{name}: unknown to the receiver" for name in value if name not in kind]
    for name, inner in kind.items():
        if name in value:
            found += complaints(value[name], inner, f"{where}.{name}")
    return found


def members(value: Any, kind: tuple[str, Any], where: str) -> list[str]:
    shape, inner = kind
    if type(value) is not (dict if shape == "map" else list):
        return [f"{where}: {shape} expected"]
    pairs = value.items() if shape == "map" else enumerate(value)
    found = []
    for name, item in pairs:
        if shape == "map":
            found += complaints(name, TEXT, f"{where} key")
        found += complaints(item, inner, f"{where}.{name}")
    return found


def free(value: Any, where: str) -> list[str]:
    if type(value) is dict:
        return members(value, table(ANY), where)
    if type(value) is list:
        return members(value, texts(ANY), where)
    if value is None or type(value) is bool:
        return []
    if type(value) is str:
        return text_complaints(value, where)
    if type(value) is int:
        return [] if abs(value) <= 2**53 else [f"{where}: {value} loses digits"]
    if type(value) is float:
        return [] if math.isfinite(value) else [f"{where}: {value}"]
    return [f"{where}: {type(value)} is no JSON"]


def text_complaints(text: str, where: str) -> list[str]:
    if "\0" in text:
        return [f"{where}: NUL, which the store refuses"]
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return [f"{where}: lone surrogate"]
    return []


def test_checker_refuses_what_the_receiver_refuses() -> None:
    wrong: list[dict[str, Any]] = [
        {"hints": {"confidence": 0.9}},
        {"evidence": {"hardware": {"gpu_count": 8.0}}},
        {"evidence": {"hardware": {"gpu_count": True}}},
        {"evidence": {"software": {"packages": {"torch": None}}}},
        {"evidence": {"pytorch": {"detected_modules": {"deepspeed": "no"}}}},
        {"evidence": {"wandb": {"config": {"a": [float("inf")]}}}},
        {"evidence": {"wandb": {"tags": "a"}}},
        {"evidence": {"environment": {"RANK": 0}}},
        {"evidence": {"base_frameworks": {"torch": "2.0"}}},
        {"hints": {"possible_frameworks": ["a\0"]}},
    ]
    assert all(len(complaints(value)) == 1 for value in wrong)


# --- jobs -----------------------------------------------------------------------------------------


def facts(config: Any, **changes: Any) -> detection.RunFacts:
    usual = {"project": "primus-training", "name": "quiet-river-7", "id": "run-789", "tags": ("a",)}
    return detection.RunFacts(**{**usual, **changes}, config=config)


def checked(found: dict[str, Any]) -> dict[str, Any]:
    assert complaints(found) == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    config = found["evidence"].get("wandb", {}).get("config", {})
    assert len(json.dumps(config)) <= CONFIG_BYTES
    assert found["hints"]["confidence"] in ("low", "medium", "high")
    return found


class Hostile:
    """An object of the user's that must not be touched."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("code of the user's ran")

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __index__ = _fail
    __getattr__ = _fail
    __class__ = property(_fail)
    __hash__ = object.__hash__


class HostileText(str):
    __slots__ = ()

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("code of the user's ran")

    __str__ = __repr__ = __len__ = __getitem__ = encode = _fail


class HostileTable(dict):
    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("code of the user's ran")

    __iter__ = __getitem__ = __len__ = items = keys = values = get = _fail


def leaves() -> SearchStrategy[Any]:
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=2**52, max_value=2**70),
        st.floats(),
        st.text(),
        st.text(st.characters(codec=None), max_size=40),
        st.binary(max_size=8),
        st.just("\0\ud800"),
        st.just("x" * 10_000),
        st.builds(lambda: 10**5000),
        st.builds(lambda: HostileText("hostile")),
        st.builds(Hostile),
        st.floats(width=32).map(numpy.float32),
        st.integers(0, 255).map(numpy.uint8),
        st.booleans().map(numpy.bool_),
        st.just(numpy.zeros(3)),
        st.just(numpy.complex64(1j)),
        st.just(numpy.datetime64("2024-01-01")),
        st.just(numpy.longdouble("1.5")),
        st.sampled_from([int, Path("/a"), print, ..., 1j, range(3), sys]),
    )


def nested(children: SearchStrategy[Any]) -> SearchStrategy[Any]:
    keys = st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.tuples(st.integers()))
    maps = st.dictionaries(keys, children, max_size=6)
    return st.one_of(
        st.lists(children, max_size=6),
        st.lists(children, max_size=3).map(tuple),
        maps,
        maps.map(HostileTable),
        st.sets(st.one_of(st.integers(), st.text()), max_size=5),
        children.map(lambda item: [item] * 500),
        children.map(lambda item: {f"key{number}": item for number in range(600)}),
    )


CONFIGS = st.dictionaries(
    st.one_of(st.text(), st.integers()), st.recursive(leaves(), nested, max_leaves=20), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(config=CONFIGS, name=st.text(st.characters(codec=None)), tag=st.text())
def test_any_configuration_becomes_a_valid_request(
    config: dict[Any, Any], name: str, tag: str
) -> None:
    found = detection.collect(facts(config, name=name, tags=(tag,)), {}, {}, Path("/nowhere"))
    assert "evidence_errors" not in checked(found)["evidence"]["system"]


@settings(max_examples=200, deadline=None)
@given(
    environ=st.dictionaries(
        st.sampled_from(sorted(NAMES)) | st.text(min_size=1).map("JAX_".__add__),
        st.text(st.characters(codec=None)),
    ),
    framework=st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text())),
)
def test_any_environment_becomes_a_valid_request(environ: dict[str, str], framework: Any) -> None:
    found = detection.collect(facts({"framework": framework}), environ, {}, Path("/nowhere"))
    checked(found)


@settings(max_examples=100, deadline=None)
@given(
    places=st.lists(st.sampled_from(["a", "layers", "0", "model"]), max_size=6),
    key=st.sampled_from(["api_key", "password", "hfToken", "AWS_SECRET_ACCESS_KEY", "auth"]),
    wrap=st.sampled_from([lambda x: x, lambda x: [x], lambda x: {"any": x}]),
)
def test_a_secret_is_masked_at_any_depth(places: list[str], key: str, wrap: Any) -> None:
    config: Any = {key: wrap("hunter2-the-secret")}
    for place in places:
        config = {place: [config, 1]}
    found = checked(detection.collect(facts(config), {}, {}, Path("/nowhere")))
    assert "hunter2" not in json.dumps(found)


def test_a_configuration_that_contains_itself() -> None:
    config: dict[str, Any] = {"lr": 0.1}
    config["self"] = config
    config["list"] = [config]
    found = checked(detection.collect(facts(config), {}, {}, Path("/nowhere")))
    assert found["evidence"]["wandb"]["config"] == {
        "lr": 0.1,
        "self": "[cycle]",
        "list": ["[cycle]"],
    }


def test_a_huge_configuration_keeps_its_plain_settings() -> None:
    huge = {f"layer{n}": {f"p{m}": "x" * 100 for m in range(100)} for n in range(100)}
    config = {**huge, "framework": "primus", "lr": 0.1}
    kept = checked(detection.collect(facts(config), {}, {}, Path("/nowhere")))["evidence"]["wandb"]
    assert kept["config"]["framework"] == "primus"
    assert kept["config"]["lr"] == 0.1
    assert "[cut]" in kept["config"]


def test_the_real_process_becomes_a_valid_request() -> None:
    import os

    found = checked(detection.collect(facts({"lr": 1e-3}), os.environ, sys.modules))
    assert "evidence_errors" not in found["evidence"]["system"]
    assert found["evidence"]["software"]["packages"]["numpy"] == numpy.__version__


@pytest.mark.parametrize("torch", [None, types.ModuleType("torch")])
def test_the_documented_example(torch: types.ModuleType | None, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("numpy-2.0.0", "torch-2.0.1", "wandb-0.19.0", "transformers-4.40.0"):
        (site / f"{name}.dist-info").mkdir(parents=True)
    modules: dict[str, object] = {"sys": types.SimpleNamespace(path=["/site"], argv=["train.py"])}
    if torch is not None:
        vars(torch)["__version__"] = "2.0.1"
        modules["torch"] = torch
    environ = {"PRIMUS_CONFIG": "/config.yaml", "PRIMUS_VERSION": "1.2.3"}
    run = facts({"framework": "primus"})

    found = checked(detection.collect(run, environ, modules, tmp_path))

    told = found["evidence"]
    assert told["wandb"]["project"] == "primus-training"
    assert told["wandb"]["config"] == {"framework": "primus"}
    assert told["environment"] == environ
    assert told["pytorch"]["available"] is True
    assert told["pytorch"]["version"] == "2.0.1"
    assert told["pytorch"]["detected_modules"]["deepspeed"] is False
    assert told["pytorch"]["detected_modules"]["megatron"] is False
    hints = found["hints"]
    assert hints["possible_frameworks"] == ["primus"]
    assert hints["confidence"] == "high"
    assert hints["primary_indicators"] == ["PRIMUS_CONFIG", "wandb_config.framework"]

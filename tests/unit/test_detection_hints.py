"""The hints follow from declarations, working parts and loaded modules, by the table."""

from __future__ import annotations

from typing import Any

import pytest

from spooler.detection.hints import derive


def loaded(*modules: str, imported: bool = True) -> dict[str, Any]:
    return {"imported": imported, "indicators": [f"sys.modules.{name}" for name in modules]}


INSTALLED = {"imported": False, "installed": True, "indicators": ["distribution.x"]}
TORCH = {"pytorch": loaded("torch")}
MEGATRON = {"megatron": loaded("megatron", "megatron.core")}


@pytest.mark.parametrize(
    ("environment", "config", "frameworks", "possible", "primary", "confidence"),
    [
        ({}, {}, {}, [], [], "low"),
        (
            {"PRIMUS_CONFIG": "/c", "PRIMUS_VERSION": "1"},
            {"framework": "primus"},
            {"primus": {"indicators": ["PRIMUS_CONFIG", "PRIMUS_VERSION"]}, **TORCH},
            ["primus"],
            ["PRIMUS_CONFIG", "wandb_config.framework"],
            "high",
        ),
        (
            {"PRIMUS_CONFIG": "/c", "FRAMEWORK": "primus"},
            {},
            {"transformers": INSTALLED},
            ["primus"],
            ["PRIMUS_CONFIG", "FRAMEWORK"],
            "high",
        ),
        ({"PRIMUS_CONFIG": "/c"}, {}, {}, ["primus"], ["PRIMUS_CONFIG"], "medium"),
        (
            {"PRIMUS_CONFIG": "/c"},
            {},
            {"primus": loaded("primus", "primus.pretrain"), **MEGATRON},
            ["primus", "megatron"],
            ["PRIMUS_CONFIG"],
            "high",
        ),
        ({}, {"framework": "Megatron-LM"}, {}, ["megatron"], ["wandb_config.framework"], "medium"),
        ({"FRAMEWORK": "in_house"}, {}, TORCH, ["in_house"], ["FRAMEWORK"], "medium"),
        (
            {"FRAMEWORK": "primus+megatron"},
            {},
            {},
            ["primus", "megatron"],
            ["FRAMEWORK"],
            "medium",
        ),
        (
            {"FRAMEWORK": "deepspeed", "DEEPSPEED_CONFIG": "/d", "MEGATRON_CONFIG": "/m"},
            {},
            {},
            ["deepspeed", "megatron"],
            ["DEEPSPEED_CONFIG", "FRAMEWORK", "MEGATRON_CONFIG"],
            "medium",
        ),
        ({}, {}, MEGATRON, ["megatron"], ["sys.modules.megatron.core"], "medium"),
        (
            {},
            {},
            {"transformers": loaded("transformers"), **TORCH},
            ["transformers"],
            ["sys.modules.transformers"],
            "low",
        ),
        ({}, {}, TORCH, ["pytorch"], ["sys.modules.torch"], "low"),
        ({"FRAMEWORK": "torch"}, {}, TORCH, ["pytorch"], ["FRAMEWORK"], "medium"),
        ({}, {}, {"transformers": INSTALLED, "pytorch": INSTALLED}, [], [], "low"),
        ({"FRAMEWORK": "  "}, {"framework": 7}, {}, [], [], "low"),
        ({}, {"framework": "../../etc"}, {}, ["etc"], ["wandb_config.framework"], "medium"),
    ],
)
def test_the_rule_table(
    environment: dict[str, str],
    config: dict[str, Any],
    frameworks: dict[str, Any],
    possible: list[str],
    primary: list[str],
    confidence: str,
) -> None:
    hints = derive(environment, config, frameworks)
    assert hints["possible_frameworks"] == possible
    assert hints["primary_indicators"] == primary
    assert hints["confidence"] == confidence


def test_layers_are_told_apart() -> None:
    hints = derive({"PRIMUS_CONFIG": "/c"}, {}, {**MEGATRON, **TORCH})
    assert hints["wrapper_frameworks"] == ["primus"]
    assert hints["base_frameworks"] == ["megatron", "pytorch"]
    assert hints["framework_layers"]["megatron"] == {
        "layer": "base",
        "strength": "probable",
        "indicators": ["sys.modules.megatron.core", "sys.modules.megatron"],
    }


def test_a_declaration_cannot_flood_the_hints() -> None:
    hints = derive({"FRAMEWORK": ",".join(f"f{n}" for n in range(1000))}, {}, {})
    assert len(hints["possible_frameworks"]) == 8

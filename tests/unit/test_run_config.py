"""A run's configuration as records have it."""

from __future__ import annotations

from typing import Any

from spooler.records import run
from spooler.records.run_config import LIMIT, flat
from spooler.spool import codec


def test_nested_names_are_joined_and_every_value_is_a_text_a_number_or_a_truth_value() -> None:
    class Odd:
        pass

    given = {"a": {"b": {"c": 1}, "e": {}}, "on": True, "lr": 1e-4, "n": None, "l": [{"x": (1,)}]}
    assert flat({**given, 7: "seven", "odd": Odd()}) == {
        "a.b.c": 1,
        "a.e": "{}",
        "on": True,
        "lr": 1e-4,
        "n": "None",
        "l": '[{"x": [1]}]',
        "7": "seven",
        "odd": f"<{__name__}.{Odd.__qualname__}>",
    }


def test_what_looks_like_a_secret_is_masked_by_name_and_by_look() -> None:
    given = {"wandb": {"api_key": "0" * 40}, "url": "https://me:secret@host/x", "max_tokens": 512}
    assert flat(given) == {
        "wandb.api_key": "[masked]",
        "url": "https://[masked]@host/x",
        "max_tokens": 512,
    }


def test_a_large_configuration_is_cut_and_says_so() -> None:
    deep: dict[str, Any] = {f"{number:03}{'n' * 200}": number for number in range(200)}
    for level in range(6):
        deep = {f"{level}{'m' * 240}": deep}
    for given in ({str(number): "x" * 100 for number in range(100_000)}, deep):
        found = flat(given)
        assert sum(len(name) + len(str(value)) for name, value in found.items()) <= LIMIT + 16
        assert any(name.endswith("[cut]") for name in found)
        body = run.encode(run="r", time=1.0, config=found)
        assert run.decode(codec.unpack(codec.pack(body))).config == found

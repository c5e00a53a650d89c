"""The settings as a commented TOML file, which `--config` accepts unchanged."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipper.config.schema import SETTINGS, Config

_WIDTH = 78


def defaults() -> str:
    """Every setting with its default, all commented out."""
    return _file({setting.name: setting.default for setting in SETTINGS}, {})


def effective(config: Config) -> str:
    """Every setting with its current value; those that were given are set, with their source."""
    tables = [
        f"[sinks.{json.dumps(name)}]\n"
        + "\n".join(f"{json.dumps(key)} = {_toml(value)}" for key, value in table.items())
        for name, table in config.sinks.items()
    ]
    return "\n".join([_file(values_of(config), config.given), *(f"{one}\n" for one in tables)])


def values_of(config: Config) -> dict[str, Any]:
    """The settings by name in types of TOML and JSON; None for one that is not set.

    The options of sinks follow as `sinks.NAME.OPTION`.
    """
    values = {setting.name: getattr(config, setting.name) for setting in SETTINGS}
    for name, table in config.sinks.items():
        values.update({f"sinks.{name}.{key}": value for key, value in table.items()})
    if "spool" not in config.given:
        values["spool"] = None
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }


def _file(values: Mapping[str, Any], given: Mapping[str, str]) -> str:
    parts = ["# Settings of lens-ship. A line that is commented out shows the default."]
    for setting in SETTINGS:
        if setting.section:
            parts.append(f"# --- {setting.section} ---")
        texts = [setting.help, f"Why this default: {setting.why}"]
        is_set = setting.name in given
        if is_set:
            texts.append(f"Set by {given[setting.name]}.")
        lines = [
            f"# {line}"
            for text in texts
            for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)
        ]
        line = f"{setting.name} = {_toml(values[setting.name])}"
        parts.append("\n".join([*lines, line if is_set else f"# {line}"]))
    return "\n\n".join(parts) + "\n"


def _toml(value: Any) -> str:
    """Text, numbers, booleans and lists are written alike in TOML and JSON."""
    return json.dumps("" if value is None else value)

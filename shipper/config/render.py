"""The settings as a commented TOML file, which `--config` takes back unchanged."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipper.config.schema import SETTINGS, Config

_WIDTH = 78


def defaults() -> str:
    """Every setting with its default, all commented out: what is not set follows the defaults."""
    return _file({setting.name: setting.default for setting in SETTINGS}, {})


def effective(config: Config) -> str:
    """Every setting as it is now; what was given is set, with where it came from."""
    return _file(values_of(config), config.given)


def values_of(config: Config) -> dict[str, Any]:
    """The settings by name as TOML and JSON know them; None for what is not set."""
    values = {setting.name: getattr(config, setting.name) for setting in SETTINGS}
    if "spool" not in config.given:
        values["spool"] = None
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }


def _file(values: Mapping[str, Any], given: Mapping[str, str]) -> str:
    parts = ["# Settings of lens-ship; what is commented out is not set, and shows its default."]
    for setting in SETTINGS:
        text = f"{setting.help} Why this default: {setting.why}"
        if setting.name in given:
            text += f" Here from {given[setting.name]}."
        lines = textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)
        value = values[setting.name]
        line = f"{setting.name} = {json.dumps('' if value is None else value)}"
        is_set = setting.name in given
        parts.append("\n".join([*(f"# {one}" for one in lines), line if is_set else f"# {line}"]))
    return "\n\n".join(parts) + "\n"

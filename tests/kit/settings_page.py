"""The tables of docs/settings.md as the code has them; run as a module, it writes them there."""

from __future__ import annotations

import re
from pathlib import Path

from shipper.settings import SETTINGS, Setting
from spooler.config import VARIABLES

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_HEAD = re.compile(r"^\| (setting|variable) \| default \|.*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def service_table() -> str:
    """One row for each setting of the service."""
    rows = ["| setting | default | meaning | why that default |", "|---|---|---|---|"]
    rows += [
        f"| `{setting.name}` | {_default(setting)} | {_cell(_meaning(setting))} |"
        f" {_cell(setting.why)} |"
        for setting in SETTINGS
    ]
    return "\n".join(rows)


def training_table() -> str:
    """One row for each variable of the training side."""
    rows = ["| variable | default | meaning | why that default |", "|---|---|---|---|"]
    rows += [
        f"| `{variable.name}` | {variable.default} | {_cell(variable.meaning)} |"
        f" {_cell(variable.why)} |"
        for variable in VARIABLES
    ]
    return "\n".join(rows)


def page_with_tables(text: str) -> str:
    """The page with both tables as they should be."""
    tables = iter([service_table(), training_table()])
    return _HEAD.sub(lambda _: next(tables), text)


def _meaning(setting: Setting) -> str:
    return f"{setting.help} Older variable: `{setting.alias}`." if setting.alias else setting.help


def _default(setting: Setting) -> str:
    if setting.default in (None, ""):
        return ""
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    return str(setting.default)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

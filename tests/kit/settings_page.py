"""The tables of the docs as the code has them; run as a module, it writes them there."""

from __future__ import annotations

import re
from pathlib import Path

from shipper.cli import EXITS, EXITS_OF
from shipper.config.schema import SETTINGS, Setting
from spooler.config import VARIABLES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "settings.md"
GUIDE = DOCS / "troubleshooting.md"
_MARK = "<!-- exits of all commands: written by `make docs` -->"
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


def exit_table() -> str:
    """The exit codes of all commands, then what 1 means for single ones."""
    rows = ["| code | of every command |", "|---|---|"]
    rows += [f"| {code} | {_cell(text)} |" for code, text in sorted(EXITS.items())]
    rows += ["", "| command | 1 means |", "|---|---|"]
    rows += [f"| `lens-ship {name}` | {_cell(text)} |" for name, text in EXITS_OF.items()]
    return "\n".join(rows)


def guide_with_table(text: str) -> str:
    """The operating guide with the table as it should be."""
    before, mark, after = text.partition(_MARK)
    return f"{before}{mark}\n\n{exit_table()}\n\n## {after.partition(chr(10) + '## ')[2]}"


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
    GUIDE.write_text(guide_with_table(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""The generated parts of docs/; run as a module, it writes them there.

A part stands between `<!-- NAME: written by make docs -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from shipper.cli import EXITS, EXITS_OF
from shipper.config.schema import SETTINGS, Setting, settings_of
from shipper.sinks import REGISTRY, load_class
from shipper.sinks.outcome import Reason
from spooler.config import CollectorSettings, Settings, Variable, variables_of
from tests.kit.cli_page import commands

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("configuration.md", "troubleshooting.md", "cli.md")
_PART = re.compile(
    r"(?<=<!-- )([\w ]+)(: written by make docs -->\n).*?(?=<!-- end -->)", re.DOTALL
)
_HEAD = "| default | meaning |\n|---|---|---|"


def settings_of_the_service() -> str:
    """A table for each section of the settings."""
    return settings_tables(SETTINGS)


def settings_tables(settings: Sequence[Setting]) -> str:
    """The settings by section, with the reason for the default on a line of its own."""
    lines = [] if settings[0].section else [f"| setting {_HEAD}"]
    for one in settings:
        if one.section:
            lines += ["", f"### {one.section}", "", f"| setting {_HEAD}"]
        older = f" Also read from `{one.alias}`." if one.alias else ""
        lines.append(_row(one.name, one.default_text, one.help + older, one.why))
    return "\n".join(lines).strip("\n")


def variables_of_the_training_side() -> str:
    """A table of the variables."""
    every = sorted(
        (*variables_of(Settings), *variables_of(CollectorSettings)),
        key=lambda one: not one.names[0].startswith("PRIMUS_LENS_WANDB_"),  # the hook first
    )
    rows = [_row(one.names[0], _default(one), one.meaning, one.why) for one in every]
    return "\n".join([f"| variable {_HEAD}", *rows])


def exit_codes() -> str:
    """The exit codes of all commands, then what 1 means for single ones."""
    rows = ["| code | of every command |", "|---|---|"]
    rows += [f"| {code} | {_cell(text)} |" for code, text in sorted(EXITS.items())]
    rows += ["", "| command | 1 means |", "|---|---|"]
    rows += [f"| `lens-ship {name}` | {_cell(text)} |" for name, text in EXITS_OF.items()]
    return "\n".join(rows)


def reasons() -> str:
    """What each reason of a sink says and asks for."""
    rows = ["| reason | the receiver | action |", "|---|---|---|"]
    rows += [f"| `{one.word}` | {_cell(one.sentence)} | {_cell(one.advice)} |" for one in Reason]
    return "\n".join(rows)


def options_of_sinks() -> str:
    """A table of the options for each type of sink. One with the text of a setting refers to it."""
    settings = {one.help: one.name for one in SETTINGS}
    parts = []
    for kind in REGISTRY:
        rows = []
        for one in settings_of(load_class(kind).Options):
            same = settings.get(one.help)
            text = "The setting of this name." if same == one.name else f"The setting `{same}`."
            older = f" Also read from `{one.alias}`." if one.alias else ""
            meaning, why = (text, "") if same else (one.help + older, one.why)
            rows.append(_row(one.name, one.default_text, meaning, why))
        parts.append("\n".join([f"#### {kind}", "", f"| option {_HEAD}", *rows]))
    return "\n\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    one.__name__.replace("_", " "): one
    for one in (
        settings_of_the_service,
        options_of_sinks,
        variables_of_the_training_side,
        exit_codes,
        reasons,
        commands,
    )
}


def generated(text: str) -> str:
    """The page with its generated parts as the code has them."""
    return _PART.sub(lambda part: f"{part[1]}{part[2]}\n{PARTS[part[1]]()}\n\n", text)


def _default(variable: Variable) -> str:
    if variable.shown or isinstance(variable.default, bool):
        return variable.shown or str(variable.default).lower()
    if isinstance(variable.default, float):
        return f"{variable.default:g}"
    return str(variable.default or "")


def _row(name: str, default: str, meaning: str, why: str) -> str:
    reason = f"<br>*{_cell(why)}*" if why else ""
    return f"| `{name}` | {default} | {_cell(meaning)}{reason} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    for name in PAGES:
        page = DOCS / name
        page.write_text(generated(page.read_text(encoding="utf-8")), encoding="utf-8")

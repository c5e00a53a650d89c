"""README, docs and code say the same: promises and tests, settings, commands, targets, the unit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from shipper.cli import cli
from shipper.config import SETTINGS
from spooler.config import VARIABLES
from tests.kit.command import commands_of
from tests.kit.settings_page import page_with_tables, service_table, training_table

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS_PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
PAGES = [README, *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))]


def test_every_promise_has_a_test_and_every_marked_test_a_promise() -> None:
    promised = set(re.findall(r"^\| (G\d+) \|", README, re.MULTILINE))
    marked = {
        number
        for path in (ROOT / "tests").rglob("*.py")
        for number in re.findall(r'mark\.promise\("(G\d+)"\)', path.read_text(encoding="utf-8"))
    }
    assert promised == marked


def test_the_page_of_settings_is_what_the_code_says() -> None:
    assert page_with_tables(SETTINGS_PAGE) == SETTINGS_PAGE, "run `make settings`"
    assert service_table() in SETTINGS_PAGE
    assert training_table() in SETTINGS_PAGE


def test_every_default_has_its_reason() -> None:
    for row in (*SETTINGS, *VARIABLES):
        assert row.why.endswith("."), row.name


def commands(group: click.Group, before: str = "lens-ship") -> list[str]:
    """Every command with the words that call it."""
    found = []
    for name, command in commands_of(group).items():
        words = f"{before} {name}"
        found += commands(command, words) if isinstance(command, click.Group) else [words]
    return found


def test_every_command_is_named_in_the_readme_or_the_docs() -> None:
    text = " ".join(" ".join(PAGES).split())
    for words in commands(cli):
        assert words in text or f"`{words.removeprefix('lens-ship ')}`" in text, words


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = "".join([*PAGES, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")])
    for target in set(re.findall(r"`make ([a-z-]+)`", texts)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("unit", sorted((ROOT / "systemd").glob("*.service")))
def test_the_unit_starts_a_command_line_that_the_parser_takes(unit: Path) -> None:
    line = re.search(r"^ExecStart=(.+)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    program, *words = shlex.split(line[1])
    assert Path(program).name == "lens-ship"
    name, *arguments = words
    # Below its group, as a shell calls it: click keeps the help option of the first context.
    above = click.Context(cli, **cli.context_settings)
    context = commands_of(cli)[name].make_context(name, arguments, parent=above)
    assert context.params["once"] is False


def test_the_environment_file_of_the_unit_holds_settings_that_exist() -> None:
    known = {setting.variable for setting in SETTINGS}
    text = (ROOT / "systemd" / "lens-ship.env").read_text(encoding="utf-8")
    names = re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)
    assert names
    assert set(names) <= known

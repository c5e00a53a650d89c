"""README, docs and code say the same: promises and tests, settings, commands, targets, the unit."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

import shipper
from shipper.cli import EXITS, EXITS_OF, REGISTRY, cli
from shipper.config.load import SETTINGS
from shipper.errors import ShipperError
from shipper.sinks.outcome import Reason
from spooler.config import CollectorSettings, Settings, variables_of
from tests.kit.command import commands_of
from tests.kit.pages import PARTS, generated

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
GUIDE_PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CLI_PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
CONFIGURATION_PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
PAGES = [README, *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))]


def test_every_promise_has_a_test_and_every_marked_test_a_promise() -> None:
    promised = set(re.findall(r"^\| (G\d+) \|", GUARANTEES, re.MULTILINE))
    marked = {
        number
        for path in (ROOT / "tests").rglob("*.py")
        for number in re.findall(r'mark\.promise\("(G\d+)"\)', path.read_text(encoding="utf-8"))
    }
    assert promised == marked


def test_the_page_of_settings_is_what_the_code_says() -> None:
    assert generated(CONFIGURATION_PAGE) == CONFIGURATION_PAGE, "run `make docs`"
    assert all(part() in CONFIGURATION_PAGE + GUIDE_PAGE + CLI_PAGE for part in PARTS.values())


def test_the_page_of_commands_is_what_the_parser_says() -> None:
    assert generated(CLI_PAGE) == CLI_PAGE, "run `make docs`"


def test_the_exit_codes_of_the_guide_are_those_of_the_code() -> None:
    assert generated(GUIDE_PAGE) == GUIDE_PAGE, "run `make docs`"
    raised = {kind.exit_code for kind in every_kind_of(ShipperError)}
    assert raised | {0, 130, 141} == set(EXITS)
    leaves = {words.removeprefix("lens-ship ") for words in commands(cli)}
    assert set(EXITS_OF) <= leaves
    for words in leaves:
        name = words.split()[0]
        module = REGISTRY[name].partition(":")[0].rpartition(".")[2]
        file = ROOT / "shipper" / "cli" / f"{module}.py"
        if "sys.exit(" in file.read_text(encoding="utf-8"):
            mine = [one for one in EXITS_OF if one.split()[0] == name]
            assert mine, f"say in EXITS_OF when `lens-ship {name}` exits 1"


def every_kind_of(kind: type[ShipperError]) -> list[type[ShipperError]]:
    """An exception and all that are made from it, in all of the service's modules."""
    for module in pkgutil.walk_packages(shipper.__path__, "shipper."):
        if "examples" not in module.name:
            importlib.import_module(module.name)
    return [kind, *(one for child in kind.__subclasses__() for one in every_kind_of(child))]


def test_every_symptom_of_the_guide_has_a_command() -> None:
    part = GUIDE_PAGE.split("## Symptoms")[1].split("\n## ")[0]
    symptoms = part.split("\n### ")[1:]
    assert len(symptoms) >= 6
    for symptom in symptoms:
        assert re.search(r"`(lens-ship|spooler\.|PRIMUS_LENS|log_)|\.md", symptom), symptom[:40]


def test_every_reason_of_the_code_has_its_sentence_and_advice() -> None:
    folders = (ROOT / "shipper" / "sinks", ROOT / "shipper" / "http_client")
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    word = r'"([a-z]+(?:-[a-z]+)*)"'
    made = rf"(?:retry|Unreachable|_unusable|rejected|_pause)\(\s*{word}"
    found = {*re.findall(made, text), *re.findall(rf"reason={word}", text)}
    assert len(found) > 25
    assert found - {"delivered", "partly"} <= {reason.word for reason in Reason}
    assert all(f"`{reason.word}`" in GUIDE_PAGE for reason in Reason)


def test_every_default_has_its_reason() -> None:
    for row in (*SETTINGS, *variables_of(Settings), *variables_of(CollectorSettings)):
        assert row.why.endswith("."), row


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


def test_every_decision_has_a_number_of_its_own() -> None:
    notes = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(note.name.partition("-")[0]) for note in notes]
    headed = [note.read_text(encoding="utf-8").partition(".")[0] for note in notes]

    assert numbers == list(range(1, len(notes) + 1))
    assert headed == [f"# {number}" for number in numbers]


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    texts = "".join([*PAGES, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")])
    for target in set(re.findall(r"`make ([a-z-]+)`", texts)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("unit", sorted((ROOT / "systemd").glob("*.service")))
def test_the_unit_starts_a_command_line_that_the_parser_takes(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    assert parsed(text, "ExecStart")["once"] is False


def parsed(unit: str, key: str) -> dict[str, Any]:
    """The options of a command line of a unit, as the parser takes them."""
    line = re.search(rf"^{key}=(.+)$", unit, re.MULTILINE)
    assert line is not None
    program, name, *arguments = shlex.split(line[1])
    assert Path(program).name == "lens-ship"
    # Below its group, as a shell calls it: click keeps the help option of the first context.
    above = click.Context(cli, **cli.context_settings)
    return commands_of(cli)[name].make_context(name, arguments, parent=above).params


def test_the_environment_file_of_the_unit_holds_settings_that_exist() -> None:
    known = {setting.variable for setting in SETTINGS}
    text = (ROOT / "systemd" / "lens-ship.env").read_text(encoding="utf-8")
    names = re.findall(r"^([A-Z_]+)=", text, re.MULTILINE)
    assert names
    assert set(names) <= known

"""Texts are plain technical English, one name means one thing, a log event is a fixed phrase."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("spooler/**/*.py"), *ROOT.glob("shipper/**/*.py")])
PAGES = [
    ROOT / "README.md",
    ROOT / "shipper" / "admin" / "page.html",
    *sorted((ROOT / "docs").glob("*.md")),
]

# Say who acts and what happens: "the service", "no process", "permanently", "again", "rejected".
BANNED = re.compile(
    r"\bwhoever\b|\b(no|some|every)body\b|\bfor (ever|good)\b|\banew\b|\bgoodbye\b"
    r"|\bc[oa]mes? round\b|\bat hand\b|\bin the way\b|\bout of the way\b|\bwithheld\b|\bpatience\b"
    r"|\b(goes|went) home\b|\bamid\b|\b(is|are|was|were) (told|said)\b|\bputs? up with\b"
    r"|\b(gives?|given) up\b|\bto and fro\b|\bneeds a hand\b|\bnot for it\b"
    r"|(?<!there )\b(is|are) no (\w+ )?(folder|director\w+|file|socket|spool|segment)\b"
    r"|(?<!there )\b(is|are) no (\w+ )?(number|address|URL|list|setting|command)\b",
    re.IGNORECASE,
)
# A class of DLRover that programs import by this name, and what its messages are pickled as.
TWICE = {"WorkerTrainingMetric"}

LOGGING = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_log_call(node: ast.AST) -> bool:
    """Of a module's logger, or of `say`, a method of it that was chosen before."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        return called.attr in LOGGING and called.value.id in ("log", "_log")
    return isinstance(called, ast.Name) and called.id == "say"


def literals(path: Path) -> Iterator[str]:
    """Every string of a file that is not a docstring: messages, helps, findings, events."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def check_words(text: str, where: str) -> None:
    for line in text.splitlines():
        found = BANNED.search(line)
        assert found is None, f"{where}: {found[0]!r} in {line!r}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_messages_are_in_plain_words(path: Path) -> None:
    for text in literals(path):
        check_words(text, name(path))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_pages_are_in_plain_words(path: Path) -> None:
    check_words(path.read_text(encoding="utf-8"), name(path))


def test_a_class_name_means_one_thing() -> None:
    """A leading underscore does not make it another name."""
    defined = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                defined[node.name.lstrip("_")].append(name(path))
    twice = {word: files for word, files in defined.items() if len(files) > 1}
    assert set(twice) == TWICE, twice


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_log_message_is_a_fixed_phrase_and_what_varies_is_in_fields(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and is_log_call(node):
            event = node.args[0]
            where = f"{path}:{node.lineno}"
            assert len(node.args) == 1, where
            assert isinstance(event, ast.Constant), where
            assert "%" not in event.value, where

"""Texts are plain technical English, one name means one thing, a log event is a fixed phrase."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shipper.cli import EXITS, EXITS_OF, cli
from shipper.config.load import SETTINGS
from spooler.config import CollectorSettings, Settings, variables_of
from tests.kit.command import commands_of

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("spooler/**/*.py"), *ROOT.glob("shipper/**/*.py")])
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

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
# Sources and pages that still have to be rewritten.
OLD = {
    *("shipper/delivery/events.py", "shipper/importers/exporter_jsonl.py", "shipper/service.py"),
    *("shipper/install/systemd.py", "shipper/retention/quarantine.py"),
    *("shipper/sinks/processor/probe.py", "docs/configuration.md", "docs/inspection.md"),
    *("docs/monitoring.md", "docs/troubleshooting.md"),
}
OLD_EVENTS = {
    *("shipper/admin/refresher.py", "shipper/delivery/events.py", "shipper/delivery/queue.py"),
    *("shipper/delivery/sink_state.py", "shipper/discovery/layout.py", "shipper/service.py"),
    *("shipper/discovery/root_watcher.py", "shipper/discovery/scanner.py"),
    *("shipper/health/heartbeat.py", "shipper/health/sd_notify.py", "shipper/ledger/database.py"),
    *("shipper/retention/cleaner.py", "shipper/retention/quarantine.py"),
    "shipper/retention/quota.py",
}

# A class of DLRover that programs import by this name, and what its messages are pickled as.
TWICE = {"WorkerTrainingMetric"}
OLD_NAMES = {
    *(
        "Collector",
        "Liveness",
        "Delivered",
        "Follower",
        "History",
        "Life",
        "Limits",
        "Mark",
        "Part",
        "Piece",
    ),
    *("Place", "Position", "Process", "Report", "Selection", "Spool", "State"),
}

FINDINGS = {"ok", "warn", "fail"}
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


def literals(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def spoken(path: Path) -> Iterator[str]:
    """What a file logs, raises, or reports as a finding of `lens-ship check`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if is_log_call(node):
            yield from literals(node)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield from literals(node.exc)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in FINDINGS:
            yield from literals(node)


def helps(command: click.Command) -> Iterator[str]:
    yield command.help or ""
    for option in command.params:
        yield getattr(option, "help", "") or ""
    if isinstance(command, click.Group):
        for one in commands_of(command).values():
            yield from helps(one)


def check_words(text: str, where: str) -> None:
    for line in text.splitlines():
        found = BANNED.search(line)
        assert found is None or where in OLD, f"{where}: {found[0]!r} in {line!r}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_messages_are_in_plain_words(path: Path) -> None:
    for text in spoken(path):
        check_words(text, name(path))


def test_helps_and_settings_are_in_plain_words() -> None:
    for text in helps(cli):
        check_words(text, "help")
    for setting in SETTINGS:
        check_words(f"{setting.help}\n{setting.why}", setting.name)
    for variable in (*variables_of(Settings), *variables_of(CollectorSettings)):
        check_words(f"{variable.meaning}\n{variable.why}", "docs/configuration.md")
    for text in (*EXITS.values(), *EXITS_OF.values()):
        check_words(text, "exit codes")


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
    assert set(twice) - OLD_NAMES == TWICE, twice


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_log_message_is_a_fixed_phrase_and_what_varies_is_in_fields(path: Path) -> None:
    if name(path) in OLD_EVENTS:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and is_log_call(node):
            event = node.args[0]
            where = f"{path}:{node.lineno}"
            assert len(node.args) == 1, where
            assert isinstance(event, ast.Constant), where
            assert "%" not in event.value, where

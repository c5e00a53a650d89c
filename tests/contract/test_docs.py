"""`lens-ship docs`, and that everything which names a page leads to it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.docs import PageUnknown, page
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.spools import REPOSITORY

REFERENCE = re.compile(r"lens-ship docs ([\w/#.-]+\w/?)")
PAGE = re.compile(r"docs/[\w/-]+\.md")


def shipped() -> dict[str, str]:
    """What operators read of the package: texts in the code, manifests, units and pages."""
    folders = ("spooler", "shipper", "deploy", "systemd", "docs", "README.md", "CHANGELOG.md")
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.splitlines() if not name.endswith(".png")]
    return {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in names}


def texts_of(code: str) -> Iterator[str]:
    """The texts of a module without its docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_page_that_is_named_exists() -> None:
    named = {topic for text in shipped().values() for topic in REFERENCE.findall(text)}
    named -= {"TOPIC"}
    assert len(named) > 10
    for topic in named:
        assert page(topic), topic


def test_nothing_outside_of_the_pages_names_a_file_of_the_repository() -> None:
    for name, text in shipped().items():
        if name.endswith(".py"):
            found = [one for value in texts_of(text) for one in PAGE.findall(value)]
        else:
            found = [] if name.endswith(".md") else PAGE.findall(text)
        assert found == [], name


def test_every_link_between_pages_is_a_topic() -> None:
    for name, text in shipped().items():
        if name.startswith("docs/") and name.count("/") == 1 and name.endswith(".md"):
            plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            for target in re.findall(r"\]\(([\w./-]*(?:#[\w-]+)?)\)", plain):
                if target.startswith("#"):
                    page(f"{name}{target}")
                elif ".md" in target and "bench/" not in target:
                    page(target)


def test_a_page_is_printed_as_it_is_where_no_one_reads(tmp_path: Path) -> None:
    whole = (REPOSITORY / "docs" / "upgrading.md").read_text(encoding="utf-8")
    for topic in ("upgrading", "docs/upgrading.md", "UPGRADING", "upgr"):
        done = lens_ship("docs", topic)
        assert (done.code, done.out, done.err) == (0, whole, "")


def test_a_heading_is_printed_with_what_is_below_it() -> None:
    done = lens_ship("docs", "deployment.md#without-root")
    assert done.out.startswith("## Without root\n")
    assert "\n### Slurm\n" in done.out
    assert "\n## " not in done.out


def test_without_a_topic_all_pages_and_the_directory_are_listed() -> None:
    done = lens_ship("docs")
    assert re.search(r"^deployment +Deployment$", done.out, re.MULTILINE)
    assert re.search(r"^decisions/ +\d+ pages: lens-ship docs decisions/$", done.out, re.MULTILINE)
    directory = Path(done.out.splitlines()[-1].rpartition(": ")[2])
    assert (directory / "deploy" / "prometheus" / "alerts.yaml").is_file()
    listed = lens_ship("docs", "decisions/").out.splitlines()
    assert listed[0] == "decisions/0001-commit-before-return  1. Commit before `wandb.log` returns"


@pytest.mark.parametrize(
    ("topic", "similar"),
    [
        ("deploymnt", "Similar: deployment."),
        ("alerts", "Similar: monitoring#alerts."),
        ("credstore", "Similar: deployment."),
        ("deployment#slrum", "deployment#slurm"),
        ("re", "README, recovery, replay"),
        ("../../etc/passwd", "`lens-ship docs` lists the pages"),
    ],
)
def test_an_unknown_topic_names_similar_ones(topic: str, similar: str) -> None:
    done = lens_ship("docs", topic)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"lens-ship: there is no page {topic!r}.")
    assert similar in done.err
    with pytest.raises(PageUnknown):
        page(topic)


def test_a_terminal_gets_the_page_in_a_pager(tmp_path: Path) -> None:
    """The pager is one that writes what it is given to a file."""
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\nexec cat > {tmp_path}/shown\n", encoding="utf-8")
    pager.chmod(0o755)
    terminal, inside = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "shipper", "docs", "deployment"],
            stdin=inside,
            stdout=inside,
            env=spools.environment(PAGER=str(pager), TERM="xterm", COLUMNS="100"),
            timeout=spools.PATIENCE_SECONDS,
            check=True,
        )
    finally:
        os.close(terminal)
        os.close(inside)
    shown = (tmp_path / "shown").read_text(encoding="utf-8")
    assert "|---|" not in shown
    assert "deployment.md#" not in shown
    assert "a job of your own, Slurm" in shown
    assert max(len(line) for line in shown.splitlines()) <= 100

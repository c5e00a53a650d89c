"""The matrix: promise by attack, with trials, faults, failures, worst figures, broken builds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.crash.lab.attacks import load
from tests.crash.lab.laboratory import REPOSITORY
from tests.crash.lab.plan import AttackResult
from tests.crash.lab.verdict import breaks

HELD, UNTRIED = "✓", "–"  # noqa: RUF001 - a dash in a table


def promises() -> list[str]:
    """The numbers in the table of `docs/guarantees.md`, in its order."""
    text = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (G\d+) \|", text, re.MULTILINE)


def cell(outcome: AttackResult, promise: str) -> str:
    """How a promise stood under an attack: held, broken so many times, not tried; "" otherwise."""
    if promise not in load(outcome.name).promises:
        return ""
    if not outcome.verdicts:
        return UNTRIED
    failures = sum(breaks(failure, promise) for failure in outcome.together.failures)
    return f"✗ {failures}" if failures else HELD


def _stood(outcomes: Sequence[AttackResult]) -> tuple[list[str], list[list[str]]]:
    """Promise by attack; promises that none of these attacks are left out."""
    attacked = [p for p in promises() if any(cell(outcome, p) for outcome in outcomes)]
    rows = []
    for outcome in outcomes:
        verdict = outcome.together
        counts = [len(outcome.verdicts), verdict.faults, len(verdict.failures)]
        cells = [cell(outcome, promise) for promise in attacked]
        rows.append([outcome.name, *cells, *(f"{count:,}" for count in counts)])
    return ["attack", *attacked, "trials", "faults", "failures"], rows


def _figures(outcomes: Sequence[AttackResult]) -> tuple[list[str], list[list[str]]]:
    """What each attack does, its worst figures, and the broken builds that it noticed."""
    rows = []
    for outcome in outcomes:
        figures = outcome.together.figures.items()
        worst = ", ".join(f"{name} {value:.4g}" for name, value in figures)
        meaning = load(outcome.name).meaning
        rows.append([outcome.name, meaning, outcome.missing or worst, _builds(outcome)])
    return ["attack", "what it does", "worst figures", "broken builds noticed"], rows


def _builds(outcome: AttackResult) -> str:
    caught = [name for name, is_caught in outcome.broken_builds.items() if is_caught]
    missed = [name for name, is_caught in outcome.broken_builds.items() if is_caught is False]
    if not caught and not missed:
        return ""
    text = f"{len(caught)} of {len(caught) + len(missed)}: {', '.join(caught)}"
    return text + (f"; NOT {', '.join(missed)}" if missed else "")


def show(outcomes: Sequence[AttackResult], console: Console) -> None:
    """Print the matrix."""
    for head, rows in (_stood(outcomes), _figures(outcomes)):
        table = Table(padding=(0, 0), pad_edge=False, show_lines="worst figures" in head)
        for name in head:
            table.add_column(name, no_wrap=name == "attack")
        for row in rows:
            table.add_row(*(_coloured(text) for text in row))
        console.print(table)
    console.print(score(outcomes))


def _coloured(text: str) -> str:
    if text == HELD:
        return f"[green]{HELD}[/]"
    return f"[bold red]{text}[/]" if text.startswith("✗") or "; NOT " in text else text


def markdown(outcomes: Sequence[AttackResult], head: str) -> str:
    """The matrix for a page."""
    lines = [head]
    for names, rows in (_stood(outcomes), _figures(outcomes)):
        lines += ["", _line(names), "|---" * len(names) + "|", *(_line(row) for row in rows)]
    return "\n".join([*lines, "", score(outcomes)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def score(outcomes: Sequence[AttackResult]) -> str:
    """How many broken builds were noticed, of how many tried; what was not attacked."""
    tried = [c for outcome in outcomes for c in outcome.broken_builds.values() if c is not None]
    left = sum(1 for outcome in outcomes for c in outcome.broken_builds.values() if c is None)
    text = f"Broken builds noticed: {sum(tried)} of {len(tried)}"
    text += f"; {left} not tried, the time was over." if left else "."
    missing = [f"{o.name} ({o.missing})" for o in outcomes if o.missing]
    text += f" Not possible on this machine: {', '.join(missing)}." if missing else ""
    idle = [p for p in promises() if not any(cell(outcome, p) for outcome in outcomes)]
    return text + (f" Not attacked here: {', '.join(idle)}." if idle else "")

"""`lens-ship demo` as a user runs it: everything in it is real, and its own count is checked."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipper.discovery.layout import find_spools
from spooler.spool.reader import Reader
from tests.kit.spools import PATIENCE_SECONDS

COMMAND = [sys.executable, "-c", "from shipper.cli import main; main()", "demo"]
COLUMNS = ("written", "recorded", "delivered", "duplicated", "lost", "changed", "disordered")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One demo: its exit code, what it printed, and what it kept."""

    code: int
    text: str
    kept: Path

    def row(self, name: str) -> dict[str, int]:
        """A row of the table."""
        found = re.search(rf"^ *{name} +((?:[\d,]+ *){{7}})$", self.text, re.MULTILINE)
        assert found is not None, self.text
        numbers = [int(number.replace(",", "")) for number in found[1].split()]
        return dict(zip(COLUMNS, numbers, strict=True))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    kept = tmp_path_factory.mktemp("demo") / "kept"
    environ = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    # So many that the second training still runs when a slow machine has service and receiver back.
    done = subprocess.run(
        [*COMMAND, "--seconds", "30", "--seed", "3", "--keep", str(kept)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**environ, "PYTHONIOENCODING": "utf-8"},
        timeout=4 * PATIENCE_SECONDS,
        check=False,
    )
    return Shown(code=done.returncode, text=done.stdout + done.stderr, kept=kept)


def test_nothing_is_lost(shown: Shown):
    assert shown.code == 0, shown.text
    both = shown.row("both")
    assert both["written"] > 0
    assert both["written"] <= both["recorded"] <= both["written"] + 1  # killed within a call
    assert both["delivered"] == both["recorded"]
    assert (both["lost"], both["changed"], both["disordered"]) == (0, 0, 0)
    assert "Nothing is lost" in shown.text


def test_both_trainings_took_part_and_add_up(shown: Shown):
    first, second, both = (shown.row(name) for name in ("training 1", "training 2", "both"))

    assert first["written"] > 0
    assert second["written"] > 0
    assert {name: first[name] + second[name] for name in COLUMNS} == both


def test_the_training_was_really_killed(shown: Shown):
    """A killed process leaves no exit record; the second one, which ended by itself, does."""
    ended = {}
    for directory in find_spools(shown.kept / "spool"):
        reader = Reader(directory)
        kinds = [stored.kind for stored in reader.read(0, 1_000_000).records]
        ended[reader.identity().created] = kinds[-1]

    first, second = (ended[created] for created in sorted(ended))
    assert first == "step"
    assert second == "exit"
    assert re.search(r"training 1 +killed \(SIGKILL\) after step [\d,]+", shown.text)


def test_receiver_and_service_were_killed_and_came_back(shown: Shown):
    events = re.findall(
        r"^ *[\d.]+ s  (receiver|service) +(started|restarted|killed)", shown.text, re.M
    )

    for process in ("receiver", "service"):
        assert [what for who, what in events if who == process] == [
            "started",
            "killed",
            "restarted",
        ]


def test_the_receiver_has_the_steps_without_a_gap(shown: Shown):
    """The sum of the table, checked once more with a query that shares no code with it."""
    with closing(sqlite3.connect(shown.kept / "received.sqlite")) as connection:
        (steps, last), *_ = connection.execute("SELECT count(DISTINCT step), max(step) FROM write")

    again = re.search(
        r"^([\d,]+) steps after the checkpoint were trained twice", shown.text, re.MULTILINE
    )
    twice = int(again[1].replace(",", "")) if again else 0
    assert steps == last + 1
    assert steps in (shown.row("both")[name] - twice for name in ("written", "recorded"))


def test_the_curve_and_both_addresses_are_shown(shown: Shown):
    assert re.search("loss at the receiver \\(dotted line: training 2 starts\\)", shown.text)
    assert "┊" in shown.text
    assert re.search("[\u2801-\u28ff]", shown.text)
    assert re.search(r"service +started, status page http://127\.0\.0\.1:\d+", shown.text)
    assert re.search(r"receiver +started, counts http://127\.0\.0\.1:\d+", shown.text)


def test_every_record_is_accounted_for(shown: Shown):
    assert "`lens-ship audit` accounts for every record" in shown.text


def test_it_fits_a_terminal_of_80_columns(shown: Shown):
    lines = shown.text.partition("Spool, state, database")[0].splitlines()

    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown.text


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*COMMAND, "--keep", str(tmp_path / "file" / "kept")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "kept/spool: Not a directory. The demo was not started. Give --keep" in done.stderr


def test_old_files_are_not_counted(tmp_path: Path):
    (tmp_path / "something").touch()

    done = subprocess.run(
        [*COMMAND, "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "is not empty" in done.stderr

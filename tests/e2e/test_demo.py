"""`lens-ship demo` as a user runs it: everything in it is real, and its own count is checked."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipper.discovery.layout import find_spools
from spooler.spool import codec
from spooler.spool.reader import Reader
from tests.kit.master import PYTHON as MASTER
from tests.kit.master import needs_master
from tests.kit.processor import Receiver

COMMAND = [sys.executable, "-c", "from shipper.cli import main; main()", "demo"]
# What decides where a master comes from.
VARIABLE = "LENS_SHIP_DEMO_DLROVER"
COLUMNS = ("written", "recorded", "delivered", "duplicated", "lost", "changed", "disordered")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One demo: its exit code, what it printed, and what it kept."""

    code: int
    text: str
    kept: Path
    with_master: bool

    def row(self, name: str) -> dict[str, int]:
        """A row of the table."""
        found = re.search(rf"^ *{name} +((?:[\d,]+ *){{7}})$", self.text, re.MULTILINE)
        assert found is not None, self.text
        numbers = [int(number.replace(",", "")) for number in found[1].split()]
        return dict(zip(COLUMNS, numbers, strict=True))


WITHOUT = pytest.param(
    False,
    id="without-master",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("dlrover") is not None, reason="DLRover is installed here"
    ),
)


@pytest.fixture(
    scope="module", params=[WITHOUT, pytest.param(True, id="master", marks=needs_master)]
)
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    kept = tmp_path_factory.mktemp("demo") / "kept"
    environ = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS", VARIABLE)}
    if request.param:
        environ[VARIABLE] = str(MASTER)
    done = subprocess.run(
        [*COMMAND, "--seconds", "10", "--seed", "3", "--keep", str(kept)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**environ, "PYTHONIOENCODING": "utf-8"},
        timeout=180,
        check=False,
    )
    return Shown(
        code=done.returncode, text=done.stdout + done.stderr, kept=kept, with_master=request.param
    )


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
    assert re.search(r"training 1 +SIGKILL in mid-run, after step [\d,]+", shown.text)


def test_receiver_and_shipper_were_killed_and_came_back(shown: Shown):
    events = re.findall(
        r"^ *[\d.]+ s  (receiver|shipper) +(up again|up|SIGKILL|back)", shown.text, re.M
    )

    assert [what for who, what in events if who == "receiver"] == ["up", "SIGKILL", "back"]
    assert [what for who, what in events if who == "shipper"] == ["up", "SIGKILL", "up again"]


def test_the_receiver_has_as_many_rows_as_there_are_steps(shown: Shown):
    """The table's sum, checked once more with a query that shares no code with it."""
    store = Receiver(path=shown.kept / "received.sqlite").store
    rows = store.select("SELECT count(*) AS n, max(iteration) AS last FROM training_performance")

    again = re.search(r"Trained twice: ([\d,]+) steps", shown.text)
    twice = int(again[1].replace(",", "")) if again else 0
    assert rows[0]["n"] == rows[0]["last"] + 1
    assert rows[0]["n"] in (shown.row("both")[name] - twice for name in ("written", "recorded"))


def test_every_line_of_the_log_is_recorded_once_and_the_stacks_are(shown: Shown):
    stacks, logged = [], []
    for directory in sorted(find_spools(shown.kept / "spool"), key=lambda path: path.name):
        for stored in Reader(directory).read(0, 1_000_000).records:
            if stored.kind == "report":
                body = codec.unpack(stored.body)
                kind = {"STACK_TRACE": stacks, "TRAINING_LOG": logged}[body["data_type"]]
                kind.append(body["data_content"])

    assert "".join(logged) == written(shown.kept)
    assert "asked for by a signal" in stacks[0]
    assert len(stacks) == 1


def test_a_master_that_was_killed_has_the_log_again(shown: Shown):
    if not shown.with_master:
        pytest.skip("the other demo")
    first, last = (
        [json.loads(line) for line in (shown.kept / f"master-{n}.jsonl").read_text().splitlines()]
        for n in (1, 2)
    )
    content = [row["data_content"] for row in last if row["data_type"] == "TRAINING_LOG"]
    have = "".join(text for text in content if not text.startswith("lens-ship: process "))
    events = re.findall(r"^ *[\d.]+ s  master +(up|SIGKILL|back)", shown.text, re.M)

    assert events == ["up", "SIGKILL", "back"]
    assert f"the one killed had kept {len(first)} reports" in shown.text
    # A master that restarted is told again process by process.
    assert sorted(have.splitlines()) == sorted(written(shown.kept).splitlines())
    for what in ("log lines", "stacks"):
        row = shown.row(what)
        assert row["written"] == row["recorded"] == row["delivered"] > 0
        assert sum(row[name] for name in COLUMNS[3:]) == 0


def test_without_a_master_it_says_so_and_where_reports_are(shown: Shown):
    if shown.with_master:
        pytest.skip("the other demo")
    row = re.search(r"^ *log lines +([\d,]+) +([\d,]+) +(- *){5}$", shown.text, re.MULTILINE)

    assert row is not None, shown.text
    assert row[1] == row[2]
    assert re.search(r"^Without a training master, .* --dlrover\.$", shown.text, re.MULTILINE)
    assert re.search(r"`lens-ship audit` has them: \d+ no-master\.", shown.text)


def test_the_page_is_named(shown: Shown):
    assert re.search(r"shipper +up: http://127\.0\.0\.1:\d+ shows", shown.text)


def written(kept: Path) -> str:
    """The whole log of the training, also what was rotated away."""
    log = kept / "training" / "training.log"
    older = sorted(log.parent.glob("training.log.*"), key=lambda path: -int(path.suffix[1:]))
    return "".join(path.read_text() for path in (*older, log))


def test_it_fits_a_terminal_of_80_columns(shown: Shown):
    lines = shown.text.partition("Spool, state, database")[0].splitlines()

    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown.text


def test_a_python_without_a_master_is_not_taken_for_one():
    done = subprocess.run(
        [*COMMAND, "--dlrover", "/nowhere/python"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "--dlrover /nowhere/python cannot run a training master" in done.stderr
    assert "pip install 'dlrover[k8s]'" in done.stderr


def test_old_files_are_not_counted(tmp_path: Path):
    (tmp_path / "something").touch()

    done = subprocess.run(
        [*COMMAND, "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "is not empty" in done.stderr

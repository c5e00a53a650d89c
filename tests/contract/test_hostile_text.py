"""Text that a tenant wrote cannot move a terminal's cursor, forge a line, or flood a screen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spooler.spool.format import FORMAT_VERSION
from tests.kit.command import lens_ship
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import identity, spool_id

EVIL = "\x1b[2J\x1b]0;owned\x07\r\u202e\x9bforged\nline\ud800"
REASONS = 20_000
MOST_CHARACTERS = 300_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A spool whose every text is hostile, delivered in part, and a damaged one."""
    folder = tmp_path_factory.mktemp("hostile")
    names = ("workload_uid", "pod_name", "pod_uid", "host", "project", "dlrover_address")
    known = {name: EVIL.replace("\ud800", "") for name in names if hasattr(identity(), name)}
    gap = {"time": 1.0, "count": 1, "first": 1.0, "last": 1.0}
    gaps = [("gap", {**gap, "reason": f"{number}{EVIL[:-1]}"}) for number in range(REASONS)]
    steps = [step(number, run=EVIL[:-1], **{EVIL[:-1]: 1.5}) for number in range(3)]
    run = ("run", {"run": EVIL[:-1], "time": 1.0, "name": EVIL[:-1], "project": EVIL[:-1]})
    odd = (EVIL[:-1][:60], {"time": 1.0})
    records = [run, *steps, odd, *gaps, goodbye()]
    spool(folder / "spool", records, who=identity(**known), segment_records=5000)
    damaged, _ = spool(
        folder / "spool",
        [step(number) for number in range(40)],
        who=identity(spool_id(1), **known),
        segment_records=10,
        close=False,
    )
    with closing(sqlite3.connect(damaged / "00000001.sqlite")) as segment:
        segment.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    (folder / "spool" / EVIL.partition("\n")[0]).mkdir()
    with FaultyReceiver(path=folder / "received.sqlite") as receiver:
        (folder / "url").write_text(receiver.url)
        yield folder


COMMANDS = [
    ["run", "--once", "--timeout", "2"],
    ["status"],
    ["status", "--all"],
    ["audit"],
    ["check"],
    ["inspect", "."],
    ["inspect", "--verify", "SPOOL"],
    ["tail"],
    ["tail", "-n", "1000"],
    ["plot"],
    ["plot", EVIL[:-1]],
    ["plot", EVIL[:3]],
    ["dead-letter", "list"],
    ["dead-letter", "retry"],
    ["quarantine", "list"],
    ["replay", "--dry-run", "--resend-delivered"],
    ["replay", "--dry-run", "."],
    ["replay", "--resend-delivered"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: repr(" ".join(words)))
def test_no_command_prints_what_a_terminal_acts_upon(place: Path, words: list[str]) -> None:
    root = place / "spool"
    paths = {".": str(root), "SPOOL": str(next(root.rglob("*0000*-*")))}
    done = lens_ship(
        *(paths.get(word, word) for word in words),
        LENS_SHIP_SPOOL=str(root),
        LENS_SHIP_STATE=str(place / "state"),
        LENS_SHIP_PROCESSOR_URL=(place / "url").read_text(),
    )
    assert "Traceback" not in done.err
    assert len(done.out + done.err) < MOST_CHARACTERS
    for line in f"{done.out}{done.err}".split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("line"), line

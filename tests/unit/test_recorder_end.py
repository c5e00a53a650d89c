"""The end of a process: the exit record, the seal, and never a long wait."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from spooler import recorder
from spooler.recorder import Recorder
from tests.kit import spools


def test_goodbye_says_how_far_each_run_came_and_seals(root: Path, mine: Recorder) -> None:
    called = []
    mine.on_close.append(lambda: called.append(mine.record("finish", {"run": "r"})))
    mine.record("step", spools.step(7))
    mine.steps["r"] = 7
    mine.shutdown()
    (directory,) = spools.spools_below(root)
    assert spools.kinds(directory) == ["step", "finish", "exit"]
    (body,) = spools.read_whole(directory).bodies("exit")
    assert body["steps"] == {"r": 7}
    assert called == [True]
    assert not list(directory.glob("*-wal"))
    assert not spools.Reader(directory).is_owned()
    mine.shutdown()
    assert len(spools.kinds(directory)) == 3


def test_goodbye_without_records_leaves_nothing(root: Path, mine: Recorder) -> None:
    mine.shutdown()
    assert not root.exists()


@pytest.mark.promise("G2")
def test_shutdown_is_bounded(root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs while the background thread seals does not hold the process up."""
    stuck, freed = threading.Event(), threading.Event()

    def hang() -> bool:
        stuck.set()
        freed.wait(spools.PATIENCE_SECONDS)
        return False

    monkeypatch.setattr(recorder, "_SHUTDOWN_SECONDS", 0.05)
    mine.record("step", spools.step(1))
    keeper = mine._background
    mine.defer(hang)
    assert stuck.wait(spools.PATIENCE_SECONDS)
    mine.shutdown()
    assert not freed.is_set()
    freed.set()
    assert keeper is not None
    keeper._thread.join(spools.PATIENCE_SECONDS)
    (directory,) = spools.spools_below(root)
    assert spools.kinds(directory) == ["step", "exit"], "what could still be done was done"


def test_a_record_after_goodbye_is_not_lost(root: Path, mine: Recorder) -> None:
    """Another exit handler of the program may log after ours has run."""
    mine.record("step", spools.step(1))
    mine.shutdown()
    assert mine.record("step", spools.step(2))
    assert len(spools.spools_below(root)) == 2


@pytest.mark.promise("G2")
@pytest.mark.parametrize(
    ("end", "code"), [("raise KeyboardInterrupt", -signal.SIGINT), ("pass", 0), ("1 / 0", 1)]
)
def test_a_process_that_ctrl_c_ends_ends_by_sigint(end: str, code: int) -> None:
    """The interpreter forgets it when text is evaluated, as the import of a named tuple does."""
    program = (
        "import atexit; from collections import namedtuple\n"
        "from spooler.recorder import recorder; recorder()\n"
        f"atexit.register(namedtuple, 'Late', 'a b')\n{end}"
    )
    assert spools.python(program).returncode == code

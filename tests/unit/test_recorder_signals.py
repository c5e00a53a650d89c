"""A signal handler that records, or a stderr that raises, while a record is being made."""

from __future__ import annotations

import inspect
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spooler import recorder, stderr
from spooler.recorder import Recorder
from spooler.spool import writer
from tests.kit import spools


@pytest.mark.promise("G2")
@pytest.mark.parametrize("state", ["new", "failing", "healed"])
def test_a_signal_handler_may_record_at_any_bytecode_of_recording(
    state: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the first record opens the spool, and while a loss is counted or told."""
    at, seen, stride = 0, 1, 3
    while at < seen:
        shutil.rmtree(root, ignore_errors=True)
        one = Recorder()
        spools.tend_by_hand(monkeypatch)
        monkeypatch.setattr(stderr, "_reported", {})
        if state != "new":
            root.write_text("in the way")
        if state == "healed":
            assert not one.record("lost", {})
            root.unlink()
        results: list[bool] = []

        def nested(one: Recorder = one, results: list[bool] = results) -> None:
            results.append(one.record("signal", {}))

        def work(one: Recorder = one, results: list[bool] = results) -> None:
            results.append(one.record("step", {}))

        seen = spools.interrupt(inspect.getfile(recorder), work, at, nested)
        here = f"interrupted before bytecode {at} of {seen}"
        if state == "failing":
            assert results == [False, False], here
            assert sum(one.dropped.values()) in (1, 2), f"{here}; a count may be one short, no more"
            root.unlink()
        else:
            assert results == [True, True], here
        assert one.record("after", {}), here
        found = [kind for path in spools.spools_below(root) for kind in spools.kinds(path)]
        wanted = ["after"] if state == "failing" else ["after", "signal", "step"]
        assert sorted(kind for kind in found if kind != "gap") == wanted, here
        assert ("gap" in found) == (state != "new")
        at += stride
    assert seen > 100


@pytest.mark.promise("G2")
@pytest.mark.parametrize(
    ("owner", "name"),
    [(threading.Thread, "__init__"), (threading.Thread, "start"), (writer, "make_directories")],
)
def test_a_signal_handler_that_opens_the_spool_opens_the_only_one(
    owner: Any, name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two, one is never sealed, and a fork does not wait for the work on it."""
    one, before, original = Recorder(), set(threading.enumerate()), getattr(owner, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        assert one.record("signal", {})
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    assert one.record("step", {})
    begun = [thread.name for thread in set(threading.enumerate()) - before]
    assert begun.count("lens-ship-recorder") == 1
    (path,) = spools.spools_below(root)
    assert spools.kinds(path) == ["signal", "step"]
    one.shutdown()


def _raise(error: BaseException) -> Callable[..., None]:
    def raising(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return raising


@pytest.mark.promise("G2")
def test_a_stderr_that_raises_disturbs_nobody(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a signal handler stderr may be busy; a program may have put any object in its place."""
    root.write_text("in the way")

    class Stderr:
        write = staticmethod(_raise(RuntimeError("reentrant call inside <_io.BufferedWriter>")))

    monkeypatch.setattr("sys.stderr", Stderr())
    assert not mine.record("step", spools.step(1))
    assert sum(mine.dropped.values()) == 1

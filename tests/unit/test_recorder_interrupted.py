"""What a handler raises while a record is made reaches the user, and the account balances."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

import pytest

from spooler import async_exceptions
from spooler.recorder import Recorder
from spooler.records import gap
from tests.kit import spools
from tests.kit.interrupted import ERRORS

pytestmark = pytest.mark.promise("G2")


def interrupted(root: Path, error: str, way: str, state: str, times: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kit.interrupted", error, way, state, str(times), "7"],
        env=spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
            PRIMUS_LENS_SPOOL_SEGMENT_RECORDS="8" if state == "rotating" else None,
        ),
        cwd=spools.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=2 * spools.PATIENCE_SECONDS,
        check=False,
    )
    told: dict[str, Any] = spools.answer(done)
    return told


CASES = [
    *((name, "signal", "sound", 400) for name in ERRORS),
    ("KeyboardInterrupt", "own", "sound", 400),
    *((name, "async", "sound", 400) for name in ("TimeoutError", "Preempted", "ValueError")),
    # The one that ends a segment is sealed with it, at once, on another thread.
    *(("TimeoutError", way, "rotating", 400) for way in ("signal", "async")),
    *((name, "signal", "reopening", 300) for name in ("OSError", "Preempted")),
]


@pytest.mark.parametrize(("error", "way", "state", "times"), CASES)
def test_every_exception_reaches_the_user_and_every_record_is_kept_or_counted(
    error: str, way: str, state: str, times: int, tmp_path: Path
) -> None:
    told = interrupted(tmp_path, error, way, state, times)
    assert (told["raised"], told["caught"]) == (times, times)
    assert told["after"]
    assert told["nesting"] == 0
    assert not any(told["locked"])
    kept, gaps = set[int](), 0
    for path in spools.spools_below(tmp_path):
        found = spools.read_whole(path)  # its numbers have no gap
        kept |= {body["n"] for body in found.bodies("step")}
        gaps += sum(body["count"] for body in found.bodies(gap.NAME))
    assert kept
    missing = set(told["tried"]) - kept
    assert told["dropped"] == ({"interrupted": len(missing)} if missing else {})
    assert gaps == len(missing)
    assert told["recorded"]["step"] == len(kept)


def test_where_nothing_can_be_recorded_it_reaches_the_user_as_well(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    root.write_text("in the way")
    told = interrupted(root, "OSError", "signal", "failing", 300)
    assert (told["raised"], told["caught"]) == (300, 300)
    assert not told["after"]
    assert sum(told["dropped"].values()) == len(set(told["tried"])) + 1


class _Item:
    dtype = "float32"
    shape = ()

    def item(self) -> float:
        raise _Own("an object's own")


class _Own(Exception):
    pass


def _caught(call: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:
        call()
    return caught.value


def test_what_an_object_or_our_code_raises_is_not_the_user_s() -> None:
    from spooler.records import values
    from spooler.spool import codec

    assert not async_exceptions.is_async(_caught(lambda: values.plain(_Item())))
    assert not async_exceptions.is_async(_caught(lambda: codec.pack({"a": object()})))
    assert not async_exceptions.is_async(_caught(lambda: codec.unpack(b"\xc1")))


def test_an_asynchronous_exception_is_the_user_s_in_every_frame_below_a_record(
    mine: Recorder,
) -> None:
    """Also in those that the standard library makes, as the constructor of a named tuple."""
    frames: dict[CodeType, FrameType] = {}
    mine.record("step", {"n": 0})
    before = sys.gettrace()
    sys.settrace(lambda frame, *_: frames.setdefault(frame.f_code, frame) and None)
    try:
        mine.interrupted()
        mine.record("step", {"n": 1})  # which writes the gap first
        mine.shutdown()
    finally:
        sys.settrace(before)
    modules = {str(frame.f_globals["__name__"]) for frame in frames.values()}
    assert {"spooler.recorder", "spooler.spool.writer", "spooler.records.schema"} < modules
    for frame in frames.values():
        if frame.f_globals["__name__"] != __name__:
            error = TimeoutError().with_traceback(TracebackType(None, frame, 0, 1))
            assert async_exceptions.is_async(error), frame

"""`lens-ship tail`: the last records of many spools, then every one that is written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shipper.humanize import json_safe, number, sanitize
from shipper.inspection.record_line import TailRecord, format_record
from shipper.inspection.tail import RecordFilter, SpoolsFollower
from spooler.spool import codec
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.shipping import (
    Record,
    append,
    detection,
    finish,
    goodbye,
    killed,
    spool,
    step,
    stored,
)

ESCAPE = "\x1b[2J\x07\r\u202e\ud800"


def two_ranks(root: Path, steps: int = 30) -> None:
    """Rank 0 logs the even steps of run "left", rank 1 the odd ones of "right", in turns."""
    for rank, run in enumerate(("left", "right")):
        who = spools.identity(spools.spool_id(rank), rank=rank, workload_uid=f"w{rank}")
        numbers = range(rank, steps, 2)
        records = [step(n, run=run) for n in numbers]
        spool(root, [*records, finish(run)], who=who, segment_records=5)


def lines(*arguments: str) -> list[str]:
    done = lens_ship("tail", *arguments)
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines()


def steps_of(root: Path, count: int, **wanted: Any) -> list[int]:
    follower = SpoolsFollower(places=[root], wanted=RecordFilter(**wanted))
    return [seen.body["step"] for seen in follower.last(count) if seen.stored.kind == "step"]


def test_the_last_of_all_spools_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    two_ranks(tmp_path)
    expected = lines(str(tmp_path), "-n", "4", "--kind", "step")
    assert [text.split("step ")[1].split()[0] for text in expected] == ["26", "27", "28", "29"]
    assert "r1" in expected[-1]
    assert "loss=29.5" in expected[-1]


def test_it_takes_the_root_from_the_settings(tmp_path: Path) -> None:
    two_ranks(tmp_path)
    done = lens_ship("tail", "-n", "1", "--kind", "step", LENS_SHIP_SPOOL=str(tmp_path))
    assert done.out.count("\n") == 1


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"kinds": ("step",)}, [27, 28, 29]),
        ({"kinds": ("step",), "run": "left"}, [24, 26, 28]),
        ({"kinds": ("step",), "run": "ri"}, [25, 27, 29]),
        ({"kinds": ("step",), "ranks": (0,)}, [24, 26, 28]),
        ({"kinds": ("step",), "ranks": (0, 1)}, [27, 28, 29]),
        ({"kinds": ("step",), "workload": "w1"}, [25, 27, 29]),
        ({"kinds": ("step",), "run": "neither"}, []),
        ({"kinds": ("gap",)}, []),
    ],
)
def test_every_condition_must_hold(
    tmp_path: Path, wanted: dict[str, Any], expected: list[int]
) -> None:
    two_ranks(tmp_path)
    assert steps_of(tmp_path, 3, **wanted) == expected


def test_what_lies_far_back_is_found_too(tmp_path: Path) -> None:
    spool(tmp_path, [detection("old"), *(step(n) for n in range(3000))], segment_records=1000)
    follower = SpoolsFollower(places=[tmp_path], wanted=RecordFilter(kinds=("detection",)))
    assert [seen.stored.seq for seen in follower.last(10)] == [1]
    assert steps_of(tmp_path, 2000)[0] == 1000
    assert steps_of(tmp_path, 10**6) == list(range(3000))
    assert steps_of(tmp_path, 0) == []


def test_new_records_rotations_and_new_spools_are_followed(tmp_path: Path) -> None:
    _, writer = spool(tmp_path, [step(0)], close=False, segment_records=3)
    follower = SpoolsFollower(places=[tmp_path], wanted=RecordFilter(kinds=("step",)))

    def new() -> list[int]:
        follower.rescan()
        return [seen.body["step"] for seen in follower.new_records()]

    assert [seen.body["step"] for seen in follower.last(5)] == [0]
    assert new() == []
    append(writer, [step(n) for n in range(1, 11)])
    assert new() == list(range(1, 11))
    other = spools.identity(spools.spool_id(9))
    spool(tmp_path, [step(100), step(101)], who=other)
    append(writer, [step(11)])
    assert new() == [11, 100, 101]
    writer.close()
    assert new() == []
    assert follower.problems == []


@pytest.mark.parametrize(("last", "expected"), [(step(1), 1), (goodbye(), 0)])
def test_an_unclean_exit_is_reported(tmp_path: Path, last: Record, expected: int) -> None:
    killed(tmp_path, [step(0), last])
    follower = SpoolsFollower(places=[tmp_path], wanted=RecordFilter(kinds=("run",)))
    follower.last(1)
    for one in follower._spools.values():
        one.alive = True  # as it was at the last scan
    for _ in range(2):
        follower.rescan()
    assert len(follower.problems) == expected


def test_damage_is_reported_once_and_the_rest_comes(tmp_path: Path) -> None:
    directory, writer = spool(tmp_path, [step(0)], close=False)
    follower = SpoolsFollower(places=[tmp_path], wanted=RecordFilter())
    follower.last(1)
    append(writer, [step(1), step(2), goodbye()])
    log = directory / "00000001.sqlite-wal"
    body = codec.pack(step(1)[1])
    log.write_bytes(log.read_bytes().replace(body, body[:-1] + b"?"))
    assert [seen.stored.seq for seen in follower.new_records()] == [3, 4]
    assert len(follower.problems) == 1
    assert "records 2 to 2 cannot be read (checksum)" in follower.problems[0]
    assert list(follower.new_records()) == []
    writer.close()


def test_a_spool_that_cannot_be_read_is_reported_and_does_not_hide_the_others(
    tmp_path: Path,
) -> None:
    two_ranks(tmp_path)
    bad, _ = spool(tmp_path, [step(1)], who=spools.identity(spools.spool_id(7)))
    (bad / "00000001.sqlite").write_bytes(b"no database" * 100)
    done = lens_ship("tail", str(tmp_path), "-n", "2")
    assert done.out.count("\n") == 2
    assert str(bad) in done.err


# --- as a process ---------------------------------------------------------------------------------


@pytest.fixture
def tailing() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a process that is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        code = "from shipper.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "tail", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=spools.environment(),
            cwd=spools.REPOSITORY,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def test_it_prints_what_is_written_while_it_runs_and_ends_quietly(
    tmp_path: Path, tailing: Callable[..., subprocess.Popen[str]]
) -> None:
    root = tmp_path / "spool"
    root.mkdir()
    process = tailing("-f", "--json", "--kind", "step", root)
    assert process.stderr is not None
    assert "waiting" in process.stderr.readline()
    _, writer = spool(root, [detection(), step(0)], close=False, segment_records=3)
    assert read(process)["body"]["step"] == 0
    for number_ in range(1, 9):
        append(writer, [step(number_)])
        assert read(process)["body"]["step"] == number_
    other = spools.identity(spools.spool_id(9), rank=3)
    spool(root, [step(100)], who=other)
    seen = read(process)
    assert (seen["rank"], seen["body"]["step"]) == (3, 100)
    writer.close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=spools.PATIENCE_SECONDS)
    assert process.returncode == 130
    assert (out, "Traceback" in err) == ("", False)


def test_a_reader_that_goes_away_ends_it_quietly(
    tmp_path: Path, tailing: Callable[..., subprocess.Popen[str]]
) -> None:
    _, writer = spool(tmp_path, [step(0)], close=False)
    process = tailing("-f", "--json", tmp_path)
    read(process)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    append(writer, [step(1)])
    assert process.stderr.read() == ""
    assert process.wait(spools.PATIENCE_SECONDS) == 141
    writer.close()


def test_a_condition_that_no_record_meets_is_said(tmp_path: Path) -> None:
    two_ranks(tmp_path)
    done = lens_ship("tail", str(tmp_path), "--run", "nosuch")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"lens-ship: no matching record at or below {tmp_path}\n"


def test_no_spool_exits_with_1(tmp_path: Path) -> None:
    done = lens_ship("tail", str(tmp_path))
    assert (done.code, done.out) == (1, "")
    assert f"no spool at or below {tmp_path}" in done.err


# --- the line -------------------------------------------------------------------------------------


def seen(record: Record) -> TailRecord:
    (one,) = stored(record)
    found = RecordFilter().match(spools.identity(rank=1), one)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (step(7, a=1, b={"c": float("nan")}), "step 7  a=1 b.c=nan"),
        (step(7, closed=False, x={"_type": "image-file", "w": 3}), "step 7 (part)  x=<image-file>"),
        (("run", {"run": "r", "project": "p", "resumed": True}), "run resumed  project=p"),
        (("finish", {"run": "r", "exit_code": 3, "step": 9}), "finish exit code 3, last step 9"),
        (("exit", {"steps": {"r": 4}}), "exit clean shutdown  r=4"),
        (("gap", {"count": 4, "reason": "cap"}), "gap 4 records dropped: cap"),
        (("detection", {"look": 1, "hints": {"f": ["x"]}}), "detection scan 1  f=['x']"),
        (("report", {"data_type": "L", "data_content": "a\nb"}), "report L  a\\nb"),
        (("of next year", {"colour": "red"}), "of next year colour=red"),
        (("step", {"step": None, "data": 5}), "step step=None data=5"),
        (("gap", {}), "gap (undecodable body)"),
        (
            ("step", {**step(7, a=1, t=50, b=2)[1], "axes": {"t": [None, ["a", "t"]]}}),
            "step 50  a=1 t=50  7  b=2",
        ),
        (("axis", {"run": "r", "name": "*", "step_metric": "t"}), "axis name=* step_metric=t"),
    ],
)
def test_a_record_is_one_line_that_says_what_matters(record: Record, expected: str) -> None:
    text = format_record(seen(record))
    assert text.endswith(expected)
    assert "\n" not in text


def test_nothing_in_a_record_reaches_the_terminal_as_a_command() -> None:
    body = {"run": ESCAPE, "step": ESCAPE, "time": ESCAPE, "data": {ESCAPE: ESCAPE}}
    for kind in ("step", "run", "gap", "report", ESCAPE):
        text = format_record(seen((kind, {**body, "reason": ESCAPE, "data_content": ESCAPE})))
        assert text.isprintable()
        assert "\\x1b[2J" in text


def test_a_line_stays_a_line_however_much_a_step_holds() -> None:
    data = {f"metric/{n}" * 50: "x" * 5000 for n in range(500)}
    text = format_record(seen(step(1, **data)))
    assert len(text) < 40 * 160
    assert text.endswith("… 460 more")


def test_what_json_has_no_place_for_is_put_in_words() -> None:
    value = {"n": float("nan"), "i": float("-inf"), 3: b"xy", "s": "a\ud800", "l": [float("inf")]}
    expected = {"n": "NaN", "i": "-Infinity", "3": {"_type": "bytes", "length": 2}, "s": "a?"}
    assert json_safe(value) == {**expected, "l": ["Infinity"]}


def test_text_is_cut_and_escaped() -> None:
    assert sanitize("a\x1bb\u2028c", 20) == "a\\x1bb\\u2028c"
    assert sanitize("x" * 30, 10) == "x" * 9 + "…"
    assert sanitize("grüße 損失") == "grüße 損失"
    assert [number(v) for v in (3, 0.1 + 0.2, 1e300, 10**400)] == [
        "3",
        "0.3",
        "1e+300",
        str(10**400),
    ]

"""`lens-ship plot`: the curves of a run, whole, from all its processes, in bounded memory."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipper.plot.downsample import KEPT, Curve, pieces
from shipper.plot.plot import Wish, plot
from shipper.plot.series import MOST_CURVES, Course, find_runs, labels, matching
from shipper.plot.terminal import Chart, draw
from spooler.spool.db import open_for_writing
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.shipping import Record, append, finish, spool, step

ESCAPE = "\x1b[2J\x07$\\frac{"


def process(
    root: Path, salt: int, records: list[Record], *, rank: int | None = 0, **more: Any
) -> Path:
    """The spool of one process; a higher salt is a later one."""
    who = spools.identity(spools.spool_id(salt), rank=rank, created=1.7e9 + salt)
    directory, _ = spool(root, records, who=who, **more)
    return directory


def course(root: Path, run: str = "r", **wish: Any) -> Course:
    found, problems = find_runs([root])
    assert problems == []
    one = Course(run, found, **wish)
    one.read()
    return one


def points(one: Course, metric: str = "loss", rank: int | None = 0) -> dict[float, float]:
    curve = one.curves[metric, rank]
    return {s.x: s.low for s in curve.stretches() if s.points}


# --- what counts ----------------------------------------------------------------------------------


def test_every_step_is_a_point_and_parts_of_a_step_are_one(tmp_path: Path) -> None:
    records = [
        step(0, loss=1.0),
        step(1, closed=False, loss=2.0, text="no number", flag=True),
        step(1, loss=3.0, val={"loss": 9.0}),
        step(1, closed=False, loss=4.0),
        step(2, loss=5),
        step(3, run="other", loss=7.0),
    ]
    process(tmp_path, 1, records)
    one = course(tmp_path)
    assert points(one) == {0: 1.0, 1: 4.0, 2: 5.0}
    assert points(one, "val.loss") == {1: 9.0}
    assert one.names() == ["loss", "val.loss"]


def test_a_later_process_counts_where_it_went_over_the_same_steps(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(n, loss=1.0) for n in range(10)])
    process(tmp_path, 2, [step(n, loss=2.0) for n in range(4, 7)])
    process(tmp_path, 3, [step(n, loss=3.0) for n in (6, 12)])
    told = points(course(tmp_path))
    assert told == {
        **dict.fromkeys(range(4), 1.0),
        **dict.fromkeys((4, 5), 2.0),
        6: 3.0,
        12: 3.0,
    }


def test_ranks_have_curves_of_their_own_and_do_not_override_each_other(tmp_path: Path) -> None:
    for rank in (0, 1, 2):
        process(tmp_path, rank, [step(n, loss=float(rank)) for n in range(5)], rank=rank)
    one = course(tmp_path)
    assert labels(list(one.curves)) == {("loss", n): f"loss r{n}" for n in range(3)}
    assert set(course(tmp_path, ranks=(1,)).curves) == {("loss", 1)}
    assert labels([("loss", 1)]) == {("loss", 1): "loss"}


def test_metrics_are_chosen_by_pattern(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(0, **{"loss": 1, "loss/a": 1, "b": {"loss": 1}, "LOSS": 1})])
    assert course(tmp_path, patterns=["loss*"]).names() == ["loss", "loss/a"]
    assert course(tmp_path, patterns=["b.?oss", "LOSS"]).names() == ["LOSS", "b.loss"]


def test_what_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    values = [1.0, 2.0, nan, 3.0, inf, -inf, 4.0, 5.0]
    process(tmp_path, 1, [step(n, loss=value) for n, value in enumerate(values)])
    curve = course(tmp_path).curves["loss", 0]
    assert list(pieces(curve.stretches())) == [
        [(0, 1.0), (1, 2.0)],
        [(3, 3.0)],
        [(6, 4.0), (7, 5.0)],
    ]
    assert (curve.count, curve.bad) == (8, 3)


def test_a_live_run_goes_on_where_it_was(tmp_path: Path) -> None:
    who = spools.identity(rank=0)
    _, writer = spool(tmp_path, [step(0, loss=0.0)], who=who, close=False, segment_records=3)
    one = course(tmp_path)
    for number in range(1, 12):
        append(writer, [step(number, loss=float(number))])
        assert one.read()
    assert not one.read()
    assert points(one) == {float(n): float(n) for n in range(12)}
    writer.close()


def test_damage_costs_its_records_and_is_told(tmp_path: Path) -> None:
    directory = process(tmp_path, 1, [step(n, loss=1.0) for n in range(9)])
    connection = open_for_writing(directory / "00000001.sqlite")
    connection.execute("UPDATE record SET checksum = 0 WHERE seq = 5")
    connection.close()
    one = course(tmp_path)
    assert set(points(one)) == {0, 1, 2, 3, 5, 6, 7, 8}
    assert "records 5 to 5 cannot be read (checksum)" in one.problems[0]


def test_a_run_is_named_by_its_id_or_the_beginning_of_it(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(0, run=name) for name in ("ab", "abc", "x")])
    found, _ = find_runs([tmp_path])
    assert matching(found, "ab") == ["ab"]
    assert matching(found, "a") == ["ab", "abc"]
    assert matching(found, "x") == ["x"]
    assert matching(found, "y") == []


# --- bounded memory -------------------------------------------------------------------------------


def test_a_long_curve_is_thinned_and_keeps_its_spikes_and_its_mean() -> None:
    curve, total = Curve(), 0.0
    numbers = list(range(50_000))
    random.Random(7).shuffle(numbers)
    for number in numbers:
        y = 1e6 if number == 31_234 else -1e6 if number == 40_000 else number / 1000
        total += y
        curve.add(float(number), y)
    stretches = curve.stretches()
    assert len(stretches) <= KEPT
    assert len(curve._stretches) <= 2 * KEPT
    assert sum(s.points for s in stretches) == curve.count == 50_000
    assert math.isclose(sum(s.total for s in stretches), total)
    (line,) = pieces(stretches)
    assert (31_234.0, 1e6) in line
    assert (40_000.0, -1e6) in line
    assert [x for x, _ in line] == sorted(x for x, _ in line)


@given(st.lists(st.tuples(st.integers(-(2**60), 2**60), st.floats(-1e6, 1e6)), max_size=60))
def test_no_point_is_counted_twice_or_lost_whatever_the_steps(
    added: list[tuple[int, float]],
) -> None:
    curve = Curve()
    for x, y in added:
        curve.add(float(x), y)
    for at_most in (1, 7, 1000):
        stretches = curve.stretches(at_most)
        assert len(stretches) <= at_most
        assert sum(s.points for s in stretches) == len(added)
        assert [s.x for s in stretches] == sorted(s.x for s in stretches)


def test_smoothing_is_the_mean_of_so_many_points() -> None:
    curve = Curve()
    for n in range(6):
        curve.add(float(n), float(n))
    (line,) = pieces(curve.stretches(), smooth=3)
    assert [y for _, y in line] == [0, 0.5, 1, 2, 3, 4]


def test_curves_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(0, **{f"m{n:03d}": 1.0 for n in range(MOST_CURVES + 9)})])
    one = course(tmp_path)
    assert len(one.curves) == MOST_CURVES
    assert len(one.left_out) == 9


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0], [5.0] * 9, [-1.0, 1.0], [1e-300, 1e300], [1e308, -1e308], [0.0, -0.0, -3.0], []],
    ids=str,
)
def test_any_values_are_drawn_or_left_out(values: list[float], log: bool) -> None:
    lines = [list(enumerate(values))] if values else []
    text = draw(Chart(title="t", curves={"a": lines}, width=40, height=10, log=log))
    assert 0 < len(text.splitlines()) <= 10
    assert "\x1b" not in text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run of two ranks, and another one."""
    for rank in (0, 1):
        records = [step(n, loss=2.0 - n / 100 + rank, acc=n / 100) for n in range(100)]
        process(tmp_path, rank, [*records, finish()], rank=rank)
    process(tmp_path, 9, [step(0, run="other")])
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], root: Path, **wish: Any) -> tuple[int, str, str]:
    code = plot(Wish(places=(root,), **wish))
    out, err = capsys.readouterr()
    return code, out, err


def test_without_a_run_the_runs_and_without_a_metric_the_metrics_are_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = told(capsys, root)
    assert code == 0
    assert {text.split()[0] for text in out.splitlines()} == {"run", "r", "other"}
    code, out, _ = told(capsys, root, run="r")
    assert code == 0
    assert "loss r1" in out
    assert "in 2 spools" in out


def test_curves_are_drawn_with_what_they_are(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = told(capsys, root, run="r", patterns=("loss", "acc"), sizes=(60, 8))
    assert code == 0
    assert out.count("┌") == 4  # without colours, each has a chart
    assert "loss r0, run r" in out
    assert "x: step" in out
    for x, label in (("time", "x: seconds since"), ("wall", "x: wall clock")):
        code, out, _ = told(capsys, root, run="r", patterns=("loss",), x=x, log=True, smooth=5)
        assert code == 0
        assert label in out


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"run": "zzz"}, "zzz begins the id of no run: there are other, r"),
        ({"run": "r", "patterns": ("nope",)}, "no metric of run r is called nope"),
    ],
)
def test_what_is_not_there_is_told_with_code_1(
    root: Path, capsys: pytest.CaptureFixture[str], wish: dict[str, Any], said: str
) -> None:
    code, out, err = told(capsys, root, **wish)
    assert (code, out) == (1, "")
    assert said in err


def test_an_empty_root_has_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, tmp_path)
    assert code == 1
    assert "no run at or below" in err


def test_json_holds_the_points(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, root, run="r", patterns=("acc",), ranks=(1,), as_json=True)
    (curve,) = json.loads(out)
    assert (code, curve["metric"], curve["rank"], curve["points"]) == (0, "acc", 1, 100)
    assert [s["mean"] for s in curve["stretches"]] == [n / 100 for n in range(100)]


def test_a_picture_is_a_png(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    process(root, 20, [step(n, run="odd", **{"_" + ESCAPE: 1.0 + n}) for n in range(5)])
    for run in ("r", "odd"):
        file = root / f"{run}.png"
        code, out, _ = told(capsys, root, run=run, patterns=("*",), png=file, sizes=(640, 480))
        assert (code, out) == (0, f"{file} written\n")
        raw = file.read_bytes()
        assert raw.startswith(b"\x89PNG")
        assert (int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")) == (640, 480)


def test_a_picture_that_cannot_be_made_says_why(root: Path, tmp_path: Path) -> None:
    words = ("plot", "r", "loss", "--spool", str(root), "--png")
    done = lens_ship(*words, str(tmp_path / "no" / "such.png"))
    assert (done.code, done.out) == (1, "")
    assert "nothing was written" in done.err
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    done = lens_ship(*words, str(tmp_path / "x.png"), PYTHONPATH=str(tmp_path))
    assert done.code == 1
    assert "pip install 'lens-ship[plot]'" in done.err


def test_nothing_that_a_run_says_reaches_the_terminal_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process(tmp_path, 1, [step(n, run=ESCAPE, **{ESCAPE: 1.0 * n}) for n in range(3)])
    for wish in ({}, {"run": "\x1b"}, {"run": "\x1b", "patterns": ("*",)}, {"run": "\x07"}):
        _, out, err = told(capsys, tmp_path, **wish)
        assert not set(out + err) & set("\x1b\x07")


def test_it_draws_anew_as_records_come(tmp_path: Path) -> None:
    _, writer = spool(tmp_path, [step(0, loss=0.0)], close=False)
    code = "from shipper.cli import main; main()"
    words = ["plot", "r", "loss", "-f", "--height", "6", "--spool", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        text=True,
        env=spools.environment(),
        cwd=spools.REPOSITORY,
    ) as running:
        try:
            assert running.stdout is not None
            append(writer, [step(1, loss=1.0)])
            for number in (41, 42):
                append(writer, [step(number, loss=1.0)])
                assert any(f" {number} " in text for text in running.stdout)
            running.send_signal(signal.SIGINT)
            assert running.wait(spools.PATIENCE_SECONDS) == 130
        finally:
            running.kill()
    writer.close()


@pytest.mark.parametrize("words", [["r", "-f"], ["r", "loss", "-f", "--json"], ["r", "--x", "day"]])
def test_options_that_do_not_fit_are_refused(words: list[str], tmp_path: Path) -> None:
    assert lens_ship("plot", *words, "--spool", str(tmp_path)).code == 2

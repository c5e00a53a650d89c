"""`lens-ship plot`: the curves of a run, whole, from all its processes, in bounded memory."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipper.plot.downsample import KEPT, Series
from shipper.plot.plot import PlotOptions, plot
from shipper.plot.series import (
    MAX_SERIES,
    RunSeries,
    find_runs,
    matching_runs,
    read_run,
    series_names,
)
from shipper.plot.terminal import Chart, draw
from spooler.records.axes import STEP_KEYS
from spooler.spool.db import open_for_writing
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.shipping import Record, finish, spool, step

ESCAPE = "\x1b[2J\x07$\\frac{"


def process(
    root: Path, salt: int, records: list[Record], *, rank: int | None = 0, **more: Any
) -> Path:
    """The spool of one process; a higher salt is a later one."""
    who = spools.identity(spools.spool_id(salt), rank=rank, created=1.7e9 + salt)
    directory, _ = spool(root, records, who=who, **more)
    return directory


def read(root: Path, run: str = "r", **options: Any) -> RunSeries:
    found, problems = find_runs([root])
    assert problems == []
    return read_run(run, found, **options)


def metrics(one: RunSeries) -> list[str]:
    return sorted({metric for metric, _ in one.series})


def points(one: RunSeries, metric: str = "loss", rank: int | None = 0) -> dict[float, float]:
    series = one.series[metric, rank]
    return {s.x: s.low for s in series.buckets() if s.points}


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
    one = read(tmp_path)
    assert points(one) == {0: 1.0, 1: 4.0, 2: 5.0}
    assert points(one, "val.loss") == {1: 9.0}
    assert metrics(one) == ["loss", "val.loss"]


def test_a_later_process_counts_where_it_went_over_the_same_steps(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(n, loss=1.0) for n in range(10)])
    process(tmp_path, 2, [step(n, loss=2.0) for n in range(4, 7)])
    process(tmp_path, 3, [step(n, loss=3.0) for n in (6, 12)])
    expected = points(read(tmp_path))
    assert expected == {
        **dict.fromkeys(range(4), 1.0),
        **dict.fromkeys((4, 5), 2.0),
        6: 3.0,
        12: 3.0,
    }


def test_ranks_have_curves_of_their_own_and_do_not_override_each_other(tmp_path: Path) -> None:
    for rank in (0, 1, 2):
        process(tmp_path, rank, [step(n, loss=float(rank)) for n in range(5)], rank=rank)
    one = read(tmp_path)
    assert series_names(list(one.series)) == {("loss", n): f"loss r{n}" for n in range(3)}
    assert set(read(tmp_path, ranks=(1,)).series) == {("loss", 1)}
    assert series_names([("loss", 1)]) == {("loss", 1): "loss"}


def test_metrics_are_chosen_by_pattern(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(0, **{"loss": 1, "loss/a": 1, "b": {"loss": 1}, "LOSS": 1})])
    assert metrics(read(tmp_path, patterns=["loss*"])) == ["loss", "loss/a"]
    assert metrics(read(tmp_path, patterns=["b.?oss", "LOSS"])) == ["LOSS", "b.loss"]


def test_what_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    values = [1.0, 2.0, nan, 3.0, inf, -inf, 4.0, 5.0]
    process(tmp_path, 1, [step(n, loss=value) for n, value in enumerate(values)])
    series = read(tmp_path).series["loss", 0]
    assert series.lines() == [
        [(0, 1.0), (1, 2.0)],
        [(3, 3.0)],
        [(6, 4.0), (7, 5.0)],
    ]
    assert (series.count, series.bad) == (8, 3)


def test_damage_costs_its_records_and_is_reported(tmp_path: Path) -> None:
    directory = process(tmp_path, 1, [step(n, loss=1.0) for n in range(9)])
    connection = open_for_writing(directory / "00000001.sqlite")
    connection.execute("UPDATE record SET checksum = 0 WHERE seq = 5")
    connection.close()
    one = read(tmp_path)
    assert set(points(one)) == {0, 1, 2, 3, 5, 6, 7, 8}
    assert "records 5 to 5 cannot be read (checksum)" in one.problems[0]


def test_a_run_is_named_by_its_id_or_the_beginning_of_it(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(0, run=name) for name in ("ab", "abc", "x")])
    found, _ = find_runs([tmp_path])
    assert matching_runs(found, "ab") == ["ab"]
    assert matching_runs(found, "a") == ["ab", "abc"]
    assert matching_runs(found, "x") == ["x"]
    assert matching_runs(found, "y") == []


# --- bounded memory -------------------------------------------------------------------------------


def test_a_long_series_is_downsampled_and_keeps_its_spikes_and_its_mean() -> None:
    series, total = Series(), 0.0
    numbers = list(range(50_000))
    random.Random(7).shuffle(numbers)
    for number in numbers:
        y = 1e6 if number == 31_234 else -1e6 if number == 40_000 else number / 1000
        total += y
        series.add(float(number), y)
    buckets = series.buckets()
    assert len(buckets) <= KEPT
    assert len(series._buckets) <= 2 * KEPT
    assert sum(s.points for s in buckets) == series.count == 50_000
    assert math.isclose(sum(s.total for s in buckets), total)
    (line,) = series.lines()
    assert (31_234.0, 1e6) in line
    assert (40_000.0, -1e6) in line
    assert [x for x, _ in line] == sorted(x for x, _ in line)


@given(st.lists(st.tuples(st.integers(-(2**60), 2**60), st.floats(-1e6, 1e6)), max_size=60))
def test_no_point_is_counted_twice_or_lost_whatever_the_steps(
    added: list[tuple[int, float]],
) -> None:
    series = Series()
    for x, y in added:
        series.add(float(x), y)
    for at_most in (1, 7, 1000):
        buckets = series.buckets(at_most)
        assert len(buckets) <= at_most
        assert sum(s.points for s in buckets) == len(added)
        assert [s.x for s in buckets] == sorted(s.x for s in buckets)


def test_curves_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    process(tmp_path, 1, [step(0, **{f"m{n:03d}": 1.0 for n in range(MAX_SERIES + 9)})])
    one = read(tmp_path)
    assert len(one.series) == MAX_SERIES
    assert len(one.omitted) == 9


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0], [5.0] * 9, [-1.0, 1.0], [1e-300, 1e300], [1e308, -1e308], [0.0, -0.0, -3.0], []],
    ids=str,
)
def test_any_values_are_drawn_or_omitted(values: list[float], log: bool) -> None:
    lines = [list(enumerate(values))] if values else []
    text = draw(Chart(title="t", series={"a": lines}, width=40, height=10, log=log))
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


def run_plot(
    capsys: pytest.CaptureFixture[str], root: Path, **options: Any
) -> tuple[int, str, str]:
    code = plot(PlotOptions(places=(root,), **options))
    out, err = capsys.readouterr()
    return code, out, err


def test_without_a_run_the_runs_and_without_a_metric_the_metrics_are_listed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_plot(capsys, root)
    assert code == 0
    assert {text.split()[0] for text in out.splitlines()} == {"run", "r", "other"}
    code, out, _ = run_plot(capsys, root, run="r")
    assert code == 0
    assert "loss r1" in out
    assert "in 2 spools" in out


def test_curves_are_drawn_with_a_title_and_a_table(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_plot(capsys, root, run="r", patterns=("loss", "acc"), width=60, height=8)
    assert code == 0
    assert out.count("┌") == 4  # without colours, each has a chart
    assert "loss r0, run r" in out
    assert "x: step" in out
    code, out, _ = run_plot(capsys, root, run="r", patterns=("loss",), by_time=True, log=True)
    assert code == 0
    assert "x: seconds since" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"run": "zzz"}, "no run begins with zzz, runs: other, r"),
        ({"run": "r", "patterns": ("nope",)}, "run r has no metric nope"),
    ],
)
def test_what_is_not_there_exits_with_1(
    root: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], said: str
) -> None:
    code, out, err = run_plot(capsys, root, **options)
    assert (code, out) == (1, "")
    assert said in err


def test_an_empty_root_has_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_plot(capsys, tmp_path)
    assert code == 1
    assert "no run at or below" in err


def test_json_holds_the_points(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_plot(capsys, root, run="r", patterns=("acc",), ranks=(1,), as_json=True)
    (series,) = json.loads(out)
    assert (code, series["metric"], series["rank"], series["points"]) == (0, "acc", 1, 100)
    assert [s["mean"] for s in series["buckets"]] == [n / 100 for n in range(100)]


def test_nothing_that_a_run_says_reaches_the_terminal_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process(tmp_path, 1, [step(n, run=ESCAPE, **{ESCAPE: 1.0 * n}) for n in range(3)])
    for options in ({}, {"run": "\x1b"}, {"run": "\x1b", "patterns": ("*",)}, {"run": "\x07"}):
        _, out, err = run_plot(capsys, tmp_path, **options)
        assert not set(out + err) & set("\x1b\x07")


@pytest.mark.parametrize("words", [["r", "--x", "day"], ["r", "--width", "1"]])
def test_options_that_do_not_fit_are_refused(words: list[str], tmp_path: Path) -> None:
    assert lens_ship("plot", *words, "--spool", str(tmp_path)).code == 2


@pytest.mark.parametrize("keys", [STEP_KEYS, ("mine",), ()])
def test_a_curve_is_over_the_steps_that_the_receiver_shows(
    tmp_path: Path, keys: tuple[str, ...]
) -> None:
    process(tmp_path, 1, [step(n, loss=1.0, global_step=n * 10, mine=n * 7) for n in range(4)])
    width = {STEP_KEYS: 10, ("mine",): 7, (): 1}[keys]
    assert [*points(read(tmp_path, step_keys=keys))] == [n * width for n in range(4)]


def test_lines_keep_their_gaps_and_ticks_their_places() -> None:
    lines = [[(0.0, 0.0), (10.0, 10.0)], [(30.0, 0.0), (40.0, 10.0)]]
    rows = draw(Chart(title="t", series={"a": lines}, width=44, height=9, mark=20)).splitlines()
    inside = [row.partition("┤" if "┤" in row else "│")[2].rstrip("│") for row in rows[2:-2]]
    assert [row[len(row) // 2] for row in inside] == ["┊"] * 5
    assert {row[13:26].replace("┊", " ") for row in inside} == {" " * 13}
    assert rows[2].startswith("10┤")
    assert rows[-3].startswith(" 0┤")
    assert rows[-2].count("┬") == 5
    assert rows[-1].split() == ["0", "10", "20", "30", "40"]


def test_coloured_lines_have_a_legend_in_the_same_colours() -> None:
    series = {name: [[(0.0, 1.0 * n), (1.0, 1.0 * n)]] for n, name in enumerate("ab")}
    *rows, legend = draw(
        Chart(title="t", series=series, width=30, height=8, colours=True)
    ).splitlines()
    assert len(rows) == 7
    colour = re.findall(r"\x1b\[(\d+)m⠒⠒\x1b\[0m ([ab])", legend)
    assert [name for _, name in colour] == ["a", "b"]
    assert f"\x1b[{colour[1][0]}m" in rows[2]  # b is above a
    assert f"\x1b[{colour[0][0]}m" in rows[-3]


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e308, 1e308)),
        min_size=1,
        max_size=5,
    ),
    st.integers(20, 90),
    st.integers(5, 20),
    st.booleans(),
)
def test_a_chart_has_its_size_whatever_the_values(
    line: list[tuple[float, float]], width: int, height: int, log: bool
) -> None:
    text = draw(Chart(title="t" * 99, series={"a": [line]}, width=width, height=height, log=log))
    rows = text.split("\n")
    assert len(rows) == height
    assert max(len(row) for row in rows) <= width

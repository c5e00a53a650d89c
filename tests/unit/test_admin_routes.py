"""What the page shows: an hour of samples, and curves that keep their peaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shipper.admin.curves import POINTS, Curves
from shipper.admin.history import SAMPLES, StatusHistory
from shipper.plot.downsample import Series
from shipper.status.model import DiskStatus, SinkStatus, SpoolStatus, Status
from tests.kit import shipping
from tests.kit.shipping import Record, step

NOTHING = Status(
    time=0.0,
    root="/spool",
    state="/state",
    running=True,
    heartbeat=None,
    disk=DiskStatus(),
    spools=(),
    sinks=(SinkStatus(sink="processor"),),
)


def test_the_history_is_an_hour_and_no_more() -> None:
    history = StatusHistory()
    for number in range(SAMPLES + 50):
        sink = SinkStatus(sink="processor", delivered=number * 30)
        history.add(replace(NOTHING, time=number * 10.0, sinks=(sink,)))
    columns = history.to_map()
    assert {len(column) for column in columns.values()} == {SAMPLES}
    assert columns["time"][-1] - columns["time"][0] == (SAMPLES - 1) * 10.0
    assert set(columns["rate"]) == {3.0}


def test_a_count_that_goes_back_is_no_negative_rate() -> None:
    history = StatusHistory()
    for delivered in (100, 0):
        sink = SinkStatus(sink="processor", delivered=delivered)
        history.add(replace(NOTHING, time=200.0 - delivered, sinks=(sink,)))
    assert history.to_map()["rate"] == [0.0, 0.0]


@pytest.mark.parametrize("count", [1, POINTS, POINTS + 1, 5000])
def test_downsampling_keeps_order_ends_and_peaks(count: int) -> None:
    points = [(float(n), float((n * 7919) % 1000)) for n in range(count)]
    points[count // 2] = (count // 2, 5000.0)
    series = Series()
    for x, y in points:
        series.add(x, y)
    kept = series.points(POINTS)
    assert len(kept) <= POINTS
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert kept[-1] == points[-1]
    assert (count // 2, 5000.0) in kept


def live(root: Path, records: list[Record]) -> Status:
    directory, writer = shipping.spool(root, records)
    spool = SpoolStatus(
        spool=directory.name, directory=str(directory), state="writing", written=len(records)
    )
    assert writer
    return replace(NOTHING, spools=(spool,))


@pytest.mark.parametrize(
    ("names", "metric"),
    [
        (["loss", "train/loss", "val/loss"], "loss"),
        (["val/loss", "train/loss"], "train/loss"),
        (["eval.Loss_total", "lr"], "eval.Loss_total"),
    ],
)
def test_the_curve_is_of_what_is_most_likely_the_loss(
    tmp_path: Path, names: list[str], metric: str
) -> None:
    records = [step(n, **dict.fromkeys(names, float(n))) for n in range(3)]
    (curve,) = Curves().of(live(tmp_path, records))
    assert (curve["metric"], curve["points"]) == (metric, [(0, 0.0), (1, 1.0), (2, 2.0)])


def test_a_spool_that_is_not_reported_has_a_curve(tmp_path: Path) -> None:
    status = live(tmp_path, [step(n) for n in range(3)])
    disabled = replace(status, spools=(replace(status.spools[0], state="disabled"),))
    assert len(Curves().of(disabled)) == 1


def test_of_a_workload_the_lowest_rank_that_logs_has_a_curve(tmp_path: Path) -> None:
    """Megatron-LM logs on the last rank, and collectors report on every rank."""
    ranks: list[list[Record]] = [
        [("report", {"time": 1.0})] * 3,
        [step(n, lr=1.0) for n in range(3)],
        *([step(n) for n in range(3)] for _ in range(2)),
    ]
    spools = [
        replace(live(tmp_path / str(rank), records).spools[0], workload="w", rank=rank)
        for rank, records in enumerate(ranks)
    ]
    named = [replace(one, spool=f"{one.rank}") for one in spools]
    (curve,) = Curves().of(replace(NOTHING, spools=tuple(named)))
    assert (curve["rank"], curve["metric"]) == (2, "loss")


def test_a_run_without_a_loss_has_no_curve(tmp_path: Path) -> None:
    records = [step(n, lr=0.1, note="loss", broken=float("nan")) for n in range(3)]
    assert Curves().of(live(tmp_path, records)) == []


def test_a_spool_that_cannot_be_read_has_no_curve(tmp_path: Path) -> None:
    status = live(tmp_path, [step(n) for n in range(3)])
    for path in tmp_path.rglob("*.sqlite"):
        path.write_bytes(b"x" * 5000)
    assert Curves().of(status) == []

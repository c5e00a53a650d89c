"""wandb's own run files: what was logged comes back, from every version, whole, cut or damaged."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shipper.delivery.pipeline import DeliveryContext, Pipeline
from shipper.delivery.readable import ClosedRange
from shipper.importers import SourceInfo, open_imports
from shipper.importers.wandb_run import WandbFile
from shipper.ledger.ledger import Ledger
from shipper.sinks.options import from_settings
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.client import ProcessorClient
from shipper.sinks.processor.metrics import MetricsSink
from shipper.steps import collect_steps
from spooler.errors import NewerFormat, NotASpool
from spooler.records.values import plain
from tests.kit import spools
from tests.kit.delivery import settings
from tests.kit.foreign import (
    WANDB_HEADER,
    history,
    is_same,
    item,
    log,
    put,
    read_all,
    run_record,
    steps,
    wandb_file,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "wandb-run"
OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "PRIMUS_LENS_WANDB_HOOK": "false",
}
QUIET = "wandb.Settings(x_disable_stats=True, x_disable_meta=True, **more)"

EVERYTHING = f"""
import json, sys, wandb
more = json.loads(sys.argv[1])
run = wandb.init(id="r1", project="p", name="n", settings={QUIET})
run.log({{"loss": 0.1, "n": 7, "big": 2**53 + 1, "neg": -3}})
run.log({{"a": {{"b": {{"c": 1.5}}, "d/e": 2}}, "dot.ted": 3}})
run.log({{"nan": float("nan"), "inf": float("inf"), "ninf": -float("inf"), "in": [float("nan")]}})
run.log({{"x": 1}}, commit=False)
run.log({{"y": 2, "x": 3}})
run.log({{"text": "ü — 損失", "none": None, "flag": False, "list": [1, [2.5, "b"]]}})
run.log({{"z": 1}}, step=50)
run.log({{"w": 2}}, step=50)
run.log({{"v": 3}})
run.log({{"h": wandb.Histogram([1, 2]), "html": wandb.Html("<p>")}})
run.log({{"t": wandb.Table(columns=["a"], data=[[1]])}})
run.log({{}})
run.log({{"_primus_gpu_0": 1.0, "_own": 2}})
for number in range(3000):
    run.log({{"curve": number / 7, "nested": {{"n": number}}}})
run.log({{"open": 1}}, commit=False)
run.finish(exit_code=4)
"""


def expected_of_everything() -> list[tuple[int, Any]]:
    """What EVERYTHING logs, in wandb's numbers."""
    histogram, html, table = (
        {"_type": kind, "class": f"wandb.sdk.data_types.{name}"}
        for kind, name in (
            ("histogram", "histogram.Histogram"),
            ("html-file", "html.Html"),
            ("table", "table.Table"),
        )
    )
    nan, inf = float("nan"), float("inf")
    return [
        (0, {"loss": 0.1, "n": 7, "big": 2**53 + 1, "neg": -3}),
        (1, {"a": {"b": {"c": 1.5}, "d/e": 2}, "dot.ted": 3}),
        (2, {"nan": nan, "inf": inf, "ninf": -inf, "in": [nan]}),
        (3, {"x": 3, "y": 2}),
        (4, {"text": "ü — 損失", "none": None, "flag": False, "list": [1, [2.5, "b"]]}),
        (50, {"z": 1, "w": 2, "v": 3}),
        (51, {"h": histogram, "html": html}),
        (52, {"t": table}),
        (53, {}),
        (54, {"_primus_gpu_0": 1.0, "_own": 2}),
        *((55 + n, {"curve": n / 7, "nested": {"n": n}}) for n in range(3000)),
        (3055, {"open": 1}),
    ]


def run_wandb(folder: Path, code: str, **more: Any) -> WandbFile:
    """Run `code` with wandb offline in a process of its own; its run file."""
    done = spools.python(code, json.dumps(more), WANDB_DIR=str(folder), **OFFLINE)
    assert done.returncode == 0, done.stderr
    (one,) = open_imports(folder)
    assert isinstance(one, WandbFile)
    return one


# --- real runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "json,typed"])
def test_everything_that_was_logged_comes_back(tmp_path: Path, encoding: str) -> None:
    one = run_wandb(tmp_path, EVERYTHING, x_history_value_encoding=encoding)
    found = read_all(one, limit=500)
    assert found.damage == ()
    got, expected = steps(found), expected_of_everything()
    assert [number for number, _ in got] == [number for number, _ in expected]
    for (number, values), (_, logged) in zip(got, expected, strict=True):
        assert is_same(values, logged), number
    (begun,), (ended,) = found.bodies("run"), found.bodies("finish")
    assert {name: begun[name] for name in ("run", "project", "name", "mode")} == {
        "run": "r1",
        "project": "p",
        "name": "n",
        "mode": "offline",
    }
    assert (ended["step"], ended["exit_code"]) == (3055, 4)
    times = [body["time"] for body in found.bodies("step")]
    assert times == sorted(times)
    assert begun["time"] <= times[0]
    assert one.identity().created == begun["time"]
    assert one.spool.startswith("import-wandb-r1-")


def test_media_have_the_placeholder_that_the_hook_makes(tmp_path: Path) -> None:
    code = """
import json, wandb
from spooler.records.values import plain
print(json.dumps([plain(wandb.Histogram([1])), plain(wandb.Html("x")),
                  plain(wandb.Table(columns=["a"], data=[[1]]))]))
"""
    made = spools.answer(spools.python(code, **OFFLINE))
    logged = dict(expected_of_everything())
    assert made == [logged[51]["h"], logged[51]["html"], logged[52]["t"]]
    assert plain(object())["_type"] == "object"


KILLED = f"""
import glob, os, sys, wandb
more = {{}}
run = wandb.init(id="r1", project="p", settings={QUIET})
while not (files := glob.glob(os.environ["WANDB_DIR"] + "/wandb/offline-run-*/run-*.wandb")):
    pass
(file,) = files
number = 0
while os.path.getsize(file) < 200_000:
    run.log({{"n": number, "x": number / 7}})
    number += 1
children = open(f"/proc/self/task/{{os.getpid()}}/children").read()
print(number, children, flush=True)
sys.stdin.read()
"""


@pytest.mark.promise("G13")
def test_a_killed_run_has_all_steps_up_to_its_last_whole_record(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env=spools.environment(WANDB_DIR=str(tmp_path), **OFFLINE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        logged, *children = map(int, child.stdout.readline().split())
        (one,) = open_imports(tmp_path)
        alive = read_all(one, limit=500)
        for pid in [*children, child.pid]:
            os.kill(pid, signal.SIGKILL)
        child.wait(spools.PATIENCE_SECONDS)
    found = read_all(one, limit=500)
    assert found.damage == alive.damage == ()
    assert found.records[: len(alive.records)] == alive.records
    count = len(steps(found))
    assert 100 < count <= logged
    assert steps(found) == [(n, {"n": n, "x": n / 7}) for n in range(count)]


def test_our_field_numbers_are_those_of_the_installed_wandb() -> None:
    code = """
import json
from wandb.proto import wandb_internal_pb2 as pb, wandb_telemetry_pb2 as tb
names = ["Record", "HistoryRecord", "HistoryStep", "HistoryItem", "RunRecord", "RunExitRecord"]
known = {n: {f.name: f.number for f in getattr(pb, n).DESCRIPTOR.fields} for n in names}
known["Telemetry"] = {f.name: f.number for f in tb.TelemetryRecord.DESCRIPTOR.fields}
print(json.dumps(known))
"""
    known = spools.answer(spools.python(code, **OFFLINE))
    expected = {
        "Record": {"history": 2, "run": 17, "exit": 18, "final": 20, "header": 21, "footer": 22},
        "HistoryRecord": {"item": 1, "step": 2},
        "HistoryStep": {"num": 1},
        "HistoryItem": {"key": 1, "nested_key": 2, "value_json": 16},
        "RunExitRecord": {"exit_code": 1},
        "Telemetry": {"cli_version": 5},
    }
    for message, numbers in expected.items():
        assert {name: known[message].get(name) for name in numbers} == numbers


# --- one file of each version ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.16.0", "0.19.0", "0.22.0", "0.31.0"])
def test_the_files_of_all_versions(version: str) -> None:
    expected = json.loads((GOLDEN / f"run-{version}.json").read_text("utf-8"))
    file = GOLDEN / f"run-{version}.wandb"
    assert file.stat().st_size < 20_000
    found = read_all(open_imports(file)[0])
    assert found.damage == ()
    assert is_same(steps(found), expected["steps"])
    (begun,), (ended,) = found.bodies("run"), found.bodies("finish")
    assert {name: begun[name] for name in expected["run"]} == expected["run"]
    assert {name: ended[name] for name in expected["finish"]} == expected["finish"]
    assert found.records[-1].kind == "finish"


@pytest.mark.parametrize("version", ["0.16.0", "0.19.0", "0.22.0", "0.31.0"])
def test_a_copy_cut_at_any_byte_has_the_first_records(version: str, tmp_path: Path) -> None:
    """Reading on as the file grows gives the same as reading it from the start."""
    raw = (GOLDEN / f"run-{version}.wandb").read_bytes()
    path = tmp_path / "run-r.wandb"
    path.write_bytes(raw)
    whole = read_all(WandbFile(path, SourceInfo())).records
    growing, got = WandbFile(path, SourceInfo()), list[Any]()
    path.write_bytes(b"")
    for end in range(len(raw) + 1):
        with path.open("ab") as file:
            file.write(raw[end - 1 : end])
        chunk = growing.read(len(got), 500)
        assert chunk.damage == ()
        got += chunk.records
        if end % 41 == 0:
            fresh = read_all(WandbFile(path, SourceInfo()), limit=500)
            assert fresh.damage == ()
            assert list(fresh.records) == got
    assert tuple(got) == whole


def test_a_flipped_bit_costs_one_record_and_is_reported(tmp_path: Path) -> None:
    one = wandb_file(tmp_path / "run-r1.wandb", 12)
    raw, whole = one.path.read_bytes(), steps(read_all(one))
    last = len(raw) - 7 - len(put(18, put(1, 0)))
    for offset in range(len(WANDB_HEADER), last):
        flipped = bytearray(raw)
        flipped[offset] ^= 1 << offset % 8
        one.path.write_bytes(flipped)
        found = read_all(WandbFile(one.path, SourceInfo()))
        got = steps(found)
        assert all(step in whole for step in got)
        assert len(got) >= len(whole) - 1
        assert len(found.damage) == 1
        assert found.damage[0].reason.startswith("record at byte ")
        assert found.records[-1].kind == "finish"


# --- what wandb's service might write, made by hand -----------------------------------------------


def made(tmp_path: Path, *records: bytes) -> WandbFile:
    path = tmp_path / "run-named.wandb"
    path.write_bytes(log(records))
    return WandbFile(path, SourceInfo())


def test_typed_values_alone_are_enough(tmp_path: Path) -> None:
    typed = [
        put(1, "i") + put(5, 7),  # zigzag of -4
        put(1, "big") + put(5, 2**64 - 1),
        put(1, "f") + put(6, 0.1),
        put(1, "t") + put(7, "ü"),
        put(1, "b") + put(4, 1),
        put(1, "n") + put(3, 0),
        put(1, "l") + put(8, "[1, NaN]"),
        put(2, "a") + put(2, "b") + put(5, 2),
        put(1, "_step") + put(5, 18),
    ]
    record = put(2, b"".join(put(1, one) for one in typed))
    ((number, values),) = steps(read_all(made(tmp_path, record)))
    expected = {"i": -4, "big": -(2**63), "f": 0.1, "t": "ü", "b": True, "n": None}
    assert number == 9
    assert is_same(values, {**expected, "l": [1, float("nan")], "a": {"b": 1}})


def test_steps_without_a_number_follow_the_last(tmp_path: Path) -> None:
    bare = put(2, item("x", 1))
    numbered = put(2, item("x", 2) + put(2, put(1, 7)))
    found = read_all(made(tmp_path, run_record(), bare, bare, numbered, bare))
    assert [number for number, _ in steps(found)] == [0, 1, 7, 8]
    begun, *later = [round(body["time"] * 1000) for body in found.bodies("step")]
    assert begun == 1700000000000
    assert later == sorted(set(later))
    assert begun < later[-1] < begun + 10


def test_a_run_that_went_on_from_another_counts_on(tmp_path: Path) -> None:
    resumed = put(17, put(1, "r1") + put(14, 400) + put(18, 1))
    found = read_all(made(tmp_path, resumed, put(2, item("x", 1))))
    assert steps(found) == [(400, {"x": 1})]
    assert found.bodies("run")[0]["resumed"] is True


def test_the_run_is_announced_once(tmp_path: Path) -> None:
    found = read_all(made(tmp_path, run_record(), history(0), run_record("r1"), history(1)))
    assert [stored.kind for stored in found.records] == ["run", "step", "step"]


def test_without_a_run_record_the_file_name_tells(tmp_path: Path) -> None:
    assert read_all(made(tmp_path, history(0))).bodies("step")[0]["run"] == "named"


def test_requests_and_summaries_are_no_steps(tmp_path: Path) -> None:
    partial = put(100, put(10, item("x", 1)))
    summary = put(3, item("x", 1))
    found = read_all(made(tmp_path, run_record(), partial, summary, history(0, x=1)))
    assert steps(found) == [(0, {"x": 1})]


def test_a_name_in_the_way_of_a_nested_one(tmp_path: Path) -> None:
    nested = put(2, "a") + put(2, "b") + put(16, "2")
    record = put(2, put(1, put(1, "a") + put(16, "1")) + put(1, nested))
    assert steps(read_all(made(tmp_path, record)))[0][1] == {"a": 1, "a.b": 2}


@pytest.mark.parametrize("bad", ["", "{", "nul", "[" * 10**5, "9" * 5000])
def test_a_value_that_is_no_json_keeps_its_step(tmp_path: Path, bad: str) -> None:
    broken = put(1, put(1, "bad") + put(16, bad))
    found = read_all(made(tmp_path, put(2, broken + item("x", 1))))
    ((_, values),) = steps(found)
    assert values["x"] == 1
    assert values["bad"]["_type"] == "error"


def test_a_record_that_is_no_message_is_damage(tmp_path: Path) -> None:
    found = read_all(made(tmp_path, history(0), b"\xff\xff", put(2, b"\x0a\x7f"), history(1)))
    assert [number for number, _ in steps(found)] == [0, 1]
    assert [damage.first for damage in found.damage] == [2, 3]
    assert "not a message of wandb's" in found.damage[0].reason


def test_a_map_nested_without_end_is_cut(tmp_path: Path) -> None:
    deep = put(1, b"".join(put(2, "a") for _ in range(3000)) + put(16, "1"))
    found = read_all(made(tmp_path, put(2, deep + item("x", 1))))
    assert steps(found)[0][1]["x"] == 1
    assert collect_steps(found.records).rejected == ()


# --- files that are none --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "error", "match"),
    [
        (gzip.compress(log([history(0)]), mtime=0), NotASpool, "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd\x00\x00\x00\x00", NotASpool, "compressed with zstd"),
        (WANDB_HEADER[:-1] + b"\x01", NewerFormat, "version 1"),
        (b"hello", NotASpool, "not a run file"),
        (b":W&C\xe1\xbe\x00", NotASpool, "not a run file"),
    ],
)
def test_another_kind_of_file_is_named(
    tmp_path: Path, raw: bytes, error: type[Exception], match: str
) -> None:
    path = tmp_path / "run-r.wandb"
    path.write_bytes(raw)
    (one,) = open_imports(path)
    for call in (one.identity, one.last_seq, lambda: one.read(0, 5)):
        with pytest.raises(error, match=rf"run-r\.wandb.*{match}"):
            call()


def test_folders_are_searched_and_links_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "node" / "wandb" / "offline-run-20240102_030405-r1"
    folder.mkdir(parents=True)
    one = wandb_file(folder / "run-r1.wandb", 2)
    os.symlink(folder, folder.parent / "latest-run")
    shutil.copy(one.path, folder / "notes.wandb")
    (found,) = open_imports(tmp_path)
    assert found.path == one.path
    assert read_all(found).bodies("run")[0]["mode"] == "offline"
    assert open_imports(folder / "notes.wandb")[0].spool != found.spool


# --- on the way out -------------------------------------------------------------------------------


class _Taken:
    """An address that takes everything."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def send(self, _identity: Any, path: str, body: bytes, *_: Any, **__: Any) -> Outcome:
        self.bodies.append((path, json.loads(body)))
        return Outcome(disposition=Disposition.DELIVERED, reason="delivered")


def test_the_records_go_through_a_route_like_live_ones(tmp_path: Path) -> None:
    folder = tmp_path / "wandb"
    folder.mkdir()
    wandb_file(folder / "run-r1.wandb", 1234)
    (one,) = open_imports(folder, workload_uid="w-1", pod_name="p-1")
    sent, config = _Taken(), settings(folder, tmp_path / "state", "http://127.0.0.1:1")
    ledger, who = Ledger(tmp_path / "state"), one.identity()
    options = from_settings(MetricsSink.Options, config)
    route = Pipeline(
        reader=ClosedRange(reader=one, through=one.last_seq()),
        identity=who,
        sink=MetricsSink("processor", options, {(ProcessorClient, options.http()): sent}),
        context=DeliveryContext(ledger=ledger, config=config),
        closed=True,
    )
    progress = route.turn(now=lambda: 0.0, until=1.0, owned=one.is_owned(), flush_all=False)
    assert progress.at_end
    assert progress.failure is None
    points = [point for _, body in sent.bodies for point in body["metrics"]]
    assert [point["step"] for point in points] == list(range(1234))
    assert [point["value"] for point in points] == [number / 3 for number in range(1234)]
    assert {(body["workload_uid"], body["run_id"]) for _, body in sent.bodies} == {("w-1", "r1")}
    assert ledger.position(one.spool, "processor").seq == one.last_seq() == 1236
    assert route.turn(now=lambda: 0.0, until=1.0, owned=False, flush_all=False).at_end
    ledger.close()


def test_damage_on_the_way_out_is_noted_and_passed(tmp_path: Path) -> None:
    one = wandb_file(tmp_path / "run-r1.wandb", 100)
    raw = bytearray(one.path.read_bytes())
    for offset in random.Random(3).sample(range(200, len(raw) - 200), 5):
        raw[offset] ^= 1
    one.path.write_bytes(raw)
    found = read_all(one)
    collected = collect_steps(found.records)
    assert collected.open == collected.rejected == ()
    assert 95 <= len(collected.complete) == len(steps(found)) < 100
    assert 1 <= len(found.damage) <= 5

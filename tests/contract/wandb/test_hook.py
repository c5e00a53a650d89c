"""The hook against real wandb, offline: every accepted call is recorded as wandb itself stores it.

The programs are in `scenario.py`. They run in the interpreter that `LENS_SHIP_TEST_PYTHON` names,
so that the same claims can be put to other versions of wandb; by default in the one of the tests.
wandb's own file is the measure: what it has stored of a run, step by step, is what we must have.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2 as pb

from spooler.records import step
from tests.kit import spools

PYTHON = os.environ.get("LENS_SHIP_TEST_PYTHON", sys.executable)
SCENARIO = Path(__file__).with_name("scenario.py")
PTH = spools.REPOSITORY / "packaging" / "lens_ship.pth"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One program's run: what it reported, what we recorded, what wandb stored."""

    report: dict[str, Any]
    code: int
    said: list[str]  # our lines on stderr
    root: Path
    wandb: Path
    spools: list[Path]

    def records(self, pid: int | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Kind and body of everything recorded, of one process where there are more."""
        if pid is None:
            (directory,) = self.spools
        else:
            (directory,) = [
                path for path in self.spools if spools.Reader(path).identity().pid == pid
            ]
        found = spools.read_whole(directory).records
        return [(stored.kind, spools.codec.unpack(stored.body)) for stored in found]

    def kinds(self, run: str) -> list[str]:
        return [k for k, body in self.records() if body.get("run") == run and k != "detection"]

    def one(self, kind: str, run: str) -> dict[str, Any]:
        """The only record of this kind for this run."""
        (body,) = [body for k, body in self.records() if k == kind and body["run"] == run]
        return body

    def steps(self, run: str, pid: int | None = None) -> dict[int, dict[str, Any]]:
        """Our steps of a run, their parts merged, names flattened."""
        merged: dict[int, dict[str, Any]] = {}
        for kind, body in self.records(pid):
            if kind == "step" and body["run"] == run:
                merged.setdefault(body["step"], {}).update(step.flatten(body["data"]))
        return merged

    def stored(self, run: str) -> dict[int, dict[str, Any]]:
        """Wandb's steps of a run: a LevelDB log of protobuf records, names flattened."""
        (path,) = self.wandb.glob(f"wandb/offline-run-*/run-{run}.wandb")
        rows: dict[int, dict[str, Any]] = {}
        for raw in _chunks(path.read_bytes()):
            record = pb.Record()
            record.ParseFromString(raw)
            if record.WhichOneof("record_type") != "history":
                continue
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, name = item.nested_key or [item.key]
                place = row
                for key in outer:
                    place = place.setdefault(key, {})
                place[name] = json.loads(item.value_json)
            number = row.pop("_step")
            rows[number] = {
                name: value
                for name, value in step.flatten(row).items()
                if name not in ("_timestamp", "_runtime")
            }
        return rows


def _chunks(raw: bytes) -> Iterator[bytes]:
    at, whole = 7, b""
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _crc, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            yield whole
            whole = b""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Runs a program once, however many tests ask for it."""
    done: dict[str, Ran] = {}

    def run(name: str, **environ: str) -> Ran:
        key = json.dumps([name, environ])
        if key not in done:
            done[key] = _run(tmp_path_factory.mktemp(name), name, environ)
        return done[key]

    return run


def _run(place: Path, name: str, environ: dict[str, str]) -> Ran:
    root, files, report = place / "spool", place / "files", place / "report.json"
    files.mkdir()
    if name == "unwritable":
        root.write_text("a file where the folder should be")
    site = place / "site"
    site.mkdir()
    if name == "plain":
        (site / "sitecustomize.py").write_text(PTH.read_text(encoding="utf-8"))
    known = {
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": None if name == "adopt" else str(root),
        "LATE_OUTPUT_PATH": str(root),
        "WORKLOAD_UID": "workload-1",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(files),
        "WANDB_CACHE_DIR": str(place / "cache"),
        "WANDB_DISABLE_GIT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONPATH": str(site),
    }
    with (place / "stderr").open("w+", encoding="utf-8") as stderr:
        ended = subprocess.run(
            [PYTHON, str(SCENARIO), name, str(report)],
            env=spools.environment(**{**known, **environ}),
            cwd=place,
            stdout=stderr,
            stderr=stderr,
            timeout=spools.PATIENCE_SECONDS * 2,
            check=False,
        )
        stderr.seek(0)
        said = stderr.read()
    assert report.exists(), said
    assert ended.returncode == (3 if name == "plain" else 0), said
    return Ran(
        report=json.loads(report.read_text(encoding="utf-8")),
        code=ended.returncode,
        said=[line for line in said.splitlines() if line.startswith("[Primus Lens WandB]")],
        root=root,
        wandb=files,
        spools=spools.spools_below(root) if root.is_dir() else [],
    )


def alike(ours: Any, theirs: Any) -> bool:
    """The same value, where both have a number, a text, a boolean or None for it."""
    if isinstance(theirs, dict) or isinstance(ours, dict):
        return isinstance(ours, dict)
    if isinstance(theirs, float) and math.isnan(theirs):
        return isinstance(ours, float) and math.isnan(ours)
    return bool(ours == theirs)


def assert_as_stored(ours: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> None:
    """Our steps are wandb's: the same numbers, the same names, the same values."""
    assert theirs, "wandb has stored nothing: there is nothing to compare with"
    filled = {number: data for number, data in ours.items() if data}
    assert sorted(filled) == sorted(number for number, data in theirs.items() if data)
    for number, data in filled.items():
        assert data.keys() == theirs[number].keys(), f"step {number}"
        for name, value in data.items():
            assert alike(value, theirs[number][name]), f"step {number}: {name}"


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.promise("G3")
def test_what_is_recorded_of_a_run_is_what_wandb_stores_of_it(run: Callable[..., Ran]) -> None:
    ran = run("values")
    assert_as_stored(ran.steps(ran.report["run"]), ran.stored(ran.report["run"]))


def test_values_are_recorded_as_the_numbers_and_texts_they_are(run: Callable[..., Ran]) -> None:
    ran = run("values")
    found: dict[str, Any] = {}
    for data in ran.steps(ran.report["run"]).values():
        found |= data
    expected = {
        "int": 7,
        "float": 0.1,
        "true": True,
        "text": "ü",
        "none": None,
        "train.loss": 0.5,
        "train.deep.er": 1,
        "flat": 2,
        "float32": 0.5,
        "int64": 3,
        "0d": 2.5,
        "one": 0.75,
        "bool": True,
        "loss": 0.25,
        "large": 2.0**70,
        "inf": math.inf,
        "ninf": -math.inf,
        "list": [1, 2.5, "x"],
        "small": [0, 1, 2],
    }
    assert {name: found[name] for name in expected} == expected
    assert all(type(found[name]) is type(value) for name, value in expected.items())
    assert math.isnan(found["nan"])
    assert found["largest"] == {"_type": "integer", "bits": 1329, "negative": False}
    assert found["array"] == {"_type": "array", "shape": [10, 10], "dtype": "float64"}


def test_media_are_recorded_as_placeholders(run: Callable[..., Ran]) -> None:
    ran = run("values")
    media = [
        body["data"]["media"]
        for kind, body in ran.records()
        if kind == "step" and "media" in body["data"]
    ]
    assert len(media) == 4
    assert [one["class"].rpartition(".")[2] for one in media[:2]] == ["Histogram", "Html"]
    assert media[0]["_type"] == "histogram"
    assert all(one["_type"] != "object" for one in media)


@pytest.mark.promise("G2")
def test_a_value_that_raises_at_our_touch_costs_itself_alone(run: Callable[..., Ran]) -> None:
    ran = run("values")
    assert ran.report["raises to us"] == ["returned", "NoneType"]
    (data,) = [
        body["data"]
        for kind, body in ran.records()
        if kind == "step" and set(body["data"]) == {"bad", "good"}
    ]
    assert data["good"] == 1
    assert (data["bad"]["_type"], data["bad"]["error"]) == ("error", "KeyError")
    assert ran.said == []


@pytest.mark.promise("G8")
def test_calls_return_and_raise_as_they_do_without_us(run: Callable[..., Ran]) -> None:
    with_us, without = run("values"), run("values", PRIMUS_LENS_WANDB_HOOK="false")
    assert without.spools == []
    own = {"run"}
    assert {k: v for k, v in with_us.report.items() if k not in own} == {
        k: v for k, v in without.report.items() if k not in own
    }
    raised = [name for name, seen in with_us.report.items() if "raised" in str(seen)]
    assert {
        "before init",
        "not a map",
        "keys no text",
        "wrong argument",
        "no argument",
        "raises",
        "after finish",
        "module after finish",
    } <= set(raised)


@pytest.mark.promise("G8")
def test_wandb_stores_what_it_stores_without_us(run: Callable[..., Ran]) -> None:
    with_us, without = run("values"), run("values", PRIMUS_LENS_WANDB_HOOK="false")
    left, right = (one.stored(one.report["run"]) for one in (with_us, without))
    assert left.keys() == right.keys()
    for number, data in left.items():
        assert data.keys() == right[number].keys()
        for name, value in data.items():
            assert isinstance(value, dict) or repr(value) == repr(right[number][name])


@pytest.mark.promise("G8")
def test_the_user_s_map_is_not_changed(run: Callable[..., Ran]) -> None:
    unchanged = {k: v for k, v in run("values").report.items() if k.endswith(" unchanged")}
    assert len(unchanged) > 10
    assert all(unchanged.values())


def test_a_call_that_wandb_refuses_is_not_recorded(run: Callable[..., Ran]) -> None:
    ran = run("values")
    accepted = [
        name
        for name, seen in ran.report.items()
        if f"{name} unchanged" in ran.report and seen[0] == "returned"
    ]
    steps = [body for kind, body in ran.records() if kind == "step"]
    assert len(steps) == len(accepted)
    assert all("a" not in body["data"] for body in steps)


def test_a_run_is_announced_with_its_own_description(run: Callable[..., Ran]) -> None:
    ran = run("values")
    body = ran.one("run", ran.report["run"])
    facts = {name: body[name] for name in ("project", "name", "group", "job_type", "tags", "mode")}
    assert facts == {
        "project": "scenario",
        "name": "all-values",
        "group": "g",
        "job_type": "train",
        "tags": ["one"],
        "mode": "offline",
    }
    assert (body["step"], body["resumed"]) == (0, False)
    assert body["wandb"]


def test_evidence_is_looked_for_once_and_its_config_is_the_run_s(run: Callable[..., Ran]) -> None:
    ran = run("values")
    body = ran.one("detection", ran.report["run"])
    assert body["look"] == 1
    assert body["evidence"]["wandb"]["config"] == {"lr": 0.1}


# --- steps, runs, ends ----------------------------------------------------------------------------


@pytest.mark.promise("G3")
@pytest.mark.parametrize("which", ["first", "second", "failed", "last"])
def test_steps_have_wandb_s_own_numbers(which: str, run: Callable[..., Ran]) -> None:
    """Counted, given, in parts, positional, and of a run that is never finished."""
    ran = run("steps")
    assert_as_stored(ran.steps(ran.report[which]), ran.stored(ran.report[which]))


def test_parts_of_a_step_are_told_from_its_end(run: Callable[..., Ran]) -> None:
    ran = run("steps")
    parts = [
        (body["step"], sorted(body["data"]), body["closed"])
        for kind, body in ran.records()
        if kind == "step" and body["run"] == ran.report["first"]
    ]
    assert parts == [
        (0, ["a"], True),
        (1, ["a"], True),
        (2, ["part"], False),
        (2, ["b", "part"], False),
        (2, ["last"], True),
        (3, ["a"], True),
        (10, ["given"], False),
        (10, ["same"], False),
        (12, ["positional"], False),
        (13, ["positional"], True),
        (20, ["closed"], True),
        (21, ["named"], True),
        (22, ["open"], False),
    ]


def test_runs_beside_each_other_stay_apart(run: Callable[..., Ran]) -> None:
    ran = run("steps")
    if ran.report["beside"] is None:
        pytest.skip("this version of wandb has one run at a time")
    left, right = ran.report["beside"]
    assert ran.steps(left) == {number: {"left": number} for number in range(3)}
    assert ran.steps(right) == {number * 10: {"right": number * 10} for number in range(4)}
    for one in (left, right):
        assert_as_stored(ran.steps(one), ran.stored(one))
        assert ran.kinds(one)[0] == "run"
        assert ran.kinds(one)[-1] == "finish"


@pytest.mark.parametrize(
    ("which", "last", "code"), [("first", 22, None), ("second", 1, 0), ("failed", 0, 1)]
)
def test_the_end_of_a_run_is_recorded_once(
    which: str, last: int, code: int | None, run: Callable[..., Ran]
) -> None:
    """By `finish`, by leaving the block, and by leaving it with an error."""
    ran = run("steps")
    body = ran.one("finish", ran.report[which])
    assert body["step"] == last
    assert code is None or body["exit_code"] == code
    assert ran.kinds(ran.report[which])[-1] == "finish"
    assert ran.report["user's error"] == "the user's own"


def test_a_run_that_is_left_open_ends_with_the_interpreter(run: Callable[..., Ran]) -> None:
    ran = run("steps")
    assert ran.one("finish", ran.report["last"])["step"] == 1
    assert ran.records()[-1][0] == "exit"
    assert ran.records()[-1][1]["steps"][ran.report["last"]] == 1
    assert not list(ran.spools[0].glob("*-wal"))


def test_a_program_that_does_not_know_of_us_is_recorded(run: Callable[..., Ran]) -> None:
    """By the one line in site-packages; it ends without finishing, with an exit code of its own."""
    ran = run("plain")
    assert ran.code == 3
    assert ran.report["hooked"]
    assert_as_stored(ran.steps(ran.report["run"]), ran.stored(ran.report["run"]))
    assert [kind for kind, _ in ran.records() if kind != "detection"] == [
        "run",
        *["step"] * 5,
        "finish",
        "exit",
    ]
    who = spools.Reader(ran.spools[0]).identity()
    assert who.workload_uid == "workload-1"
    assert ran.said == []


@pytest.mark.parametrize("mode", ["disabled", "offline"], ids=["variable", "argument"])
def test_a_disabled_run_records_nothing(mode: str, run: Callable[..., Ran]) -> None:
    ran = run("disabled", WANDB_MODE=mode)
    assert ran.report == {"directory": None}
    assert ran.spools == []
    assert ran.said == []


def test_a_run_that_began_before_the_hook_is_adopted(run: Callable[..., Ran]) -> None:
    """And a hook that is taken off records nothing until it is put on again."""
    ran = run("adopt")
    stored = ran.stored(ran.report["run"])
    hooked = {
        number: data for number, data in stored.items() if not {"before", "unhooked"} & set(data)
    }
    assert len(hooked) == 4
    assert_as_stored(ran.steps(ran.report["run"]), hooked)
    body = ran.one("run", ran.report["run"])
    assert body["name"] == "adopted"
    assert ran.kinds(ran.report["run"])[0] == "run"
    assert ran.kinds(ran.report["run"])[-1] == "finish"


# --- faults, threads, forks -----------------------------------------------------------------------


@pytest.mark.promise("G2")
def test_a_fault_of_ours_anywhere_leaves_training_as_it_was(run: Callable[..., Ran]) -> None:
    ran = run("faults")
    fine = ["returned", "NoneType"]
    for place in ("record", "_observe_log", "_pack"):
        assert ran.report[place] == [fine] * 3, place
    assert [ran.report[name] for name in ("finish", "init", "log")] == [fine] * 3
    assert len(ran.stored(ran.report["run"])) == 11
    assert len(ran.stored(ran.report["second"])) == 1


@pytest.mark.promise("G2")
def test_a_fault_of_ours_is_counted_and_said_once(run: Callable[..., Ran]) -> None:
    ran = run("faults")
    assert ran.report["dropped"] == {"bug": 6, "unencodable": 3}
    assert len(ran.said) == 2
    assert all("ZeroDivisionError" in line for line in ran.said)
    gaps = [body for kind, body in ran.records() if kind == "gap"]
    assert sum(gap["count"] for gap in gaps) >= 9
    assert ran.steps(ran.report["run"])[0] == {"a": 0}
    assert {"a": 99} in ran.steps(ran.report["run"]).values()
    assert ran.steps(ran.report["second"]) == {0: {"b": 1}}


@pytest.mark.promise("G2")
def test_an_unusable_path_leaves_training_as_it_was(run: Callable[..., Ran]) -> None:
    ran = run("unwritable")
    assert ran.report["logs"] == [["returned", "NoneType"]] * 5
    assert ran.report["finish"] == ["returned", "NoneType"]
    assert ran.report["recorded"] == {}
    assert ran.report["dropped"] == ran.report["errors"] >= 6
    assert len(ran.said) == 1
    assert len(ran.stored(ran.report["run"])) == 5
    assert ran.root.read_text() == "a file where the folder should be"


@pytest.mark.promise("G2")
@pytest.mark.promise("G3")
def test_threads_and_a_signal_handler_lose_nothing(run: Callable[..., Ran]) -> None:
    ran = run("parallel")
    values: dict[str, list[int]] = {}
    for kind, body in ran.records(ran.report["pid"]):
        if kind == "step":
            for name, value in body["data"].items():
                values.setdefault(name, []).append(value)
    assert values.pop("end") == [1]
    assert set(values) == {"main", *(f"thread-{index}" for index in range(4))}
    assert all(numbers == list(range(100)) for numbers in values.values())
    count, all_taken = ran.report["handled"]
    assert all_taken
    assert len([1 for kind, _ in ran.records(ran.report["pid"]) if kind == "signal"]) == count > 0
    assert ran.said == []


@pytest.mark.promise("G2")
def test_a_fork_under_a_run_has_its_own_spool_and_ends_nothing(run: Callable[..., Ran]) -> None:
    ran = run("parallel")
    child, status = ran.report["fork"]
    assert status == 0
    assert [kind for kind, _ in ran.records(child)] == ["child"]
    assert ran.report["multiprocessing"] == 0
    assert len(ran.spools) == 2, "a worker that records nothing leaves nothing"
    ours = [kind for kind, _ in ran.records(ran.report["pid"])]
    assert ours.count("finish") == ours.count("exit") == 1
    assert ours[-1] == "exit"

"""Programs run against real wandb, offline, and what came of them: ours and wandb's own.

The programs are in `scenario.py`. They run in the interpreter that `LENS_SHIP_TEST_PYTHON` names,
so that the same claims can be put to other versions of wandb; by default in the one of the tests.
wandb's own file is the measure: what it has stored of a run, step by step, is what we must have.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

from spooler.records import step
from tests.kit import spools

PYTHON = os.environ.get("LENS_SHIP_TEST_PYTHON", sys.executable)
SCENARIO = Path(__file__).with_name("scenario.py")
PTH = spools.REPOSITORY / "spooler" / "lens_ship.pth"
# How programs end that do not return.
ENDS = {"plain": 3, "raising": 1, "exiting_with_3": 3, "interrupted_at_once": -signal.SIGINT}


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
        """Wandb's steps of a run, names flattened."""
        rows: dict[int, dict[str, Any]] = {}
        for record in self._stored(run, "history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, name = item.nested_key or [item.key]
                place = row
                for key in outer:
                    place = place.setdefault(key, {})
                place[name] = json.loads(item.value_json)
            number = row.pop("_step", len(rows))  # a shared run has none
            rows[number] = {
                name: value
                for name, value in step.flatten(row).items()
                if name not in ("_timestamp", "_runtime")
            }
        return rows

    def stored_exit_code(self, run: str) -> int:
        """Wandb's exit code of a run."""
        (record,) = self._stored(run, "exit")
        return int(record.exit.exit_code)

    def _stored(self, run: str, kind: str) -> Iterator[Any]:
        return (record for found, record in self.in_order(run) if found == kind)

    def in_order(self, run: str) -> Iterator[tuple[str, Any]]:
        """Wandb's records with their kinds: its file is a LevelDB log of protobuf messages."""
        (path,) = self.wandb.glob(f"wandb/*run-*/run-{run}.wandb")
        for raw in _chunks(path.read_bytes()):
            record = pb.Record()
            record.ParseFromString(raw)
            yield record.WhichOneof("record_type"), record


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


def run_program(place: Path, name: str, environ: dict[str, str]) -> Ran:
    root, files, report = place / "spool", place / "files", place / "report.json"
    files.mkdir()
    if name == "unwritable":
        root.write_text("a file where the folder should be")
    site = place / "site"
    site.mkdir()
    if name in ("plain", "looks"):
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
        "PYTHONPATH": f"{site}{os.pathsep}{spools.REPOSITORY}",
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
    assert ended.returncode == ENDS.get(name, 0), said
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

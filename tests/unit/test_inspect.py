"""`lens-ship inspect`: what it says of spools that are well, damaged, odd, or no spools at all."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.inspection import spool as spool_module
from shipper.inspection.findings import ERROR
from shipper.inspection.report import inspect_paths
from shipper.inspection.spool import InspectedSpool, inspect_segment_file, inspect_spool
from shipper.inspection.stats import MAX_METRICS, RecordStats
from spooler.records import gap
from spooler.records import run as run_record
from spooler.spool import codec
from spooler.spool import format as fmt
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.shipping import Record, detection, finish, goodbye, spool, step, stored

ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"


def records(count: int = 40) -> list[Record]:
    return [detection(), *(step(number) for number in range(count)), finish(), goodbye()]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """43 records in segments of ten."""
    directory, _ = spool(tmp_path / "spool", records(), segment_records=10)
    return directory


def errors(one: InspectedSpool) -> list[str]:
    return [problem.what for problem in one.problems if problem.level == ERROR]


def notes(one: InspectedSpool) -> list[str]:
    return [problem.what for problem in one.problems if problem.level != ERROR]


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        for statement in statements:
            connection.execute(statement)


def segment(directory: Path, number: int) -> Path:
    return directory / fmt.segment_name(number)


# --- what is well ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("whole_bytes", [0, spool_module.WHOLE_BYTES])
def test_a_sealed_spool_is_reported_in_full(
    sealed: Path, verify: bool, whole_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "WHOLE_BYTES", whole_bytes)
    one = inspect_spool(sealed, verify=verify)
    assert one.whole == (verify or whole_bytes > 0)
    assert (one.records, one.seqs, errors(one), notes(one)) == (43, (1, 43), [], [])
    assert {s.state for s in one.segments} == {"sealed"}
    assert one.stats.kinds == {"detection": 1, "step": 40, "finish": 1, "exit": 1}
    (run,) = one.stats.runs.values()
    assert (run.run, run.first_step, run.last_step, run.metrics) == ("r", 0, 39, {"loss"})
    assert run.finished
    assert one.identity is not None
    assert one.identity.workload_uid == "w"


def test_looking_changes_nothing(sealed: Path) -> None:
    def state() -> list[tuple[str, int, bytes]]:
        return [
            (path.name, path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(sealed.iterdir())
        ]

    before = state()
    assert lens_ship("inspect", "--verify", str(sealed)).code == 0
    assert state() == before


_WRITER = """
import sys, os
from pathlib import Path
from tests.kit.shipping import spool, step
directory, writer = spool(Path(sys.argv[1]), [step(n) for n in range(25)], close=False,
                          segment_records=10)
print(directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A spool whose process lives, and that process."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, tmp_path / "spool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=spools.environment(),
        cwd=spools.REPOSITORY,
    ) as process:
        assert process.stdout is not None
        try:
            yield Path(process.stdout.readline().strip()), process
        finally:
            process.kill()


def test_the_segments_of_a_live_spool_are_active_and_of_a_killed_one_unsealed(
    live: tuple[Path, subprocess.Popen[str]],
) -> None:
    directory, process = live
    one = inspect_spool(directory, verify=True)
    assert one.alive
    assert {s.state for s in one.segments} <= {"sealed", "active", "prepared"}
    assert one.segments[-1].state in ("active", "prepared")
    assert (one.records, errors(one), notes(one)) == (25, [], [])
    process.kill()
    process.wait()
    one = inspect_spool(directory, verify=True)
    assert not one.alive
    assert "unsealed" in {s.state for s in one.segments}
    assert (one.records, errors(one)) == (25, [])
    assert ["unclean exit" in note for note in notes(one)] == [True]


def test_a_segment_alone_is_attributed_under_any_name(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "from a friend.db"
    shutil.copy(segment(sealed, 2), copy)
    one = inspect_segment_file(copy)
    assert (one.name, one.alive, errors(one)) == (sealed.name, None, [])
    assert one.records > 0
    done = lens_ship("inspect", str(copy))
    assert done.code == 0
    assert "unknown from a single segment" in done.out


def test_gaps_are_reported_and_explain_what_is_missing(tmp_path: Path) -> None:
    expected = gap.encode(
        time=1.7e9, reason="cap", count=10, first=1.6e9, last=1.7e9, first_seq=1, last_seq=10
    )
    lost = gap.encode(time=1.7e9, reason="disk-full", count=7, first=1.6e9, last=1.7e9)
    directory, _ = spool(
        tmp_path, [*records(18), ("gap", expected), ("gap", lost)], segment_records=10
    )
    one = inspect_spool(directory, verify=True)
    assert [(g.reason, g.count, g.first, g.last) for g in one.stats.gaps] == [
        ("cap", 10, 1, 10),
        ("disk-full", 7, 0, 0),
    ]
    assert errors(one) == []


# --- what is wrong --------------------------------------------------------------------------------


def flip_checksum(directory: Path) -> None:
    edit(segment(directory, 2), "UPDATE record SET checksum = checksum + 1 WHERE seq = 15")


def drop_row(directory: Path) -> None:
    edit(segment(directory, 2), "DELETE FROM record WHERE seq = 15")


def drop_first_row(directory: Path) -> None:
    edit(segment(directory, 2), "DELETE FROM record WHERE seq = (SELECT min(seq) FROM record)")


def repeat_rows(directory: Path) -> None:
    edit(
        segment(directory, 2),
        "INSERT INTO record SELECT min(seq) - 1, kind, body, checksum FROM record",
    )


def not_msgpack(directory: Path) -> None:
    check = codec.checksum("step", b"\xc1", 15)
    edit(
        segment(directory, 2),
        f"UPDATE record SET kind = 'step', body = x'c1', checksum = {check} WHERE seq = 15",
    )


def newer(directory: Path) -> None:
    edit(segment(directory, 2), f"PRAGMA user_version = {fmt.FORMAT_VERSION + 1}")


def too_old(directory: Path) -> None:
    edit(segment(directory, 2), "PRAGMA user_version = 0")


def another_application(directory: Path) -> None:
    edit(segment(directory, 2), "PRAGMA application_id = 7")


def no_database(directory: Path) -> None:
    segment(directory, 2).write_bytes(b"text" * 1000)


def broken_page(directory: Path) -> None:
    path = segment(directory, 2)
    raw = bytearray(path.read_bytes())
    raw[-fmt.PAGE_SIZE :] = b"\xff" * fmt.PAGE_SIZE
    path.write_bytes(raw)


def no_identity(directory: Path) -> None:
    edit(segment(directory, 2), "DELETE FROM identity")


def identity_of_another_segment(directory: Path) -> None:
    shutil.copy(segment(directory, 1), segment(directory, 9))


def log_without_segment(directory: Path) -> None:
    Path(f"{segment(directory, 9)}-wal").write_bytes(b"frames")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "checksum": (flip_checksum, "record 15: checksum"),
    "row": (drop_row, "record 15: missing"),
    "first row": (drop_first_row, "are missing between it and 00000001.sqlite"),
    "repeated": (repeat_rows, "but 00000001.sqlite ends at"),
    "body": (not_msgpack, "record 15: its body is not msgpack"),
    "newer": (newer, "unsupported version: format version 3"),
    "too old": (too_old, "foreign: format version 0"),
    "application": (another_application, "foreign: application_id 0x7"),
    "text": (no_database, "damaged: file is not a database"),
    "page": (broken_page, "malformed"),
    "no identity": (no_identity, "it has no identity"),
    "other identity": (identity_of_another_segment, "the checksum of its identity"),
    "lone log": (log_without_segment, "a log without its segment"),
}


@pytest.mark.promise("G7")
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_reported_with_its_place_and_ends_with_code_1(
    sealed: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = DAMAGE[case]
    damage(sealed)
    one = inspect_spool(sealed, verify=True)
    assert any(expected in what for what in errors(one)), errors(one)
    assert all(str(sealed) in c.where for c in one.problems)
    assert inspect_paths([sealed], verify=True, as_json=False) == 1
    out = capsys.readouterr().out
    assert expected in out
    assert "no errors" not in out


def test_what_cannot_be_read_does_not_hide_the_rest(sealed: Path) -> None:
    no_database(sealed)
    one = inspect_spool(sealed, verify=True)
    assert [s.state == "damaged" for s in one.segments].count(True) == 1
    assert one.records > 25
    assert one.stats.clean_shutdown


def test_a_deleted_segment_in_the_middle_is_a_note(sealed: Path) -> None:
    segment(sealed, 2).unlink()
    one = inspect_spool(sealed, verify=True)
    assert errors(one) == []
    assert any("lens-ship audit" in note for note in notes(one))


def test_delivered_and_deleted_segments_are_no_problem(sealed: Path) -> None:
    segment(sealed, 1).unlink()
    segment(sealed, 2).unlink()
    one = inspect_spool(sealed, verify=True)
    assert (errors(one), notes(one)) == ([], [])


def test_leftovers_are_noted(sealed: Path) -> None:
    for name in (".00000009.new", ".00000009.new-journal", "00000009.sqlite-shm", "core"):
        (sealed / name).write_bytes(b"")
    for name in (".scratch", ".owner.new", "00000009.sqlite-wal"):  # of no account
        (sealed / name).write_bytes(b"")
    one = inspect_spool(sealed, verify=True)
    assert errors(one) == []
    assert len(notes(one)) == 4


def test_a_spool_under_another_name_is_not_shipped_and_that_is_reported(
    sealed: Path, tmp_path: Path
) -> None:
    moved = sealed.rename(tmp_path / "copy")
    assert any("not a spool id" in what for what in errors(inspect_spool(moved, verify=False)))
    renamed = moved.rename(tmp_path / spools.spool_id(77))
    assert any("belongs to spool" in what for what in errors(inspect_spool(renamed, verify=False)))


def test_an_empty_spool_is_no_error(tmp_path: Path) -> None:
    directory = tmp_path / spools.spool_id(5)
    directory.mkdir()
    one = inspect_spool(directory, verify=True)
    assert (errors(one), one.records, one.seqs) == ([], 0, (0, 0))
    assert lens_ship("inspect", str(directory)).code == 0


# --- the command ----------------------------------------------------------------------------------


def test_a_root_has_a_line_for_each_spool_and_the_problems(tmp_path: Path) -> None:
    for salt in (1, 2, 3):
        who = spools.identity(spools.spool_id(salt), rank=salt)
        directory, _ = spool(tmp_path, records(), who=who, segment_records=10)
    assert lens_ship("inspect", str(tmp_path)).code == 0
    flip_checksum(directory)
    done = lens_ship("inspect", str(tmp_path))
    assert done.code == 1
    lines = done.out.splitlines()
    assert sum(line.startswith("20240102T030405") for line in lines) == 3
    assert any("record 15: checksum" in line for line in lines)
    assert lines[-1].startswith("3 spools, 129 records")


def test_json_says_the_same(sealed: Path, tmp_path: Path) -> None:
    flip_checksum(sealed)
    done = lens_ship("inspect", "--json", str(sealed), "pyproject.toml")
    assert done.code == 1
    one, other = json.loads(done.out)
    assert (one["what"], one["spool"], one["records"]) == ("spool", sealed.name, 43)
    assert one["identity"]["workload_uid"] == "w"
    assert [c["what"] for c in one["problems"] if c["level"] == "error"] == ["record 15: checksum"]
    assert (other["what"], other["has_errors"]) == ("not a spool", True)


def test_nothing_that_a_spool_says_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    who = spools.identity(workload_uid=ESCAPE, pod_name=ESCAPE, host=ESCAPE)
    run = {"run": ESCAPE, "time": 1.0, "project": ESCAPE, "name": "[red]" + ESCAPE}
    lost = {"time": 1.0, "reason": ESCAPE, "count": 1}
    nasty: list[Record] = [("run", run), step(1, run=ESCAPE, **{ESCAPE: 1}), ("gap", lost)]
    nasty.append((ESCAPE, {"time": float("nan"), "run": 7}))
    directory, _ = spool(tmp_path, nasty, who=who)
    for words in ([], ["--json"]):
        done = lens_ship("inspect", str(directory), *words)
        assert done.code == 0, done.err
        assert not set(done.out) & set("\x1b\x07\u202e") or words
        assert "\x1b" not in done.out
    assert "[red]" in lens_ship("inspect", str(directory)).out


def test_what_is_before_the_names_of_a_run_is_told_with_the_reason(tmp_path: Path) -> None:
    begun = [
        run_record.encode(run="a", time=1.0, project="p"),
        run_record.encode(run="a", time=1.0, sole_writer=True, reason="only one rank logs"),
        run_record.encode(run="b", time=1.0, run_prefix=True, reason="of a sweep"),
        run_record.encode(run="c", time=1.0),
    ]
    directory, _ = spool(tmp_path, [*(("run", body) for body in begun), goodbye()])
    said = lens_ship("inspect", str(directory)).out
    for line in (
        "a (p): no steps, not finished, names have no rank prefix (only one rank logs)",
        "b: no steps, not finished, names have a run prefix (of a sweep)",
        "c: no steps, not finished\n",
    ):
        assert line in said
    (found,) = json.loads(lens_ship("inspect", "--json", str(directory)).out)
    assert [run["run"] for run in found["runs"] if run["sole_writer"]] == ["a"]


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    spool(tmp_path, [goodbye()])
    code = "from shipper.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "inspect", "--json", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=spools.environment(),
        cwd=spools.REPOSITORY,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(spools.PATIENCE_SECONDS) == 141


def test_a_path_that_is_not_a_spool_is_one_line_with_a_hint_for_importable_files(
    tmp_path: Path,
) -> None:
    jsonl = tmp_path / "wandb_metrics.jsonl"
    jsonl.write_text('{"timestamp": 1700000000.5, "step": 7, "data": {"loss": 2.5}}\n')
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "directory").mkdir()
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (x)")
    os.mkfifo(tmp_path / "pipe")
    runs = spools.REPOSITORY / "tests/golden/wandb-run"
    importable = [jsonl, runs, runs / "run-0.31.0.wandb"]
    other_things = [
        tmp_path / name for name in ("empty", "binary", "directory", "other.db", "pipe")
    ]
    paths = [*importable, *other_things]
    done = lens_ship("inspect", *map(str, paths))
    assert done.code == 1
    lines = [line for line in done.out.splitlines() if line]
    assert lines == [
        *(
            f"{path}: not a spool (`lens-ship replay {path}` imports it, with --as-workload if it"
            " names no workload)"
            for path in importable
        ),
        *(f"{path}: not a spool" for path in other_things),
    ]


def test_what_one_spool_can_make_it_remember_is_bounded() -> None:
    stats = RecordStats()
    for start in range(0, 3 * MAX_METRICS, 100):
        data: dict[str, Any] = {f"m{start + n}": 1 for n in range(100)}
        (one,) = stored(step(start, **data))
        stats.read(one)
        stats.count(f"kind {start}", 1)
    (run,) = stats.runs.values()
    assert len(run.metrics) == MAX_METRICS
    assert run.more_metrics
    assert len(stats.kinds) <= 101

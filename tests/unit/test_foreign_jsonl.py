"""The exporter's files: every line becomes what wandb would have made of the call."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shipper.importers import ImportSource, SourceInfo, exporter_jsonl, formats, open_imports, scan
from shipper.importers.exporter_jsonl import ExporterFile
from shipper.importers.scan import APART_SECONDS
from shipper.importers.wandb_run import WandbFile
from spooler.errors import NotASpool, SpoolDamaged
from spooler.records import step
from spooler.records.step import StepRecord
from spooler.spool import codec
from spooler.spool import format as fmt
from tests.kit.foreign import history, is_same, log, read_all, run_record, steps
from tests.kit.holding import held, own


def line(step: Any, data: Any = None, timestamp: Any = 1700000000.5) -> bytes:
    values = {"timestamp": timestamp, "step": step, "data": {"x": 1} if data is None else data}
    return json.dumps(values).encode() + b"\n"


def place(root: Path, node: int = 0, rank: int = 0) -> Path:
    path = root / f"node_{node}" / f"rank_{rank}" / "wandb_metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def source(tmp_path: Path, *lines: bytes) -> ExporterFile:
    path = place(tmp_path)
    path.write_bytes(b"".join(lines))
    return ExporterFile(path, SourceInfo())


def numbers(one: ImportSource) -> list[int]:
    return [number for number, _ in steps(read_all(one))]


# --- sparse files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ExporterFile, WandbFile])
def test_the_holes_of_a_sparse_file_are_not_read(kind: Any, tmp_path: Path) -> None:
    """A read of every byte of it would take an hour."""
    name = {ExporterFile: "wandb_metrics.jsonl", WandbFile: "run-r.wandb"}[kind]
    content = {ExporterFile: line(0), WandbFile: log([run_record(), history(0)])}[kind]
    path = tmp_path / name
    path.write_bytes(content)
    try:
        os.truncate(path, 2**42)
    except OSError:
        pytest.skip("this file system has no files of that size")
    with path.open("r+b") as file:
        file.seek(2**41)
        file.write(b"x")
    found = read_all(kind(path, SourceInfo()))
    assert [stored.kind for stored in found.records] == ["run", "step"]
    assert kind(path, SourceInfo()).last_seq() == found.through


# --- what a line becomes --------------------------------------------------------------------------


def test_a_file_becomes_a_run_and_its_steps(tmp_path: Path) -> None:
    one = source(tmp_path, line(0, {"loss": 2.5}), line(1, {"loss": 1.5}, 1700000001.5))
    found = read_all(one)
    assert [stored.kind for stored in found.records] == ["run", "step", "step"]
    (run,) = {body["run"] for body in found.bodies("run")}
    assert run.startswith("import-")
    assert [step.decode(body) for body in found.bodies("step")] == [
        StepRecord(run, 0, 1700000000.5, closed=False, data={"loss": 2.5}, step_given=True),
        StepRecord(run, 1, 1700000001.5, closed=False, data={"loss": 1.5}, step_given=True),
    ]
    assert one.last_seq() == 3
    assert not one.is_owned()
    assert one.directory == one.path.parent


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([None, None, None], [0, 1, 2]),
        ([5, None, None], [5, 5, 6]),
        ([None, 5, 5, None, 7, None], [0, 5, 5, 5, 7, 7]),
        ([10, 3, None], [10, 3, 10]),
        ([3.0, None], [3, 3]),
        ([-1, None], [-1, 0]),
        ([2**62, None], [2**62, 2**62]),
    ],
)
def test_lines_without_a_step_are_numbered_as_wandb_does(
    tmp_path: Path, given: list[Any], expected: list[int]
) -> None:
    assert numbers(source(tmp_path, *map(line, given))) == expected


def test_a_line_without_the_member_step_is_one_without_a_step(tmp_path: Path) -> None:
    raw = b'{"timestamp": 1.0, "data": {"x": 1}}\n'
    assert numbers(source(tmp_path, raw, raw)) == [0, 1]


def test_only_a_line_without_a_step_closes_it(tmp_path: Path) -> None:
    found = read_all(source(tmp_path, line(4), line(None)))
    assert [body["closed"] for body in found.bodies("step")] == [False, True]


def test_the_mark_is_left_out_and_system_metrics_are_kept(tmp_path: Path) -> None:
    data = {"_primus_lens_enabled": True, "_primus_sys_cpu": 1.5, "_primus_gpu_0": 2, "x": 3}
    kept = {"_primus_sys_cpu": 1.5, "_primus_gpu_0": 2, "x": 3}
    marked = line(1, {"_primus_lens_enabled": True})
    assert steps(read_all(source(tmp_path, line(0, data), marked))) == [(0, kept), (1, {})]


def test_values_come_as_they_are(tmp_path: Path) -> None:
    data = {
        "nan": float("nan"),
        "inf": float("inf"),
        "ninf": float("-inf"),
        "deep": {"er": [1, {"x": None}]},
        "text": "ü — 損失",
        "lone": "a\ud800",
        "zero": -0.0,
        "large": 2**64 - 1,
    }
    ((_, read),) = steps(read_all(source(tmp_path, line(0, data))))
    assert is_same(read, data)


def test_integers_beyond_64_bits_are_the_nearest_float(tmp_path: Path) -> None:
    ((_, read),) = steps(read_all(source(tmp_path, line(0, {"n": 2**70, "m": 10**400}))))
    assert read["n"] == 2.0**70
    assert read["m"]["_type"] == "integer"


def test_of_a_name_that_occurs_twice_the_later_value_counts(tmp_path: Path) -> None:
    raw = b'{"timestamp": 1.0, "step": 0, "data": {"x": 1, "x": 2}}\n'
    assert steps(read_all(source(tmp_path, raw))) == [(0, {"x": 2})]


@pytest.mark.parametrize("strange", [None, "now", True, float("nan"), float("inf"), 10**400, []])
def test_a_line_without_a_time_follows_the_line_before(tmp_path: Path, strange: Any) -> None:
    found = read_all(source(tmp_path, line(0, timestamp=7), line(1, timestamp=strange)))
    assert [body["time"] for body in found.bodies("step")] == [7.0, 7.0 + APART_SECONDS]


def test_no_two_steps_have_one_millisecond(tmp_path: Path) -> None:
    moments = [(0, 7.0), (0, 7.0001), (1, 7.0002), (2, 7.0003), (3, 7.5), (4, 6.0), (5, 6.0)]
    lines = [line(number, timestamp=at) for number, at in moments]
    times = [body["time"] for body in read_all(source(tmp_path, *lines)).bodies("step")]
    assert times[:2] == [7.0, 7.0001]  # two parts of one step
    whole = [round(time * 1000) for time in times]
    assert whole == [7000, 7000, 7001, 7002, 7500, 6000, 6001]


def test_a_line_of_megabytes(tmp_path: Path) -> None:
    data = {f"layer{n}/norm": n / 7 for n in range(100_000)}
    assert steps(read_all(source(tmp_path, line(0, data), line(1)))) == [(0, data), (1, {"x": 1})]


# --- what is not as it should be ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{broken}\n", "not JSON"),
        (b'{"timestamp": 1.0, "step": 1, "da\n', "not JSON"),
        (b'{"timestamp": 1.0, "data": {"x": "\xff"}}\n', "not UTF-8"),
        (b"[1, 2]\n", "not a JSON object"),
        (b"\x00\x00\x00\n", "not JSON"),
        (line(1, [1]), "data is not a map"),
        (b'{"timestamp": 1.0, "step": 1}\n', "data is not a map"),
        (line("7"), "step is not a 64-bit integer"),
        (line(1.5), "step is not a 64-bit integer"),
        (line(True), "step is not a 64-bit integer"),
        (line(2**70), "step is not a 64-bit integer"),
        (line(1e300), "step is not a 64-bit integer"),
        (line(float("nan")), "step is not a 64-bit integer"),
        (b'{"timestamp": 1.0, "data": {"x": ' + b"[" * 10**5 + b"}}\n", ""),
        (b'{"timestamp": 1.0, "data": {"x": ' + b"9" * 5000 + b"}}\n", "not JSON"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
def test_a_line_that_cannot_be_read_is_damage_and_the_rest_goes_on(
    tmp_path: Path, bad: bytes, reason: str
) -> None:
    first = line(0)
    one = source(tmp_path, first, bad, line(2))
    found = read_all(one)
    assert [number for number, _ in steps(found)] == [0, 2]
    (damage,) = found.damage
    assert (damage.path, damage.first, damage.last) == (str(one.path), 3, 3)
    place = f"line 2, bytes {len(first)} to {len(first) + len(bad) - 1}: "
    assert damage.reason.startswith(place + reason)


def test_a_line_too_long_to_be_read_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fmt, "BODY_LIMIT", 1000)
    found = read_all(source(tmp_path, line(0), line(1, {"x": "y" * 5000}), line(2)))
    assert [number for number, _ in steps(found)] == [0, 2]
    assert "longer than 1000 bytes" in found.damage[0].reason
    unfinished = source(tmp_path, line(0), line(1, {"x": "y" * 5000})[:-1])
    assert read_all(unfinished).damage == ()


def test_a_line_that_is_not_finished_is_not_there_yet(tmp_path: Path) -> None:
    lines = [line(0, {"x": "ü"}), line(None), line(5)]
    raw = b"".join(lines)
    path = place(tmp_path)
    growing = ExporterFile(path, SourceInfo())
    path.write_bytes(b"")
    whole = read_all(source(tmp_path, raw))
    got: list[Any] = []
    for end in range(len(raw) + 1):
        path.write_bytes(raw[:end])
        chunk = growing.read(len(got), 500)
        assert chunk.damage == ()
        assert chunk.at_end
        got += chunk.records
        fresh = read_all(ExporterFile(path, SourceInfo()))
        assert list(fresh.records) == got == list(whole.records[: len(got)])
    assert len(got) == 4


def test_the_last_line_needs_no_line_end_when_it_is_whole(tmp_path: Path) -> None:
    one = source(tmp_path, line(0), line(1).rstrip())
    assert numbers(one) == [0, 1]
    with one.path.open("ab") as file:
        file.write(b"\n" + line(2))
    assert [s.seq for s in one.read(3, 9).records] == [4]
    assert numbers(one) == [0, 1, 2]


@pytest.mark.parametrize(("cut", "lost"), [(20, 1), (45, 1), (-1, 0)])
def test_a_killed_writer_and_the_next_one_share_a_line(tmp_path: Path, cut: int, lost: int) -> None:
    found = read_all(source(tmp_path, line(0), line(1)[:cut], line(2), line(3)))
    assert [n for n, _ in steps(found)] == ([0, 2, 3] if lost else [0, 1, 2, 3])
    assert len(found.damage) == lost


def test_an_object_that_was_whole_stays_one_whatever_follows(tmp_path: Path) -> None:
    one = source(tmp_path, line(0), line(1, {"x": "ü"})[:-1])
    assert one.read(0, 9).through == 3
    for tail in (b" garbage\n", b"\xff\xff\n", b"\x00\x00" + line(2)):
        one.path.write_bytes(line(0) + line(1)[:-1] + tail + line(5))
        found = read_all(ExporterFile(one.path, SourceInfo()))
        assert [n for n, _ in steps(found)] in ([0, 1, 5], [0, 1, 2, 5])
        assert [damage.first for damage in found.damage] == [4]
        assert found.damage[0].reason.startswith("line 2,")


def test_empty_lines_and_those_of_windows(tmp_path: Path) -> None:
    found = read_all(source(tmp_path, b"\n", line(0)[:-1] + b"\r\n", b"  \n\n", b"bad\n", line(1)))
    assert [number for number, _ in steps(found)] == [0, 1]
    assert found.damage[0].reason.startswith("line 5,")


def test_a_file_that_is_gone_or_was_cut(tmp_path: Path) -> None:
    one = source(tmp_path, line(0), line(1))
    assert one.last_seq() == 3
    one.path.write_bytes(b"")
    assert one.read(3, 5).records == ()
    one.path.unlink()
    with pytest.raises(SpoolDamaged, match=r"wandb_metrics\.jsonl"):
        one.read(0, 5)


# --- reading in parts -----------------------------------------------------------------------------


def test_any_position_gives_the_same_records(tmp_path: Path) -> None:
    bad = {50, 51, 300}
    lines = [b"bad\n" if n in bad else line(None, {"n": n}) for n in range(1500)]
    one = source(tmp_path, *lines)
    whole = read_all(one, limit=500)
    assert len(whole.damage) == 3
    for after in (1400, 0, 256, 257, 255, 51, 52, 1499, 1500, 1501, 9999):
        chunk = one.read(after, 40)
        assert list(chunk.records) == [r for r in whole.records if after < r.seq <= after + 40]
        fresh = ExporterFile(one.path, SourceInfo()).read(after, 40)
        assert fresh == chunk


def test_going_on_does_not_begin_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = source(tmp_path, *(line(n) for n in range(3000)))
    read_all(one, limit=500)
    parsed: list[int] = []
    original = exporter_jsonl._parse
    monkeypatch.setattr(exporter_jsonl, "_parse", lambda raw: (parsed.append(1), original(raw))[1])
    assert one.read(3001, 10).at_end
    assert parsed == []
    assert one.read(2000, 10).through == 2010
    assert len(parsed) <= 10 + 256


def test_the_index_stays_small() -> None:
    index = scan.ResumeIndex("0")
    for seq in range(1, 2_000_000, 7):
        index.note(seq, str(seq))
    assert len(index) <= 513
    for after in (0, 1, 999, 1_234_567, 1_999_999):
        seq, state = index.before(after)
        assert int(state) == seq <= after
        assert after - seq < 2_000_000 / 200


def test_a_chunk_of_large_records_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK_BYTES", 1000)
    one = source(tmp_path, *(line(n, {"x": "y" * 900}) for n in range(9)))
    chunk = one.read(1, 500)
    assert (len(chunk.records), chunk.at_end) == (2, False)
    assert len(read_all(one, limit=500).records) == 10


# --- whose it is ----------------------------------------------------------------------------------


def test_identity_comes_from_path_and_options(tmp_path: Path) -> None:
    path = place(tmp_path, node=2, rank=3)
    path.write_bytes(line(0, timestamp=12.5))
    (one,) = open_imports(path, workload_uid="w", pod_name="p")
    who = one.identity()
    assert (who.workload_uid, who.pod_name, who.created) == ("w", "p", 12.5)
    assert (who.node_rank, who.local_rank, who.rank) == (2, 3, None)
    assert who.spool == one.spool


def test_the_id_is_stable_and_unlike_a_live_one(tmp_path: Path) -> None:
    path = place(tmp_path)
    path.write_bytes(line(0))
    (one,) = open_imports(path)
    before = one.spool
    path.write_bytes(line(0) * 50)
    os.symlink(path, tmp_path / "link")
    relative = Path(os.path.relpath(path))
    ways = (path, relative, tmp_path / "link")
    assert [open_imports(way)[0].spool.split("-")[-1] for way in ways] == [before[-12:]] * 3
    assert open_imports(path)[0].spool == open_imports(relative)[0].spool == one.spool == before
    assert before.startswith("import-jsonl-node0.rank0-")
    assert not fmt.is_spool_id(before)


def test_all_ranks_of_a_training_share_a_run(tmp_path: Path) -> None:
    for node, rank in ((0, 0), (0, 1), (1, 0)):
        place(tmp_path / "job", node, rank).write_bytes(line(0))
    place(tmp_path / "other").write_bytes(line(0))
    found = open_imports(tmp_path)
    assert len({one.spool for one in found}) == 4
    runs = [codec.unpack(one.read(0, 1).records[0].body)["run"] for one in found]
    assert runs[0] == runs[1] == runs[2] != runs[3]
    assert runs[0].startswith("import-")


def test_links_are_not_followed_in_a_folder(tmp_path: Path) -> None:
    path = place(tmp_path / "a")
    path.write_bytes(line(0))
    os.symlink(tmp_path / "a", tmp_path / "b")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(path, tmp_path / "wandb_metrics.jsonl")
    assert [one.path for one in open_imports(tmp_path)] == [path]


def test_a_file_of_another_name_is_known_by_how_it_begins(tmp_path: Path) -> None:
    renamed = tmp_path / "metrics.txt"
    renamed.write_bytes(line(0))
    assert numbers(open_imports(renamed)[0]) == [0]
    (tmp_path / "notes.txt").write_bytes(b"hello\n")
    with pytest.raises(NotASpool, match=r"notes\.txt"):
        open_imports(tmp_path / "notes.txt")
    with pytest.raises(NotASpool, match="no such file"):
        open_imports(tmp_path / "absent")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wandb_metrics.jsonl")
    assert open_imports(tmp_path) == []
    assert not any(one.recognises(tmp_path / "wandb_metrics.jsonl") for one in formats().values())


def test_a_file_under_a_lease_of_its_writer_is_not_waited_for(tmp_path: Path) -> None:
    path = place(tmp_path)
    path.write_bytes(line(0))
    (source,) = open_imports(path)
    own(tmp_path)
    with held(tmp_path, "lease"):
        with pytest.raises(SpoolDamaged):
            source.read(0, 1)
        renamed = tmp_path / "metrics.txt"
        renamed.symlink_to(path)
        assert not any(one.recognises(renamed) for one in formats().values())

"""How a segment is written: what a commit costs, whose descriptors, and what sealing leaves."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spooler.errors import SpoolUnavailable
from spooler.spool import db, pages, writer
from spooler.spool import format as fmt
from spooler.spool.reader import Reader
from tests.kit import images, spools
from tests.kit.system_calls import between, traced

_SYNCS = "fsync,fdatasync,sync_file_range,msync,sync,syncfs"


@pytest.mark.promise("G6")
def test_a_commit_is_two_writes_and_one_look_at_the_descriptor(tmp_path: Path) -> None:
    log, _ = traced(
        "import os, pathlib; from tests.kit import spools\n"
        f"one = spools.writer(pathlib.Path({str(tmp_path)!r}))\n"
        "for n in range(100): one.append('step', spools.body(n))\n"
        "os.write(2, b'begin')\n"
        "for n in range(10): one.append('step', spools.body(n))\n"
        "os.write(2, b'end')\n",
        tmp_path,
        calls="all",
    )
    calls = Counter(between(log, "begin", "end"))
    assert calls.pop("lseek") == 10
    assert 20 <= calls.pop("pwrite64") <= 24, "one page more when the last is full"
    assert not set(calls) - {"brk", "mmap", "munmap", "madvise"}, calls


@pytest.mark.promise("G2")
def test_the_training_thread_never_waits_for_the_disk(tmp_path: Path) -> None:
    """Not when the first spool is opened, not in a forked child, not when a segment ends."""
    log, _ = traced(
        "import os; os.environ['PRIMUS_LENS_SPOOL_SEGMENT_RECORDS'] = '20'\n"
        "from spooler import recorder as module\n"
        "from spooler.recorder import recorder\n"
        "from tests.kit import spools\n"
        "module._SHUTDOWN_SECONDS = module._FORK_SECONDS = spools.PATIENCE_SECONDS\n"
        "os.write(2, b'begin')\n"
        "assert recorder().record('step', spools.step(0))\n"
        "os.write(2, b'first')\n"
        "if os.fork() == 0:\n"
        "    os.write(2, b'child')\n"
        "    assert recorder().record('step', spools.step(0))\n"
        "    os.write(2, b'born')\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "number = 0\n"
        "while recorder()._writer._segment.number < 4:\n"
        "    assert recorder().record('step', spools.step(number)); number += 1\n"
        "os.write(2, b'end')\n",
        tmp_path,
        calls=f"write,{_SYNCS}",
    )
    assert "fdatasync(" in log, "the background thread does wait"
    for begin, end in (("begin", "first"), ("child", "born"), ("first", "end")):
        assert not set(between(log, begin, end)) & set(_SYNCS.split(",")), (begin, end)


_SEAL = """
import os, pathlib
from tests.kit import spools
one = spools.writer(pathlib.Path({place!r}))
for n in range(1, 31): one.append("step", spools.body(n))
os.write(2, b'begin')
one.close()
os.write(2, b'end')
"""


@pytest.mark.promise("G1")
@pytest.mark.parametrize("call", ["fdatasync", "ftruncate", "pwrite64", "unlink", "close"])
def test_a_writer_that_dies_while_it_seals_leaves_a_whole_log_or_a_whole_segment(
    call: str, tmp_path: Path
) -> None:
    code = _SEAL.format(place=str(tmp_path))
    log, _ = traced(code, tmp_path, calls=f"write,{call}")
    shutil.rmtree(tmp_path / "node_0")
    names = re.findall(rf' {call}\(|"begin"|"end"', log)
    first = names[: names.index('"begin"')].count(f" {call}(") + 1
    past = names[: names.index('"end"')].count(f" {call}(") + 1
    assert past > first
    for when in range(first, past):
        _, ended = traced(
            code, tmp_path, calls=f"write,{call}", inject=f"{call}:signal=KILL:when={when}"
        )
        assert ended
        (directory,) = spools.spools_below(tmp_path)
        assert spools.read_whole(directory).numbers == list(range(1, 31)), when
        shutil.rmtree(tmp_path / "node_0")


@pytest.mark.promise("G1")
def test_a_large_segment_is_whole_at_every_moment_of_its_packing_for_sqlite_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's SQLite may open what a kill leaves there, and clears up in its own way."""
    monkeypatch.setattr(db, "LARGE_BYTES", 1)
    one = spools.writer(tmp_path)
    numbers = [one.append("step", spools.body(number)) for number in range(1, 201)]
    left: list[Path] = []

    def keep(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            result = real(*given, **named)
            place = tmp_path / f"{len(left)}" / one.directory.name
            place.parent.mkdir()
            subprocess.run(("cp", "-r", one.directory, place), check=True)  # by other calls
            left.append(place)
            return result

        return call

    with monkeypatch.context() as patch:
        for name in ("chmod", "fsync", "pwrite", "rename"):
            patch.setattr(os, name, keep(getattr(os, name)))
        one.close()
    assert len(left) == 6, "log synced, made, synced, the log given up, renamed, folder synced"
    for place in left:
        assert spools.read_whole(place).numbers == numbers
        with contextlib.closing(sqlite3.connect(place / "00000001.sqlite")) as operated:
            assert operated.execute("SELECT count(*) FROM record").fetchone() == (len(numbers),)
            assert operated.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert spools.read_whole(place).numbers == numbers


@pytest.mark.promise("G1")
def test_a_segment_that_cannot_be_packed_is_sealed_as_small_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First its log is synced, so that nothing in the next log survives without it."""
    monkeypatch.setattr(db, "LARGE_BYTES", 1)
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    path = one.directory / "00000001.sqlite"
    (one.directory / ".00000001.new").mkdir()
    real, synced = os.fsync, list[str]()

    def fsync(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        one.close()
    assert synced == [f"{path}-wal", str(path)]
    assert not db.wal_size(path)
    assert pages.page_size(path.read_bytes()) == fmt.PAGE_SIZE
    assert spools.read_whole(one.directory).numbers == [1]


@pytest.mark.promise("G11")
def test_a_segment_that_is_deleted_while_it_is_packed_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may delete it as soon as a later segment holds a record."""
    monkeypatch.setattr(db, "LARGE_BYTES", 1)
    one = spools.writer(tmp_path, segment_records=2)
    reader, real, deleted = Reader(one.directory), db._sync, list[int]()

    def sync(path: Path, flags: int) -> None:
        real(path, flags)
        if path.name == fmt.preparing_name(1):
            one.append("step", spools.body(3))
            deleted.extend(reader.segments_below(2))
            reader.delete_segment(1)

    with monkeypatch.context() as patch:
        patch.setattr(db, "_sync", sync)
        for number in (1, 2):
            one.append("step", spools.body(number))
            one.maintain()
    assert deleted == [1]
    assert reader.segments() == [2]
    one.append("step", spools.body(4))
    one.close()
    assert spools.read(one.directory).numbers == [3, 4]
    assert not list(one.directory.glob(".*")) + list(one.directory.glob("00000001*"))


@pytest.mark.promise("G2", "G11")
@pytest.mark.parametrize("kind", ["ext4", "btrfs-quota"])
def test_sealing_frees_a_disk_that_has_no_room_for_a_copy(kind: str, tmp_path: Path) -> None:
    with images.disk(kind, tmp_path) as disk:
        one = spools.writer(disk.top)
        numbers = [one.append("step", os.urandom(300)) for _ in range(1900)]
        path = one.directory / "00000001.sqlite"
        disk.sync()
        disk.fill()
        disk.release(1_000_000)
        one.close()
        assert not list(one.directory.glob(".*"))
        assert not db.wal_size(path)
        assert pages.page_size(path.read_bytes()) == fmt.PAGE_SIZE
        assert spools.read_whole(one.directory).seqs == numbers


@pytest.mark.promise("G1")
def test_a_large_segment_that_cannot_be_read_keeps_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "LARGE_BYTES", 1)
    one = spools.writer(tmp_path)
    numbers = [one.append("step", bytes(3000)) for _ in range(2000)]
    path, real = one.directory / "00000001.sqlite", db._checkpoint

    def checkpoint(connection: db.Writing) -> None:
        real(connection)
        os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(db, "_checkpoint", checkpoint)
    with pytest.raises(SpoolUnavailable):
        one.close()
    assert db.wal_size(path)
    assert not list(one.directory.glob(".*"))
    assert spools.read_whole(one.directory).seqs == numbers


@pytest.mark.promise("G2")
def test_who_must_not_wait_packs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "LARGE_BYTES", 1)
    one = spools.writer(tmp_path, segment_records=4)
    for number in range(1, 6):
        one.append("step", spools.body(number))
        one.maintain(durable=False)
    path = one.directory / "00000001.sqlite"
    assert not Path(f"{path}-wal").exists()
    assert pages.page_size(path.read_bytes()) == fmt.PAGE_SIZE
    one.close()
    assert spools.read_whole(one.directory).numbers == [1, 2, 3, 4, 5]


@pytest.mark.promise("G2")
@pytest.mark.parametrize(
    ("finds", "expected"), [("pass", [*range(11, 20)]), ("mine._maintain()", [*range(10, 20)])]
)
def test_a_program_that_closes_all_descriptors_harms_neither_its_files_nor_its_records(
    finds: str, expected: list[int], tmp_path: Path
) -> None:
    """Either the next record finds that they are gone, or the background thread between two."""
    root, victim = tmp_path / "spool", tmp_path / "victim"
    code = f"""
import os, pathlib, json
from spooler import background, recorder
from tests.kit import spools
recorder._RETRY_SECONDS = 0.0
background.BackgroundThread.start = lambda _: True  # its work is done by hand
mine = recorder.recorder()
for n in range(10): assert mine.record("step", spools.step(n))
os.closerange(3, 1000)
files = [os.open({str(victim)!r} + str(n), os.O_RDWR | os.O_CREAT) for n in range(40)]
for file in files: os.write(file, b"theirs")
{finds}
taken = [n for n in range(10, 20) if mine.record("step", spools.step(n))]
mine._maintain()
directory = mine.directory
mine.shutdown()
sizes = [os.path.getsize({str(victim)!r} + str(n)) for n in range(40)]
still = [os.fstat(file).st_size for file in files]
print(json.dumps([taken, mine.dropped, sizes, still, directory]))
"""
    done = spools.python(code, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root))
    taken, dropped, sizes, still, directory = spools.answer(done)
    assert taken == expected
    assert dropped == ({"descriptor": 1} if finds == "pass" else {})
    assert sizes == still == [6] * 40, "nothing of ours, and none was closed"
    second = Path(directory)
    (first,) = set(spools.spools_below(root)) - {second}
    found = [spools.read_whole(path).bodies("step") for path in (first, second)]
    assert [body["step"] for bodies in found for body in bodies] == [*range(10), *taken]
    gaps = spools.read_whole(second).bodies("gap")
    assert {gap["reason"]: gap["count"] for gap in gaps} == dropped


@pytest.mark.promise("G2")
@pytest.mark.parametrize("which", ["file", "log"])
def test_sealing_writes_into_no_file_of_the_program(which: str, tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    number = getattr(one._segment.connection, which).number
    victim = os.open(tmp_path / "victim", os.O_RDWR | os.O_CREAT)
    os.dup2(victim, number)
    with pytest.raises(SpoolUnavailable, match="descriptor"):
        one.check()
    with pytest.raises(SpoolUnavailable, match="descriptor"):
        one.close()
    assert os.fstat(number).st_size == 0
    os.close(number)
    os.close(victim)
    assert spools.read_whole(one.directory).numbers == [1]


@pytest.mark.promise("G1")
def test_a_checkpoint_that_fails_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails to sync says at the second time that it has synced; the log has to stay."""
    one = spools.writer(tmp_path)
    for number in range(1, 200):
        one.append("step", spools.body(number))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(SpoolUnavailable):
            one.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert db.wal_size(one.directory / "00000001.sqlite") > 0
    assert spools.read_whole(one.directory).numbers == list(range(1, 200))
    for which in (one._segment.connection.file, one._segment.connection.log):
        assert not which.is_ours(), "closed all the same"


@pytest.mark.promise("G2")
def test_after_an_error_of_the_disk_the_segment_is_written_on(tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    full = db.wal_size(one.directory / "00000001.sqlite")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))
    try:
        for _ in range(3):
            with pytest.raises(SpoolUnavailable) as raised:
                one.append("step", bytes(10_000))
            assert raised.value.reason == "quota"
            assert f"{full} bytes" in str(raised.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.append("step", spools.body(n)) for n in (2, 3)] == [2, 3]
    one.close()
    assert not list(one.directory.glob("*-wal"))
    assert not list(one.directory.glob(".*")), "what was written to ask the system is gone"
    assert spools.read_whole(one.directory).numbers == [1, 2, 3]


@pytest.mark.promise("G3")
def test_a_number_that_a_reader_has_seen_is_not_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    connection = one._segment.connection

    def fail(*_: object) -> object:
        raise db.Error("disk I/O error")

    for visible, expected in ((1, 2), (3, 4)):
        monkeypatch.setattr(writer, "_visible_seq", lambda _, visible=visible: visible)
        with monkeypatch.context() as patch:
            patch.setattr(connection, "insert", fail)
            with pytest.raises(SpoolUnavailable):
                one.append("step", spools.body(2))
        assert one.append("step", spools.body(2)) == expected
    one.close()

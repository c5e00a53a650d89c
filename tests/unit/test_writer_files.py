"""Files that vanish under a writer: what can be saved is saved, and what is lost is counted."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path

import pytest

from spooler.recorder import Recorder
from spooler.spool.descriptor import Descriptor
from spooler.spool.reader import Reader
from tests.kit import spools

_LOST_LOG = """
import os, pathlib, sys
from tests.kit import spools
one = spools.writer(pathlib.Path(sys.argv[1]))
for n in range(1, 41): one.append("step", spools.body(n))
os.unlink(one._segment.path.with_name("00000001.sqlite-wal"))
one.append("step", spools.body(41))
one.maintain()
one.append("step", spools.body(42))
os.kill(os.getpid(), 9)
"""


@pytest.mark.promise("G1")
def test_a_log_that_was_removed_is_saved_from_its_descriptor(tmp_path: Path) -> None:
    done = spools.python(_LOST_LOG, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (directory,) = spools.spools_below(tmp_path)
    assert (directory / "00000002.sqlite-wal").exists()
    assert spools.read_whole(directory).numbers == list(range(1, 43))


@pytest.mark.promise("G1")
@pytest.mark.parametrize("name", ["00000002.sqlite-wal", "00000002.sqlite"])
def test_a_prepared_segment_that_lost_a_file_is_prepared_again(name: str, tmp_path: Path) -> None:
    one = spools.writer(tmp_path, segment_records=4)
    for number in range(1, 4):
        one.append("step", spools.body(number))
    one.maintain()
    (one.directory / name).unlink()
    one.maintain()
    for number in range(4, 7):
        one.append("step", spools.body(number))
    one.maintain()
    assert (one.directory / "00000002.sqlite-wal").exists()
    one.close()
    assert spools.read_whole(one.directory).numbers == list(range(1, 7))


@pytest.mark.promise("G1")
@pytest.mark.parametrize("what", ["root", "spool", "segment", "replaced"])
def test_what_went_with_its_files_is_counted_in_the_next_spool(
    what: str, root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are the records since the files were last seen; the others may be delivered."""
    spools.tend_by_hand(monkeypatch)
    for number in range(10):
        assert mine.record("step", spools.step(number))
    mine._maintain()
    for number in range(10, 17):
        assert mine.record("step", spools.step(number))
    first = Path(str(mine.directory))
    if what == "root":
        shutil.rmtree(root)
    elif what == "spool":
        shutil.rmtree(first)
    else:
        (first / "00000001.sqlite").unlink()
    if what == "replaced":
        (first / "00000001.sqlite").write_bytes(b"another's")
    mine._maintain()
    assert spools.open_files(first) == []
    second = Path(str(mine.directory))
    assert second != first
    (gap,) = spools.read_whole(second).bodies("gap")
    assert (gap["reason"], gap["count"]) == ("gone", 7)
    assert mine.dropped == {"gone": 7}
    assert mine.record("step", spools.step(17))
    assert spools.kinds(second) == ["gap", "step"]


@pytest.mark.promise("G1")
def test_files_that_vanish_before_the_end_are_counted_before_the_exit(
    root: Path, mine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spools.tend_by_hand(monkeypatch)
    for number in range(3):
        assert mine.record("step", spools.step(number))
    shutil.rmtree(root)
    mine.shutdown()
    (directory,) = spools.spools_below(root)
    assert spools.kinds(directory) == ["gap", "exit"]
    assert spools.read_whole(directory).bodies("gap")[0]["count"] == 3


@pytest.mark.promise("G2")
def test_a_folder_that_cannot_be_asked_refuses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at when a segment is full comes after the record was committed."""
    one = spools.writer(tmp_path, segment_records=4)

    def refuse(self: Descriptor, path: str | Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for number in range(1, 4):
        one.append("step", spools.body(number))
    one.maintain()
    monkeypatch.setattr(Descriptor, "is_at", refuse)
    assert one.append("step", spools.body(4)) == 4
    assert one.append("step", spools.body(5)) == 5
    assert Reader(one.directory).segments() == [1, 2]

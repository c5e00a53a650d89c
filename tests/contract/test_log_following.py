"""A real log file, and everything that is done to one: each byte is recorded once, in order."""

from __future__ import annotations

import contextlib
import errno
import logging
import logging.handlers
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler, TimedRotatingFileHandler
from pathlib import Path
from types import SimpleNamespace

import pytest

from spooler import recorder as recorder_module
from spooler.collectors import log as log_module
from spooler.collectors.log import LogCollector
from spooler.dlrover.master_client import SpoolMasterClient
from spooler.dlrover.metric import WorkerTrainingMetric
from spooler.filetail import checkpoint, lines
from spooler.filetail import follower as follow
from spooler.filetail.checkpoint import Checkpoint, LogPosition
from spooler.filetail.follower import Follower
from tests.kit import spools

pytestmark = pytest.mark.promise("G20")

FILLER = "".join(f"line {number:04d} of what was there before\n" for number in range(60))


class Reports:
    """A client that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[WorkerTrainingMetric] = []
        self.fails = False

    def report_diagnosis_agent_metrics(self, data: WorkerTrainingMetric) -> None:
        if self.fails:
            raise ConnectionError("Connection refused")
        self.taken.append(data)

    @property
    def text(self) -> str:
        return "".join(one.data_content for one in self.taken)


class Followed:
    """A log file and a collector of it; `collect` records all there is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reports = Reports()
        self.begin()

    def begin(self) -> None:
        """A collector as a new process has it."""
        self.collector = LogCollector(log_file_path=str(self.path))
        self.collector.set_client(self.reports)

    def restart(self) -> None:
        self.collector.close()
        self.begin()

    def write(self, text: str | bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def collect(self, *, last: bool = False) -> str:
        """What is recorded now that was not before."""
        before = len(self.reports.text)
        while self.collector.is_enabled() and (data := self.collector.collect_data(last=last)):
            if not self.collector.store_data(data):
                break
        return self.reports.text[before:]


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    spools.settle(monkeypatch, tmp_path / "spool")
    mine = recorder_module.Recorder()
    recorder_module.recorder()
    monkeypatch.setattr(recorder_module._process, "recorder", mine)
    (tmp_path / "logs").mkdir()
    one = Followed(tmp_path / "logs" / "train.log")
    yield one
    one.collector.close()
    mine.shutdown()


def make_room(path: Path) -> None:
    files = list(path.parent.glob(f"{path.name}.*[0-9]"))
    for number in sorted((int(file.suffix[1:]) for file in files), reverse=True):
        os.rename(f"{path}.{number}", f"{path}.{number + 1}")


def rename(path: Path) -> None:
    """As logrotate and Python's RotatingFileHandler do it: 1 is the youngest."""
    make_room(path)
    os.rename(path, f"{path}.1")


def rename_with_date(path: Path) -> None:
    count = len(list(path.parent.glob(f"{path.name}-*")))
    os.rename(path, f"{path}-202401{count + 1:02d}")


def copy_and_truncate(path: Path) -> None:
    make_room(path)
    shutil.copyfile(path, f"{path}.1")
    os.truncate(path, 0)


ROTATIONS = [rename, rename_with_date, copy_and_truncate]


# --- lines ----------------------------------------------------------------------------------------


def test_whole_lines_are_taken_and_a_begun_one_waits_for_its_end(followed: Followed) -> None:
    followed.write("one\ntwo\nthr")
    assert followed.collect() == "one\ntwo\n"
    assert followed.collect() == ""
    followed.write("ee\n")
    assert followed.collect() == "three\n"


def test_a_begun_line_does_not_wait_for_ever(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    followed.write("epoch 1: 10%\r")
    assert followed.collect() == ""
    now += follow.PARTIAL_SECONDS - 0.1
    assert followed.collect() == ""
    now += 0.2
    assert followed.collect() == "epoch 1: 10%\r"
    followed.write("epoch 1: 20%\r")
    assert followed.collect() == "", "the next part has its own time to wait"


def test_at_the_end_nothing_waits(followed: Followed) -> None:
    followed.write("Segmentation fault")
    assert followed.collect(last=True) == "Segmentation fault"


def test_characters_of_several_bytes_are_never_cut(followed: Followed) -> None:
    text = "Verlust 😀 größer als 损失 → ∞\n"
    for byte in text.encode():
        followed.write(bytes([byte]))
        followed.collect(last=True)
    assert followed.reports.text == text
    assert len(followed.reports.taken) > 5


def test_bytes_that_are_no_text_are_replaced_and_passed(followed: Followed) -> None:
    followed.write(b"a\xff\xfe\n\xc3(\n")
    assert followed.collect() == "a\ufffd\ufffd\n\ufffd(\n"
    followed.write("b\n")
    assert followed.collect() == "b\n"


def test_a_line_of_megabytes_comes_in_bounded_pieces(followed: Followed) -> None:
    line = "€" * (2 * 1024 * 1024 // 3) + "\n"
    followed.write("before\n" + line + "after\n")
    assert followed.collect() == "before\n" + line + "after\n"
    sizes = [len(one.data_content.encode()) for one in followed.reports.taken]
    assert len(sizes) > 8
    assert max(sizes) <= lines.PIECE_BYTES


def test_who_collects_once_has_the_end_of_a_long_log_too(followed: Followed) -> None:
    text = "".join(f"line {number}\n" for number in range(200_000))
    followed.write(text + "the last line\n")
    assert followed.collector.is_enabled()
    assert followed.collector.store_data(followed.collector.collect_data())
    assert followed.reports.text == text + "the last line\n"


def test_no_file_yet_is_no_trouble(followed: Followed) -> None:
    assert not followed.collector.is_enabled()
    assert followed.collector.collect_data() == ""
    followed.write("one\n")
    assert followed.collect() == "one\n"


@pytest.mark.parametrize("odd", ["folder", "fifo"])
def test_what_is_no_file_is_not_followed(followed: Followed, odd: str) -> None:
    {"folder": os.mkdir, "fifo": os.mkfifo}[odd](followed.path)
    assert not followed.collector.is_enabled()
    assert followed.collector.collect_data() == ""


def test_what_was_there_before_may_be_passed_over(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_LOG_START", "end")
    followed.write(FILLER + "begun")
    assert followed.collect() == ""
    followed.write(" and ended\n")
    assert followed.collect() == "begun and ended\n"


# --- rotation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("seen", ["", "one\n", FILLER])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_written_before_a_rotation_comes_before_what_came_after(
    followed: Followed, rotate: Callable[[Path], None], seen: str, restarted: bool
) -> None:
    followed.write(seen)
    assert followed.collect() == seen
    followed.write("unseen\nwithout its end")
    if not seen and (restarted or rotate is copy_and_truncate):
        followed.collect()  # a first position has to come from somewhere, and so has a proof
    if restarted:
        followed.restart()
    rotate(followed.path)
    followed.write("new one\n")
    followed.collect()
    followed.write("new two\n")
    followed.collect()
    assert followed.reports.text == f"{seen}unseen\nwithout its endnew one\nnew two\n"


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("restarted", [False, True])
def test_several_rotations_between_two_looks_are_read_in_order(
    followed: Followed, rotate: Callable[[Path], None], restarted: bool
) -> None:
    written = "the first line\n"
    followed.write(written)
    followed.collect()
    for number in range(12):
        text = f"file {number}, {'x' * number * 50}\n"
        followed.write(text)
        written += text
        if number % 4 == 1:
            followed.collect()
            if restarted:
                followed.restart()
        if number % 4 != 1 or number == 5:
            rotate(followed.path)
    followed.collect()
    assert followed.reports.text == written


def rotate_once(followed: Followed, rotate: Callable[[Path], None]) -> None:
    """Show how this log is rotated: an unread file is known by that alone."""
    followed.write("the first file\n")
    followed.collect()
    rotate(followed.path)
    followed.path.touch()
    followed.collect()
    assert followed.reports.text == "the first file\n"


def test_what_was_copied_away_unread_is_read_though_nothing_follows(followed: Followed) -> None:
    rotate_once(followed, copy_and_truncate)
    followed.write("all there is\n")
    copy_and_truncate(followed.path)
    assert followed.collect() == "all there is\n"
    followed.write("more\n")
    assert followed.collect() == "more\n"


def test_files_from_before_are_not_read_after_a_rotation(followed: Followed) -> None:
    Path(f"{followed.path}.1").write_text("of an earlier job\n")
    Path(f"{followed.path}.2.gz").write_bytes(b"\x1f\x8b compressed")
    followed.write("mine\n")
    followed.collect()
    rename(followed.path)
    followed.write("too\n")
    followed.collect()
    assert followed.reports.text == "mine\ntoo\n"


def test_a_file_that_is_renamed_and_written_on_is_read_until_its_successor_has_something(
    followed: Followed,
) -> None:
    followed.write("one\n")
    followed.collect()
    with followed.path.open("ab", buffering=0) as writer:
        rename(followed.path)
        followed.path.touch()
        writer.write(b"two, under the old name\n")
        assert followed.collect() == "two, under the old name\n"
    followed.write("three\n")
    assert followed.collect() == "three\n"


@pytest.mark.parametrize("restarted", [False, True])
def test_hundreds_of_older_files_are_passed_over(followed: Followed, *, restarted: bool) -> None:
    for number in range(1, 200):
        older = Path(f"{followed.path}.{number}")
        older.write_text(f"of an earlier job {number}\n")
        os.utime(older, (1_600_000_000 - number, 1_600_000_000 - number))
    followed.write("one\n")
    followed.collect()
    if restarted:
        followed.restart()
    for number in range(3):
        rename(followed.path)
        followed.write(f"file {number}\n")
    followed.collect()
    assert followed.reports.text == "one\nfile 0\nfile 1\nfile 2\n"


def test_the_older_files_may_go_meanwhile(followed: Followed) -> None:
    for number in range(8):
        followed.write(f"file {number}\n")
        followed.collect()
        rename(followed.path)
        Path(f"{followed.path}.3").unlink(missing_ok=True)
    assert followed.reports.text == "".join(f"file {number}\n" for number in range(8))


@pytest.mark.parametrize("copied", [0, 5, 1000])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_copy_that_is_being_made_is_not_read_beside_the_file(
    followed: Followed, copied: int, restarted: bool
) -> None:
    rotate_once(followed, rename)
    followed.write("an older one\n")
    if restarted:
        followed.restart()
    rename(followed.path)
    followed.write("of which a copy is made\n")
    make_room(followed.path)
    copy = Path(f"{followed.path}.1")
    copy.write_bytes(followed.path.read_bytes()[:copied])
    followed.collect()
    copy.write_bytes(followed.path.read_bytes())
    os.truncate(followed.path, 0)
    followed.write("after it\n")
    followed.collect()
    text = "the first file\nan older one\nof which a copy is made\nafter it\n"
    assert followed.reports.text == text


# Ours, what lies beside it, and whose that is.
OTHERS = [
    ("rank_1.log", "rank_10.log"),
    ("rank_1.log", "rank_12.log"),
    ("slurm-12.out", "slurm-123.out"),
    ("train", "train_1"),
    ("train", "train1"),
    ("train.log", "train1.log"),
    ("train.log", "train.log2"),
    ("train.log", "train.log_20240101"),
    ("train.log", "train-20240101.log"),
    ("log", "log.1"),
]


@pytest.mark.parametrize(("ours", "others"), OTHERS)
@pytest.mark.parametrize("banner", ["", "the same first line\n"])
@pytest.mark.parametrize("happens", ["nothing", "rotated", "truncated", "restarted", "deleted"])
def test_the_log_of_another_is_never_taken_for_ours(
    followed: Followed, ours: str, others: str, banner: str, happens: str
) -> None:
    followed.path = followed.path.with_name(ours)
    followed.restart()
    followed.write(banner)
    text = followed.collect()
    other = followed.path.with_name(others)
    if happens == "rotated" and others != "log.1":
        followed.write("the end of the first file\n")
        text += "the end of the first file\n"
        rename(followed.path)
        followed.path.touch()
    if happens == "truncated" and not other.name.startswith(("log.1", "train-2024")):
        os.truncate(followed.path, 0)
    if happens == "deleted":
        followed.path.unlink()
    if happens == "restarted":
        followed.restart()
    other.write_text(banner + "of another rank\n")
    followed.collect()
    followed.write("ours\n")
    followed.collect()
    other.write_text(banner + "of another rank\n" * 20)
    followed.write("ours\n")
    followed.collect()
    assert followed.reports.text == text + "ours\nours\n"


@pytest.mark.parametrize(("ours", "others"), OTHERS[:-1])
def test_an_inode_that_another_s_log_uses_again_is_no_evidence(
    tmp_path: Path, ours: str, others: str
) -> None:
    """Ours was empty and was deleted while nobody looked."""
    other = tmp_path / others
    other.write_text("of another rank\n")
    status = other.stat()
    nothing = LogPosition(
        path=str(tmp_path / ours),
        device=status.st_dev,
        inode=status.st_ino,
        begin=0,
        end=0,
        head=0,
        tail=0,
    )
    (tmp_path / ours).write_text("ours\n")
    follower = Follower(tmp_path / ours, nothing, frozenset())
    piece = follower.next(0.0)
    assert piece is not None
    assert piece.text == "ours\n" or others == "train-20240101.log", "a usual name"
    follower.close()


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("restarted", [False, True])
def test_no_modification_time_says_what_comes_first(
    followed: Followed, rotate: Callable[[Path], None], restarted: bool
) -> None:
    """The clock was set back between the rotations, and again."""
    followed.write("first\n")
    followed.collect()
    text = "first\n"
    for number in range(6):
        followed.write(f"file {number}\n")
        text += f"file {number}\n"
        if number == 3:
            followed.collect()
            if restarted:
                followed.restart()
        os.utime(followed.path, (1_800_000_000 - number * 1000,) * 2)
        rotate(followed.path)
    followed.path.touch()
    followed.collect()
    assert followed.reports.text == text


@pytest.mark.parametrize("days", [range(1, 5), range(5, 1, -1)])
def test_no_generation_is_left_out_because_its_name_has_an_earlier_date(
    followed: Followed, days: range
) -> None:
    followed.path.with_name("train.log-20240103").write_text("of an earlier job\n")
    for day in days:
        followed.write(f"of day {day}\n")
        followed.collect()
        if day != 3:
            os.rename(followed.path, f"{followed.path}-2024010{day}")
    text = "".join(f"of day {day}\n" for day in days)
    followed.collect()
    assert followed.reports.text == text


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_log_reached_through_a_link_may_be_rotated_at_its_target(
    followed: Followed, rotate: Callable[[Path], None], restarted: bool
) -> None:
    target = followed.path.parent.parent / "elsewhere" / "run.log"
    target.parent.mkdir()
    target.touch()
    followed.path.symlink_to(target)
    text = ""
    for number in range(9):
        followed.write(f"file {number}\n")
        text += f"file {number}\n"
        if number % 3 == 0:
            followed.collect()
            if restarted:
                followed.restart()
        rotate(target)
    followed.write("the end\n")
    followed.collect()
    assert followed.reports.text == text + "the end\n"


LOGROTATE = shutil.which("logrotate") or "/usr/sbin/logrotate"


@pytest.mark.skipif(not os.path.exists(LOGROTATE), reason="no logrotate here")
@pytest.mark.parametrize("append", ["a", "w"])
@pytest.mark.parametrize(
    "how",
    [
        "create",
        "copytruncate",
        "create\ndateext\ndateformat -%Y%m#",
        "copytruncate\nextension .log",
    ],
)
def test_what_logrotate_does_is_followed(followed: Followed, how: str, append: str) -> None:
    """A writer without O_APPEND goes on at its old place, behind zeros, after each truncation."""
    rules = followed.path.parent.parent / "rules"
    text, writer = "", followed.path.open(append)
    for number in range(12):
        line = f"line {number} {'x' * number * 999}\n"
        text += line
        writer.write(line)
        writer.flush()
        if number in (0, 1, 2, 5, 9):
            followed.collect()
        if number % 2:
            way = how.replace("#", f"{number + 10}")
            rules.write_text(f"{followed.path} {{\nrotate 9\n{way}\n}}\n")
            command = [LOGROTATE, "-f", "-s", f"{rules}.state", str(rules)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            if "copytruncate" not in how:
                writer.close()
                writer = followed.path.open(append)
    writer.close()
    followed.collect(last=True)
    assert followed.reports.text == text


@pytest.mark.parametrize("by", ["size", "time"])
def test_what_the_handlers_of_python_do_is_followed(
    followed: Followed, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are named by the second, which comes to an end where the test says so."""
    now = time.time()
    clock = SimpleNamespace(**{**vars(time), "time": lambda: now})
    monkeypatch.setattr(logging.handlers, "time", clock)
    handler: logging.Handler
    if by == "size":
        handler = RotatingFileHandler(followed.path, maxBytes=2000, backupCount=50)
    else:
        handler = TimedRotatingFileHandler(followed.path, when="S", backupCount=50)
    text = ""
    for number in range(100):
        if number % 7 == 0:
            followed.collect()
        now += number % 20 == 19
        line = f"{number} {'x' * 90}"
        handler.emit(logging.makeLogRecord({"msg": line}))
        text += f"{line}\n"
    handler.close()
    followed.collect()
    assert by == "size" or len(list(followed.path.parent.iterdir())) == 6
    assert followed.reports.text == text


# --- truncation, deletion -------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("again", ["short\n", FILLER.upper(), FILLER.upper() * 3])
def test_a_truncated_file_is_read_from_its_new_beginning(
    followed: Followed, again: str, restarted: bool
) -> None:
    followed.write(FILLER)
    followed.collect()
    if restarted:
        followed.restart()
    os.truncate(followed.path, 0)
    followed.write(again)
    assert followed.collect() == again


def test_a_writer_that_goes_on_at_its_old_place_leaves_a_hole_which_is_passed_over(
    followed: Followed,
) -> None:
    with followed.path.open("wb", buffering=0) as writer:
        writer.write(FILLER.encode() * 10)
        followed.collect()
        os.truncate(followed.path, 0)
        writer.write(b"after the hole\n")
        assert followed.collect() == "after the hole\n"
        writer.write(b"and on\n")
        assert followed.collect() == "and on\n"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_deleted_file_is_read_to_its_end_and_the_new_one_from_its_beginning(
    followed: Followed, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    followed.write(FILLER)
    followed.collect()
    if restarted:
        followed.restart()
    else:
        followed.write("last words\n")
    os.unlink(followed.path)
    assert followed.collect() == ("" if restarted else "last words\n")
    followed.write("anew\n")
    assert followed.collect() == "anew\n"
    assert ("not recorded" in caplog.text) == restarted, "nobody knows what else it had"


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_what_came_after_a_deleted_file_in_the_same_tick_is_read(
    followed: Followed, rotate: Callable[[Path], None]
) -> None:
    """File systems date what is written in a moment with one time, to the nanosecond."""
    rotate_once(followed, rotate)
    followed.write("the deleted one\n")
    followed.collect()
    tick = followed.path.stat().st_mtime_ns
    os.unlink(followed.path)
    followed.write("of the same tick\n")
    rotate(followed.path)
    for path in followed.path.parent.iterdir():
        os.utime(path, ns=(tick, tick))
    followed.write("and what followed\n")
    followed.collect()
    assert followed.reports.text.endswith("the deleted one\nof the same tick\nand what followed\n")


def test_a_copy_that_takes_the_place_of_the_file_is_the_file(followed: Followed) -> None:
    """An editor writes a new one; a position in the middle of it holds."""
    followed.write(FILLER)
    followed.collect()
    shutil.copyfile(followed.path, f"{followed.path}.new")
    followed.restart()
    os.replace(f"{followed.path}.new", followed.path)
    followed.write("more\n")
    assert followed.collect() == "more\n"


def test_a_used_again_inode_is_noticed_by_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("other content, longer than the position\n")
    status = path.stat()
    old = LogPosition(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        begin=0,
        end=20,
        head=1,
        tail=2,
    )
    follower = Follower(path, old)
    piece = follower.next(0.0)
    assert piece is not None
    assert piece.text == "other content, longer than the position\n"
    assert follower.lost == 1
    follower.close()


@pytest.mark.parametrize("taken_away", ["before the restart", "after it"])
def test_a_file_passed_since_the_checkpoint_is_not_read_again(
    tmp_path: Path, taken_away: str
) -> None:
    """Killed right after a record, it knows of that file by the records alone."""
    path, ends = tmp_path / "train.log", []
    follower = Follower(path)
    for text in ("first\n" + FILLER, "second\n" + FILLER):
        path.exists() and path.rename(f"{path}.1")
        path.write_text(text)
        piece = follower.next(0.0)
        assert piece is not None
        follower.advance(piece)
        ends.insert(0, piece.position)
    follower.close()
    after = Follower(path, ends[0], frozenset(), earlier=ends[1:])
    if taken_away == "after it":
        assert after.next(0.0) is None
    os.truncate(path, 0)
    with path.open("a") as file:
        file.write("third\n")
    piece = after.next(0.0)
    assert piece is not None
    assert piece.text == "third\n"
    after.close()


NUMBERED = "".join(f"step {number} password=secret loss\n" for number in range(200))


def delete_lines(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[5:])


def mask(text: str) -> str:
    return text.replace("step 3 password=secret", "step 3 password=*")


@pytest.mark.parametrize("edited", [str, delete_lines, mask, "# a note\n{}".format])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("restarted", [False, True])
def test_an_edited_log_is_not_recorded_again(
    followed: Followed, edited: Callable[[str], str], in_place: bool, restarted: bool
) -> None:
    followed.write(NUMBERED)
    followed.collect()
    followed.write("unread\n")
    new = edited(followed.path.read_text())
    if in_place:
        followed.path.write_text(new)
    else:
        draft = followed.path.with_name("sedXyZ")
        draft.write_text(new)
        os.replace(draft, followed.path)
    if restarted:
        followed.restart()
    followed.collect()
    followed.write("and more\n")
    followed.collect()
    assert followed.reports.text == NUMBERED + "unread\nand more\n"


def test_who_writes_on_in_the_file_before_the_edit_is_followed(followed: Followed) -> None:
    """As a job whose output goes to the log does: the edited file is a copy that nobody grows."""
    with followed.path.open("a") as job:
        print(NUMBERED, end="", file=job, flush=True)
        followed.collect()
        draft = followed.path.with_name("sedXyZ")
        draft.write_text(mask(NUMBERED))
        os.replace(draft, followed.path)
        for number in range(3):
            print(f"line {number}", file=job, flush=True)
            assert followed.collect() == f"line {number}\n"


@pytest.mark.parametrize("place", [0, 30, 2000])
@pytest.mark.parametrize("late", [False, True])
def test_zeros_that_a_file_server_fills_in_later_are_awaited(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, place: int, late: bool
) -> None:
    now = 1000.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    whole = "".join(f"step {number}\n" for number in range(1000)).encode()
    followed.write(whole[:place] + bytes(100) + whole[place + 100 :])
    for _ in range(3 if late else 1):  # for the begun line, for the zeros
        followed.collect()
        now += follow.PARTIAL_SECONDS + 1 if late else 1
    with followed.path.open("r+b") as file:
        os.pwrite(file.fileno(), whole[place : place + 100], place)
    followed.collect()
    followed.write("more\n")
    followed.collect()
    followed.restart()
    followed.write("and more\n")
    followed.collect()
    missing = whole[place : place + 100] if late else b""
    expected = whole.replace(missing, b"", 1) + b"more\nand more\n"
    assert followed.reports.text.encode() == expected


def test_zeros_at_the_end_are_no_lines(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was allocated before it is written."""
    now = 1000.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    followed.write(b"one\n" + bytes(1_000_000))
    for _ in range(3):
        followed.collect()
        now += follow.PARTIAL_SECONDS
    with followed.path.open("r+b") as file:
        os.pwrite(file.fileno(), b"two\n", 4)
    followed.collect()
    assert followed.reports.text == "one\ntwo\n"


# --- who records, and where it goes on ------------------------------------------------------------


def test_what_was_not_taken_is_collected_again(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.write("one\n")
    followed.reports.fails = True
    assert followed.collect() == ""
    assert "Failed to report log data to master: Connection refused" in caplog.text
    followed.write("two\n")
    followed.reports.fails = False
    assert followed.collect() == "one\ntwo\n"


def test_a_trouble_that_lasts_is_said_once_a_minute(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now)
    followed.write("one\n")
    followed.reports.fails = True
    for _ in range(13):
        followed.collect()
        now += 5.0
    assert caplog.text.count("Connection refused") == 2
    followed.reports.fails = False
    followed.collect()
    followed.write("two\n")
    followed.reports.fails = True
    followed.collect()
    assert caplog.text.count("Connection refused") == 3


def test_of_two_collectors_of_a_file_one_collects_and_the_other_takes_over(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_TAKE_OVER_SECONDS", 0.0)
    followed.write("one\n")
    followed.collect()
    second = LogCollector(log_file_path=str(followed.path))
    second.set_client(followed.reports)
    assert not second.is_enabled()
    assert second.collect_data() == ""
    followed.collector.close()
    followed.write("two\n")
    assert second.is_enabled()
    assert second.collect_data() == "two\n"
    second.close()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_TAKE_OVER_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LEASE_SECONDS", 0.05)


def take_over(followed: Followed) -> Followed:
    """Another process, which asks until the first one has been silent for long enough."""
    second = Followed(followed.path)
    second.reports = followed.reports
    second.begin()
    spools.wait_until(second.collector.is_enabled)
    return second


@pytest.mark.usefixtures("short_lease")
def test_who_has_lost_a_log_by_silence_records_nothing_of_it(followed: Followed) -> None:
    followed.collector.set_client(SpoolMasterClient())
    followed.write("one\n")
    lines = followed.collector.collect_data()
    second = take_over(followed)
    assert followed.collector.store_data(lines) is False, "it was stopped before it stored them"
    assert second.collect() == "one\n"
    followed.write("two\n")
    assert followed.collect() == ""
    assert second.collect() == "two\n"
    spools.wait_until(followed.collector.is_enabled)
    assert followed.collector.store_data(lines) is False, "of the time before"
    followed.write("three\n")
    assert second.collect() == ""
    followed.collector.set_client(followed.reports)
    assert followed.collect() == "three\n"
    second.collector.close()


@pytest.mark.usefixtures("short_lease")
def test_who_shows_that_it_collects_keeps_the_log(
    followed: Followed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_RENEW_SECONDS", 0.0)
    followed.write("one\n")
    followed.collect()
    second = LogCollector(log_file_path=str(followed.path))
    (sign,) = (tmp_path / "spool").glob("collectors_*/*")
    seen = 0

    def is_shown() -> bool:
        """Whether it has shown that it lives at a time that the file system tells from the last."""
        followed.collector.keep_turn()
        return sign.stat().st_mtime_ns != seen

    for _ in range(100):  # longer than the lease
        spools.wait_until(is_shown)
        seen = sign.stat().st_mtime_ns
        assert not second.is_enabled()


def test_who_was_stopped_itself_takes_nothing_for_silent(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    holder = Checkpoint.take(tmp_path, log)
    assert holder is not None
    (path,) = tmp_path.glob("collectors_*/*")
    status = path.stat()
    checkpoint._silences[path] = checkpoint._Silence(
        seen=(status.st_ino, status.st_mtime_ns), looked=time.monotonic() - 1000.0
    )
    assert Checkpoint.take(tmp_path, log) is None
    holder.close()


_RANK = """
import ctypes, os, sys, threading, time
from spooler import DiagnosisAgent
from spooler.collectors import log
from spooler.diagnosis import agent
from spooler.filetail import checkpoint
# The first one takes the log from no other: it stays with the second, however busy the machine is.
checkpoint.LEASE_SECONDS = 3600.0 if os.environ["LOCAL_RANK"] == "0" else 2.0
checkpoint._RENEW_SECONDS = 0.1
log._TAKE_OVER_SECONDS = agent._KEEP_SECONDS = 0.1
DiagnosisAgent().start()
print("begun", flush=True)
for _ in os.fdopen(0, "rb", buffering=0):
    # Waits without letting go of the interpreter's lock, as a stuck driver call does.
    ctypes.PyDLL(None).system(b"echo hangs; read line; echo awake")
"""


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process has stopped."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread has ended since
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)
    return False


@pytest.mark.parametrize("silent", ["stopped", "hangs in C"])
def test_another_rank_goes_on_when_the_one_that_collects_is_silent(
    tmp_path: Path, silent: str
) -> None:
    path, root = tmp_path / "train.log", tmp_path / "spool"
    path.write_text("line 0\n")

    def rank(number: int) -> subprocess.Popen[str]:
        environ = spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
            TRAINING_LOG_FILE=str(path),
            PRIMUS_LENS_LOG_SECONDS="0.1",
            LOCAL_RANK=str(number),
        )
        process = subprocess.Popen(
            [sys.executable, "-c", _RANK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    def recorded(number: int) -> str:
        found = root.glob(f"node_0/rank_{number}/*")
        bodies = [one for path in found for one in spools.read_whole(path).bodies("report")]
        logs = [one for one in bodies if one["data_type"] == "TRAINING_LOG"]
        return "".join(one["data_content"] for one in logs)

    def write(text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    first = rank(0)
    spools.wait_until(lambda: recorded(0) == "line 0\n")
    second = rank(1)
    assert first.stdin is not None
    assert first.stdout is not None
    if silent == "stopped":
        first.send_signal(signal.SIGSTOP)
        spools.wait_until(lambda: is_stopped(first.pid))
    else:
        print(file=first.stdin, flush=True)
        assert first.stdout.readline() == "hangs\n"
    write("line 1\n")
    spools.wait_until(lambda: recorded(1) == "line 1\n")
    if silent == "stopped":
        first.send_signal(signal.SIGCONT)
    else:
        print(file=first.stdin, flush=True)
        assert first.stdout.readline() == "awake\n"
    write("line 2\n")
    spools.wait_until(lambda: recorded(1) == "line 1\nline 2\n")
    for process in (first, second):
        process.communicate()
        assert process.returncode == 0
    assert (recorded(0), recorded(1)) == ("line 0\n", "line 1\nline 2\n")


@pytest.mark.usefixtures("short_lease")
def test_a_folder_that_is_made_anew_has_one_follower(followed: Followed) -> None:
    followed.write("one\n")
    followed.collect()
    shutil.rmtree(followed.path.parent)
    followed.path.parent.mkdir()
    followed.write("two\n")
    second = Followed(followed.path)
    second.reports = followed.reports
    second.begin()
    for number in range(3):
        second.collect()
        followed.collect()
        followed.write(f"more {number}\n")
    second.collect()
    followed.collect()
    assert followed.reports.text == "one\ntwo\nmore 0\nmore 1\nmore 2\n"
    second.collector.close()


@pytest.mark.parametrize("lacking", ["descriptors", "inodes"])
def test_a_momentary_error_at_the_start_makes_no_second_follower(
    followed: Followed, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_TAKE_OVER_SECONDS", 0.0)
    followed.write("one\n")
    others = [Followed(followed.path) for _ in range(4)]
    if lacking == "descriptors":
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            assert not any(one.collector.is_enabled() for one in others)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    else:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as failing:
            failing.setattr(log_module.Checkpoint, "take", full)
            assert not any(one.collector.is_enabled() for one in others)
    assert [one.collect() for one in others] == ["one\n", "", "", ""]
    for one in others:
        one.collector.close()


def test_without_its_checkpoint_the_position_is_found_in_the_spools(followed: Followed) -> None:
    followed.collector.set_client(SpoolMasterClient())
    followed.write(FILLER)
    assert followed.collector.store_data(followed.collector.collect_data())
    followed.collector.close()
    for path in followed.path.parent.parent.glob("spool/collectors_*/*"):
        path.unlink()
    followed.begin()
    followed.write("more\n")
    for number in range(3):
        rename(followed.path)
        followed.write(f"file {number}\n")
    assert followed.collect() == "more\nfile 0\nfile 1\nfile 2\n"


def test_without_the_spools_the_position_is_found_in_the_checkpoint(followed: Followed) -> None:
    followed.collector.set_client(SpoolMasterClient())
    followed.write(FILLER)
    assert followed.collector.store_data(followed.collector.collect_data())
    followed.collector.close()
    followed.begin()
    # At once: the recorder makes another spool as soon as it misses one.
    folder = followed.path.parent.parent
    os.rename(folder / "spool" / "node_0", folder / "away")
    followed.write("more\n")
    assert followed.collect() == "more\n"


@pytest.mark.promise("G2")
def test_a_file_that_cannot_be_read_for_a_while_is_told_and_read_on_later(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    followed.write("one\n")
    followed.collect()
    followed.write("two\n")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(follow.os, "pread", fail)
        assert followed.collect() == ""
    assert "cannot be read now: [Errno 5] Input/output error" in caplog.text
    assert followed.collect() == "two\n"


def test_a_torn_checkpoint_gives_the_one_before(tmp_path: Path, followed: Followed) -> None:
    followed.write("one\n")
    followed.collect()
    followed.write("two\n")
    followed.collect()
    followed.collector.close()
    (file,) = (tmp_path / "spool").glob("collectors_*/*")
    saved = Checkpoint.take(tmp_path / "spool", followed.path)
    assert saved is not None
    newest = saved.load()
    assert newest is not None
    assert newest.position is not None
    assert newest.position.end == 8
    saved.close()
    data = bytearray(file.read_bytes())
    data[16384 + 40] ^= 1  # the newest is in the second place
    file.write_bytes(data)
    again = Checkpoint.take(tmp_path / "spool", followed.path)
    assert again is not None
    before = again.load()
    assert before is not None
    assert before.position is not None
    assert before.position.end == 4
    again.close()


def test_saying_that_a_log_was_reported_into_that_log_comes_to_an_end(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    """A program whose log goes to the very file that is followed."""
    caplog.set_level("INFO")
    followed.write("one\n")
    for _ in range(5):
        caplog.clear()
        followed.collect()
        followed.write("".join(f"INFO - {record.message}\n" for record in caplog.records))
    assert caplog.records == []
    assert followed.reports.text.count("Reported log content") == 1

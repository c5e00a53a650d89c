"""What is concluded from evidence about a writer, row by row, and how a reader gathers it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from spooler.spool import owner
from spooler.spool.owner import (
    LONG_SECONDS,
    QUIET_SECONDS,
    RETAKE_SECONDS,
    Liveness,
    LivenessCheck,
    LivenessEvidence,
    Lock,
    Owner,
    ProcessState,
    WriterProcess,
    judge,
    this_process,
)

ALIVE = Liveness(alive=True)
ENDED = Liveness(alive=False, certain=True, unclean=False)
KILLED = Liveness(alive=False, certain=True, unclean=True)
QUIET = Liveness(alive=False)  # it may have ended
REPLACED = Liveness(alive=False, unclean=False)
GONE, RUNNING, UNSEEN, ELSEWHERE = (
    ProcessState.GONE,
    ProcessState.RUNNING,
    ProcessState.UNSEEN,
    ProcessState.ELSEWHERE,
)
SHORT, RETAKE, LONG = QUIET_SECONDS, RETAKE_SECONDS, LONG_SECONDS

# Lock, process, and the verdicts after so many seconds of quiet.
ROWS = [
    *((Lock.HELD, process, {0: ALIVE, 10 * LONG: ALIVE}) for process in ProcessState),
    *((Lock.AWAY, process, {0: ALIVE, 10 * LONG: ALIVE}) for process in ProcessState),
    (Lock.ABSENT, GONE, {0: ENDED}),
    *(
        (Lock.ABSENT, process, {0: ALIVE, SHORT - 0.1: ALIVE, SHORT: QUIET, LONG: ENDED})
        for process in (RUNNING, UNSEEN, ELSEWHERE)
    ),
    (Lock.FREE_OFD, GONE, {0: KILLED, LONG: KILLED}),
    (Lock.FREE_OFD, UNSEEN, {0: ALIVE, RETAKE - 0.1: ALIVE, RETAKE: KILLED, LONG: KILLED}),
    (Lock.FREE_OFD, RUNNING, {0: ALIVE, RETAKE - 0.1: ALIVE, RETAKE: REPLACED, LONG: ENDED}),
    (Lock.FREE_OFD, ELSEWHERE, {0: ALIVE, SHORT: QUIET, LONG: KILLED}),
    (Lock.FREE, GONE, {0: KILLED}),
    (Lock.FREE, RUNNING, {0: ALIVE, 10 * LONG: ALIVE}),
    (Lock.FREE, UNSEEN, {0: ALIVE, SHORT: QUIET, LONG: KILLED}),
    (Lock.FREE, ELSEWHERE, {0: ALIVE, SHORT - 0.1: ALIVE, SHORT: QUIET, LONG: KILLED}),
    (Lock.UNKNOWN, GONE, {0: KILLED}),
    (Lock.UNKNOWN, RUNNING, {0: ALIVE, 10 * LONG: ALIVE}),
    (Lock.UNKNOWN, UNSEEN, {0: ALIVE, LONG - 0.1: ALIVE, LONG: QUIET, 10 * LONG: QUIET}),
    (Lock.UNKNOWN, ELSEWHERE, {0: ALIVE, LONG - 0.1: ALIVE, LONG: QUIET}),
]


def test_every_combination_has_a_row() -> None:
    assert {(lock, process) for lock, process, _ in ROWS} == {
        (lock, process) for lock in Lock for process in ProcessState
    }


@pytest.mark.parametrize(("lock", "process", "verdicts"), ROWS, ids=lambda one: str(one))
def test_what_is_concluded(
    lock: Lock, process: ProcessState, verdicts: dict[float, Liveness]
) -> None:
    for quiet, verdict in verdicts.items():
        evidence = LivenessEvidence(lock=lock, process=process, sealed=False, quiet=quiet)
        assert judge(evidence) == verdict, quiet


@pytest.mark.parametrize("process", ProcessState)
def test_a_spool_without_owner_and_without_log_has_ended(process: ProcessState) -> None:
    """Sealed whole: its writer has closed it."""
    assert judge(LivenessEvidence(lock=Lock.ABSENT, process=process, sealed=True, quiet=0)) == ENDED
    evidence = LivenessEvidence(lock=Lock.HELD, process=process, sealed=True, quiet=LONG)
    assert judge(evidence) == ALIVE


def test_only_a_final_verdict_needs_no_second_look() -> None:
    assert [one.is_final for one in (ALIVE, QUIET, REPLACED, ENDED, KILLED)] == [
        False,
        False,
        False,
        True,
        True,
    ]


# --- the process ----------------------------------------------------------------------------------


def test_this_process_is_found() -> None:
    assert owner.find(this_process()) is ProcessState.RUNNING


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"start_ticks": 1}, ProcessState.GONE),  # the pid is another process's now
        ({"boot_id": "another"}, ProcessState.ELSEWHERE),
        ({"boot_id": ""}, ProcessState.ELSEWHERE),
        ({"pid_namespace": 1}, ProcessState.UNSEEN),
        ({"start_ticks": 0}, ProcessState.UNSEEN),
        ({"pid": -1}, ProcessState.UNSEEN),
        ({"pid": 2**62}, ProcessState.UNSEEN),
    ],
)
def test_a_process_is_known_by_more_than_its_pid(
    change: dict[str, int | str], found: ProcessState
) -> None:
    assert owner.find(replace(this_process(), **change)) is found  # type: ignore[arg-type]


def test_a_zombie_is_gone_and_so_is_a_pid_without_a_process() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(asdict(this_process())).encode())
        os._exit(0)
    life = WriterProcess(**json.loads(os.read(read, 1000)))
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert life.pid == child
    assert owner.find(life) is ProcessState.GONE
    os.waitpid(child, 0)
    assert owner.find(life) is ProcessState.GONE


# --- the lock -------------------------------------------------------------------------------------


def test_a_lock_is_seen_even_by_the_process_that_holds_it(tmp_path: Path) -> None:
    one = Owner.take(tmp_path, 0o600)
    witness = LivenessCheck(tmp_path, this_process)
    assert witness.liveness_evidence().lock is Lock.HELD
    one.release()
    assert witness.liveness_evidence().lock is Lock.ABSENT
    assert os.listdir(tmp_path) == []


def test_an_older_readers_lock_conflicts_and_no_look_ever_takes_one(tmp_path: Path) -> None:
    one = Owner.take(tmp_path, 0o600)
    with (tmp_path / "owner").open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert LivenessCheck(tmp_path, this_process).liveness_evidence().lock is Lock.HELD
    assert LivenessCheck(tmp_path, this_process).liveness_evidence().lock is Lock.HELD
    one.release()


def test_a_readers_shared_lock_is_no_sign_of_a_writer(tmp_path: Path) -> None:
    (tmp_path / "owner").write_text("1 host ofd\n")
    with (tmp_path / "owner").open("rb") as file:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert LivenessCheck(tmp_path, this_process).liveness_evidence().lock is Lock.FREE_OFD


@pytest.mark.parametrize(
    ("text", "lock"),
    [
        ("1 host ofd \n", Lock.FREE_OFD),
        ("1 host none\n", Lock.UNKNOWN),
        ("1 host\n", Lock.FREE),
        ("", Lock.FREE),
        ("\xff\x00" * 5000, Lock.FREE),
    ],
)
def test_the_text_says_how_the_file_was_locked(tmp_path: Path, text: str, lock: Lock) -> None:
    (tmp_path / "owner").write_text(text, encoding="latin-1")
    assert LivenessCheck(tmp_path, this_process).liveness_evidence().lock is lock


def test_copies_and_closes_do_not_drop_the_lock(tmp_path: Path) -> None:
    """As with a POSIX lock, which any close() of the file in the process drops."""
    spool = tmp_path / "spool"
    spool.mkdir()
    one = Owner.take(spool, 0o600)
    shutil.copytree(spool, tmp_path / "copy")
    (spool / "owner").read_bytes()
    assert LivenessCheck(spool, this_process).liveness_evidence().lock is Lock.HELD
    assert LivenessCheck(tmp_path / "copy", this_process).liveness_evidence().lock is Lock.FREE_OFD
    one.release()


@pytest.mark.parametrize("how", ["removed", "replaced", "closed", "closed and reused", "unlocked"])
def test_what_takes_the_lock_away_is_undone_at_the_next_check(tmp_path: Path, how: str) -> None:
    one, path, other = Owner.take(tmp_path, 0o600), tmp_path / "owner", tmp_path / "other"
    assert one._held is not None
    descriptor, others = one._held.number, owner._taken - {one._held}
    if how == "removed":
        path.unlink()
    elif how == "replaced":
        other.write_text("something else")
        other.rename(path)
    elif how == "unlocked":
        fcntl.fcntl(
            descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_UNLCK, 0, 0, 0, 0)
        )
    elif how == "closed":
        os.close(descriptor)
    else:
        reused = os.open(tmp_path, os.O_RDONLY)
        os.dup2(reused, descriptor)
        os.close(reused)
    witness = LivenessCheck(tmp_path, this_process)
    assert witness.liveness_evidence().lock is not Lock.HELD
    one.check()
    assert witness.liveness_evidence().lock is Lock.HELD
    one.check()
    assert len(owner._taken - others) == 1
    one.release()
    assert owner._taken == others
    assert not path.exists()
    if how == "closed and reused":
        os.close(descriptor)  # it was not ours to close, so it is still open


def test_a_released_lock_is_not_taken_again(tmp_path: Path) -> None:
    one = Owner.take(tmp_path, 0o600)
    one.release()
    one.check()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_gone_stops_neither_check_nor_release(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    others = set(owner._taken)
    one = Owner.take(spool, 0o600)
    shutil.rmtree(spool)
    one.check()
    one.release()
    assert owner._taken == others


def test_a_living_writer_touches_its_file_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Owner.take(tmp_path, 0o600)
    monkeypatch.setattr(owner, "BEAT_SECONDS", 3600.0)
    os.utime(tmp_path / "owner", (1.0, 1.0))
    one.check()
    assert (tmp_path / "owner").stat().st_mtime == 1.0
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.0)
    one.check()
    assert (tmp_path / "owner").stat().st_mtime > 1.0
    one.release()


# --- quiet ----------------------------------------------------------------------------------------


def test_quiet_ends_with_every_change_and_no_clock_that_is_set_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, wall = [1000.0], [1.7e9]
    monkeypatch.setattr(owner.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(owner.time, "time", lambda: wall[0])
    segment, log = tmp_path / "00000001.sqlite", tmp_path / "00000001.sqlite-wal"
    segment.touch()
    log.touch()
    for path in (segment, log, tmp_path):
        os.utime(path, (1.7e9 - 60, 1.7e9 - 60))
    witness = LivenessCheck(tmp_path, this_process)
    assert witness.liveness_evidence().quiet == pytest.approx(60)
    wall[0] += 86400
    now[0] += 5
    assert witness.liveness_evidence().quiet == pytest.approx(65)
    with log.open("ab") as file:
        file.write(b"more")
    assert witness.liveness_evidence().quiet == 0
    now[0] += 7
    assert witness.liveness_evidence().quiet == 7
    future = LivenessCheck(tmp_path, this_process)
    wall[0] = 1.6e9
    assert future.liveness_evidence().quiet == 0

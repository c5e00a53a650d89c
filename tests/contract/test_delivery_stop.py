"""`lens-ship run` as a process: it ships while it lives, and ends when told to, all saved."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shipper.ledger.ledger import Ledger
from shipper.service import STOP_SECONDS
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.delivery import arrived, is_ordered
from tests.kit.faulty_receiver import FaultyReceiver, Hang, Normal
from tests.kit.shipping import append, goodbye, spool, step
from tests.kit.spools import identity

PROMISED_SECONDS = 10.0
STEPS = 30
BATCH = 10
LONG = 60.0
# A busy machine may answer later than a service waits at its end.
PATIENT = "from shipper import service; service.STOP_SECONDS = 3600.0"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


def settings(folder: Path, receiver: FaultyReceiver) -> list[str]:
    return [
        *("--spool", str(folder / "spool"), "--state", str(folder / "state")),
        *("--processor-url", receiver.url, "--batch-max-steps", str(BATCH)),
        # It would wait so long for an answer: one that ends within less has not waited for it.
        *("--flush-interval", "0.1", "--read-timeout", str(10 * LONG)),
    ]


@pytest.fixture
def start(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[Start]:
    """Start a service on the spools of this test; none outlives it."""
    started: list[subprocess.Popen[str]] = []

    def begin(*more: str, before: str = "") -> subprocess.Popen[str]:
        flags = settings(tmp_path, receiver)
        started.append(start_lens_ship("run", *flags, *more, before=before))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def write(folder: Path) -> None:
    who = identity(workload_uid="w")
    spool(folder / "spool", [*(step(number) for number in range(STEPS)), goodbye()], who=who)


def end(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Tell it to end; its code and its words."""
    process.send_signal(number)
    _, said = process.communicate(timeout=LONG)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_to_with_everything_saved(
    tmp_path: Path, receiver: FaultyReceiver, start: Start, number: int
) -> None:
    write(tmp_path)
    process = start()
    receiver.wait_for(
        lambda seen: [(post.status, post.answered) for post in seen] == [(200, True)] * 3, LONG
    )
    code, said = end(process, number)
    assert code == 0
    assert "service stopped" in said
    ledger = Ledger(tmp_path / "state")
    assert [row["seq"] for row in ledger.positions() if row["sink"] == "processor"] == [STEPS + 1]
    ledger.close()


def test_ctrl_c_ends_once_as_its_timeout_does_and_what_is_pending_is_told(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    write(tmp_path)
    receiver.go_away()
    process = start("--once", "--timeout", str(10 * LONG))
    assert process.stderr is not None
    assert any("sink paused" in line for line in process.stderr)
    code, said = end(process, signal.SIGINT)
    assert code == 1
    assert "lens-ship: still pending: " in said


@pytest.mark.promise("G4")
def test_it_ends_in_time_while_a_request_hangs_and_repeats_at_most_that_one(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    write(tmp_path)
    receiver.then(Normal(), Hang(processed=True))
    process = start()
    receiver.wait_for(lambda seen: len(seen) == 2 and seen[1].processed, LONG)
    code, said = end(process, signal.SIGTERM)
    assert code == 0
    assert "still in flight" in said
    assert STOP_SECONDS < PROMISED_SECONDS  # of which a busy machine takes what it does not give us
    assert lens_ship("run", "--once", *settings(tmp_path, receiver)).code == 0
    got = arrived(receiver.store, "w")
    assert sorted(got.steps) == list(range(STEPS))
    assert is_ordered(list(dict.fromkeys(got.order)))
    assert sum(got.repeated.values()) == 1


@pytest.mark.promise("G4")
def test_it_waits_for_an_answer_that_still_comes(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    write(tmp_path)
    receiver.then(Normal(), Hang(processed=True))
    process = start(before=PATIENT)
    receiver.wait_for(lambda seen: len(seen) == 2 and seen[1].processed, LONG)
    process.send_signal(signal.SIGTERM)
    receiver.release()
    _, said = process.communicate(timeout=LONG)
    assert process.returncode == 0
    assert "service stopped" in said
    assert lens_ship("run", "--once", *settings(tmp_path, receiver)).code == 0
    assert arrived(receiver.store, "w").repeated == {}


@pytest.mark.promise("G3")
def test_it_finds_spools_and_records_that_come_while_it_runs(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    (tmp_path / "spool").mkdir()
    process = start()
    _, writer = spool(tmp_path / "spool", [step(0)], who=identity(workload_uid="w"), close=False)
    for number in range(1, 4):
        receiver.wait_for(lambda seen, done=number: len(seen) >= done, LONG)
        append(writer, [step(number)])
    receiver.wait_for(lambda seen: len(seen) >= 4 and seen[3].answered, LONG)
    writer.close()
    assert end(process, signal.SIGTERM)[0] == 0
    got = arrived(receiver.store, "w")
    assert got.order == [0, 1, 2, 3]
    assert got.repeated == {}


def test_a_root_that_is_made_later_is_found(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    process = start("--rescan-interval", "0.1")
    assert process.stderr is not None
    assert any("does not exist yet" in line for line in process.stderr)
    write(tmp_path / "aside")  # whole at once: what is written step by step may be sent so
    (tmp_path / "aside" / "spool").rename(tmp_path / "spool")
    receiver.wait_for(lambda seen: [post.status for post in seen] == [200] * 3, LONG)
    assert end(process, signal.SIGTERM)[0] == 0


def test_a_hangup_is_logged_and_ends_nothing(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    write(tmp_path)
    service = start()
    receiver.wait_for(lambda seen: len(seen) >= 1, LONG)
    service.send_signal(signal.SIGHUP)
    assert service.stderr is not None
    while "SIGHUP ignored" not in (line := service.stderr.readline()):
        assert line, "the service has ended"
    service.terminate()
    assert service.wait(LONG) == 0


def test_a_log_that_no_process_reads_does_not_stop_the_service(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    write(tmp_path)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:  # full from the start
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    flags = ("run", *settings(tmp_path, receiver), "--log-level", "debug")
    with open(writing, "w") as pipe:
        service = start_lens_ship(*flags, stderr=pipe)
    receiver.wait_for(lambda seen: len(seen) >= 3, LONG)
    service.terminate()
    assert service.wait(LONG) == 0
    os.close(reading)

"""`lens-ship run --drain-seconds`: what is there is delivered after SIGTERM, and the end comes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Hang
from tests.kit.shipping import append, goodbye, killed, spool, step
from tests.kit.spools import PATIENCE_SECONDS, identity, spool_id, wait_until

# Nothing but the drain sends within this time, and no request is given up.
NEVER = ("--flush-interval", "3600", "--rescan-interval", "3600", "--read-timeout", "3600")
# The first signal alone would leave a request all of this time.
PATIENT = "from shipper import service; service.STOP_SECONDS = 3600.0"
DRAINING = "delivering what is left"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


class Draining:
    """A service that is asked to end, with what it logs."""

    def __init__(self, folder: Path, receiver: FaultyReceiver, seconds: float, before: str) -> None:
        self.process = start_lens_ship(
            "run",
            *("--spool", str(folder / "spool"), "--state", str(folder / "state")),
            *("--processor-url", receiver.url, "--drain-seconds", str(seconds), *NEVER),
            before=before,
        )
        self.log = ""

    def wait_for(self, event: str) -> None:
        assert self.process.stderr is not None
        while event not in self.log:
            line = self.process.stderr.readline()
            assert line, self.log
            self.log += line

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        _, rest = self.process.communicate(timeout=PATIENCE_SECONDS)
        self.log += rest
        return self.process.returncode


Start = Callable[..., Draining]


@pytest.fixture
def start(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[Start]:
    """Start a service that drains for so many seconds; none outlives the test."""
    started: list[Draining] = []

    def begin(seconds: float, before: str = "") -> Draining:
        started.append(Draining(tmp_path, receiver, seconds, before))
        return started[-1]

    yield begin
    for service in started:
        service.process.kill()
        service.process.communicate()


def left(folder: Path) -> str:
    places = ("--spool", str(folder / "spool"), "--state", str(folder / "state"))
    return lens_ship("status", *places).out.splitlines()[0]


def test_open_steps_and_new_records_are_sent_and_the_end_comes_early(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    who = identity(workload_uid="w")
    _, writer = spool(tmp_path / "spool", [step(0)], who=who, close=False)
    service = start(3600.0)
    receiver.wait_for(lambda seen: seen and seen[0].processed, PATIENCE_SECONDS)
    append(writer, [step(1), step(2, closed=False)])
    late = identity(spool_id(2), workload_uid="late")
    spool(tmp_path / "spool", [step(7), goodbye()], who=late)
    service.end()
    assert service.wait() == 0
    assert DRAINING in service.log
    assert "service stopped" in service.log
    assert arrived(receiver.store, "w").order == [0, 1, 2]
    assert arrived(receiver.store, "late").order == [7]
    writer.close()


def test_a_receiver_that_comes_back_gets_what_it_refused(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    busy = Answer(status=503, headers=(("Retry-After", "600"),))
    receiver.then(busy)
    spool(tmp_path / "spool", [step(0), goodbye()], who=identity(workload_uid="w"))
    service = start(PATIENCE_SECONDS)
    service.wait_for("sink paused")
    service.end()
    assert service.wait() == 0
    assert [post.status for post in receiver.seen] == [503, 200]


def test_an_outage_takes_the_whole_time_and_no_more_and_nothing_is_lost(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    receiver.otherwise = Answer(status=503)
    spool(tmp_path / "spool", [step(0), goodbye()], who=identity(workload_uid="w"))
    service = start(1.5)
    service.wait_for("sink paused")
    begun = time.monotonic()
    service.end()
    assert service.wait() == 0
    assert time.monotonic() - begun >= 1.5
    assert "2 records pending" in left(tmp_path)


@pytest.mark.parametrize("seconds", [0, 3600])
def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, receiver: FaultyReceiver, start: Start, seconds: float
) -> None:
    receiver.then(Hang(processed=True))
    spool(tmp_path / "spool", [step(0), goodbye()], who=identity(workload_uid="w"))
    service = start(seconds, PATIENT)
    receiver.wait_for(lambda seen: seen and seen[0].processed, PATIENCE_SECONDS)
    service.end()
    if seconds:
        service.wait_for(DRAINING)
    wait_until(lambda: service.end() or service.process.poll() is not None)
    assert service.wait() == 0
    assert "still in flight" in service.log


@pytest.mark.promise("G16")
def test_the_end_of_a_process_in_another_pid_namespace_is_reported_too(
    tmp_path: Path, receiver: FaultyReceiver, start: Start
) -> None:
    open_step = [step(0), step(1, closed=False)]
    killed(tmp_path / "spool", open_step, spool_id(1), workload_uid="w", pid_namespace=1)
    service = start(PATIENCE_SECONDS)
    receiver.wait_for(lambda seen: seen and seen[0].processed, PATIENCE_SECONDS)
    service.end()
    assert service.wait() == 0
    assert "writer exited uncleanly" in service.log


def test_a_service_whose_starter_is_gone_ends(tmp_path: Path, receiver: FaultyReceiver) -> None:
    spool(tmp_path / "spool", [step(0), goodbye()], who=identity(workload_uid="w"))
    flags = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    service = start_lens_ship(
        *("run", "--stop-on-eof", *flags, "--processor-url", receiver.url),
        *("--drain-seconds", "60"),
        before="import os; reading, writing = os.pipe(); os.dup2(reading, 0); os.close(writing)",
    )
    assert service.wait(PATIENCE_SECONDS) == 0
    assert [post.status for post in receiver.seen] == [200]
    service.communicate()

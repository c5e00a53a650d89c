"""Messages to the service manager: real datagrams, on a path and on an abstract address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.health.sd_notify import SystemdNotifier
from tests.kit.shipping import Clock


class Manager:
    """The manager's socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        """Everything sent so far."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notify"


@pytest.fixture
def manager(path: Path) -> Iterator[Manager]:
    one = Manager(str(path))
    yield one
    one.socket.close()


def test_ready_is_sent_once_with_a_status(path: Path, manager: Manager) -> None:
    notify = SystemdNotifier({"NOTIFY_SOCKET": str(path)})
    notify.ready("shipping /spool")
    notify.ready("shipping /spool")
    assert manager.received() == ["READY=1\nSTATUS=shipping /spool"]


def test_a_status_is_one_line_and_stopping_is_sent(path: Path, manager: Manager) -> None:
    notify = SystemdNotifier({"NOTIFY_SOCKET": str(path)})
    notify.status("3 spools;\nMAINPID=1")
    notify.stopping(within=9.5)
    stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=9500000"
    assert manager.received() == ["STATUS=3 spools; MAINPID=1", stopping]


def test_an_abstract_address_is_reached() -> None:
    name = f"lens-ship-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    try:
        SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"}).stopping(within=9.5)
        assert manager.received() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=9500000"]
    finally:
        manager.socket.close()


def test_pings_come_at_half_of_what_the_watchdog_allows(path: Path, manager: Manager) -> None:
    clock = Clock()
    environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "90000000"}
    notify = SystemdNotifier(environ, now=clock)
    assert notify.ping_seconds == 45.0
    notify.alive()
    clock.pass_by(44.9)
    notify.alive()
    assert manager.received() == ["WATCHDOG=1"]
    clock.pass_by(0.1)
    notify.alive()
    assert manager.received() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "1"},
    ],
)
def test_a_process_that_is_not_watched_does_not_ping(
    path: Path, manager: Manager, environ: dict[str, str]
) -> None:
    notify = SystemdNotifier({"NOTIFY_SOCKET": str(path), **environ})
    assert notify.ping_seconds == float("inf")
    notify.status("here")
    assert manager.received() == ["STATUS=here"]


@pytest.mark.parametrize("address", ["", "vsock:2:1234"])
def test_without_a_manager_nothing_is_sent(address: str) -> None:
    notify = SystemdNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "90000000"})
    assert not notify.is_used
    assert notify.ping_seconds == float("inf")
    notify.ready("")
    notify.alive()
    notify.stopping(within=9.5)


def test_a_manager_that_is_gone_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notify = SystemdNotifier({"NOTIFY_SOCKET": str(path)})
    notify.status("a")
    notify.status("b")
    assert len(caplog.records) == 1
    assert "service manager not notified" in caplog.text

"""The real service and a real notify socket: ready, alive, stopping; silent when it is stuck."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.command import start_lens_ship
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY, environment, fill

# A ping every quarter of a second; nothing depends on how punctual they are.
WATCHDOG_USEC = "500000"
SILENCE_SECONDS = 2.0


class Manager:
    """Waits for messages as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE_SECONDS)
        self.heard: list[str] = []

    def wait_for(self, word: str, times: int = 1) -> None:
        """Until a message with `word` has come so many times."""
        while sum(word in message for message in self.heard) < times:
            self.heard.append(self.socket.recv(4096).decode())

    def falls_silent(self) -> bool:
        """Whether there comes a while without pings, several times as long as their interval."""
        self.socket.settimeout(SILENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while time.monotonic() < deadline:
                self.socket.recv(4096)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path / "notify")
    yield one
    one.socket.close()


def environ_of(manager: Manager, folder: Path) -> dict[str, str]:
    return {
        "NOTIFY_SOCKET": str(manager.path),
        "WATCHDOG_USEC": WATCHDOG_USEC,
        "LENS_SHIP_SPOOL": str(folder / "spool"),
        "LENS_SHIP_STATE": str(folder / "state"),
        "LENS_SHIP_PROCESSOR_URL": "http://127.0.0.1:9/v1",
        "LENS_SHIP_HTTP_LISTEN": "off",
    }


def test_the_service_is_ready_pings_and_says_that_it_stops(
    tmp_path: Path, manager: Manager
) -> None:
    spool(tmp_path / "spool", [step(1), goodbye()])
    service = start_lens_ship("run", **environ_of(manager, tmp_path))
    try:
        manager.wait_for("READY=1")
        *before, ready = manager.heard
        assert ready == f"READY=1\nSTATUS=shipping {tmp_path / 'spool'}"
        # Housekeeping may have something to show before the main thread is there.
        assert all(message.startswith("STATUS=") for message in before)
        manager.wait_for("WATCHDOG=1", times=3)
        service.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1\nEXTEND_TIMEOUT_USEC=")
        _, errors = service.communicate(timeout=PATIENCE_SECONDS)
    finally:
        service.kill()
    assert service.returncode == 0, errors
    # The state was opened and the root walked before it was ready.
    assert "service stopped" in errors
    assert (tmp_path / "state").is_dir()


# In the process of the service: `pinged` is set once it has pinged twice.
PINGED = """
import sys, threading, time
from shipper import app, service
from shipper.delivery import workers
from shipper.health import heartbeat, sd_notify
pinged, pings, ping = threading.Event(), [], sd_notify.SystemdNotifier._send
def counted(self, message):
    ping(self, message)
    pings.append(message == "WATCHDOG=1")
    if sum(pings) == 2:
        pinged.set()
sd_notify.SystemdNotifier._send = counted
"""
STUCK = {
    # The main loop stops at a heartbeat.
    "main loop": """
heartbeat.BEAT_SECONDS = 0.1
beat = service.HeartbeatWriter.beat
def stuck(self, healths, **more):
    if pinged.is_set():
        threading.Event().wait()
    beat(self, healths, **more)
service.HeartbeatWriter.beat = stuck
""",
    # A scan of the root never returns.
    "housekeeping": """
from shipper.health import liveness
liveness.LOOP_SECONDS = 1.0
app.Cleaner.seconds = 0.1
walk = app.SpoolScanner.scan_if_due
def stuck(self):
    if pinged.is_set():
        threading.Event().wait()
    walk(self)
app.SpoolScanner.scan_if_due = stuck
""",
    # A worker ends, as nothing but a fault of the interpreter could make it.
    "worker": """
def gone(self, queue):
    if threading.current_thread().name == "processor-1":
        pinged.wait()
        raise SystemExit
    while self._scheduler.take(queue) is not None:
        pass
workers.Workers._work = gone
""",
}


@pytest.mark.parametrize("which", STUCK)
def test_a_service_that_is_stuck_stops_pinging(
    which: str, tmp_path: Path, manager: Manager
) -> None:
    code = PINGED + STUCK[which] + "from shipper.cli import main; sys.argv[1:] = ['run']; main()"
    fill(tmp_path / "spool", 1)
    service = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(**environ_of(manager, tmp_path)),
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    try:
        manager.wait_for("WATCHDOG=1", times=2)
        assert manager.falls_silent()
        assert service.poll() is None, "it must hang, not have ended"
    finally:
        service.kill()
        service.wait()

"""Tells the service manager, by systemd's notify protocol: ready, alive, stopping.

Rules: one datagram a message, to the socket that `NOTIFY_SOCKET` names; without it, nothing. A
message that cannot be sent is said once in the log and never hinders the service.

No library: those on the package index are unkept or need C headers, and this is one `sendto`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from shipper.log import fields

log = logging.getLogger(__name__)

# The manager reads its socket all the time; one that does not is not worth waiting for.
_SEND_SECONDS = 1.0


class SystemdNotifier:
    """One service's line to its manager. Used by the main thread; `status` by any other."""

    def __init__(
        self, environ: Mapping[str, str], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._now = now
        self._pinged = float("-inf")
        self._ready = False
        self._said: set[str] = set()
        # Half of what the manager allows, as its manual asks for; infinity where it does not watch.
        self.ping_seconds = _watchdog_seconds(environ) / 2 if self._address else float("inf")

    def ready(self, status: str) -> None:
        """The service does its work from now on; only the first call says so."""
        if not self._ready:
            self._ready = True
            self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """The service goes on; sent at most once per `ping_seconds`."""
        if self._now() - self._pinged >= self.ping_seconds:
            self._pinged = self._now()
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service has been told to end."""
        self._send("STOPPING=1")

    @property
    def is_heard(self) -> bool:
        """Whether there is a manager to tell."""
        return bool(self._address)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(_SEND_SECONDS)
                line.sendto(message.encode(), self._address)
        except OSError as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                log.warning(
                    "the service manager cannot be told %s: %s",
                    message,
                    error,
                    extra=fields(path="NOTIFY_SOCKET", detail=error),
                )


def _address(given: str) -> str:
    """The socket's address; systemd writes the leading zero byte of an abstract one as `@`."""
    if given.startswith("@"):
        return f"\0{given[1:]}"
    if given and not given.startswith("/"):
        log.warning(
            "NOTIFY_SOCKET=%s is no unix socket; the manager is not told anything",
            given,
            extra=fields(path=given),
        )
        return ""
    return given


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """What `WATCHDOG_USEC` allows, if it is meant for this process; else infinity."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    microseconds = environ.get("WATCHDOG_USEC", "")
    return (
        int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else float("inf")
    )

"""Messages to systemd by its notify protocol: ready, alive, status, stopping.

Without `NOTIFY_SOCKET` nothing is sent. No library: those on the package index are unmaintained or
need C headers, and this is one `sendto`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from shipper.log import fields

log = logging.getLogger(__name__)

# systemd reads its socket all the time; the service waits no longer for one that does not.
_SEND_SECONDS = 1.0


class SystemdNotifier:
    """Used by the main thread; `status` by any."""

    def __init__(
        self, environ: Mapping[str, str], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self.is_used = name.startswith(("/", "@"))  # others, as vsock:, are not Unix sockets
        # systemd writes the leading zero byte of an abstract address as @.
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._now = now
        self._pinged = float("-inf")
        self._ready = False
        self._failed: set[str] = set()
        # Half of what the watchdog allows, as systemd's manual asks; infinite without a watchdog.
        allowed = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = self.is_used and meant and allowed.isdecimal() and int(allowed) > 0
        self.ping_seconds = int(allowed) / 2e6 if watched else float("inf")

    def ready(self, status: str) -> None:
        """Report that the service works; only the first call sends it."""
        if not self._ready:
            self._ready = True
            self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Ping the watchdog, at most once in `ping_seconds`."""
        if self._now() - self._pinged >= self.ping_seconds:
            self._pinged = self._now()
            self._send("WATCHDOG=1")

    def stopping(self, *, within: float) -> None:
        """Report the beginning of the end, for which systemd is to wait at least so long."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def _send(self, message: str) -> None:
        if not self.is_used:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            if str(error) not in self._failed:
                self._failed.add(str(error))
                subject = fields(path=self._address, detail=error)
                log.warning("service manager not notified", extra=subject)

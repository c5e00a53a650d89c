"""What the XPU timer on this node measures: its metrics page, sample by sample.

The master finds hangs in these samples: one that is missing, doubled or cut leads it astray. So a
sample is reported whole or not at all, and of several processes with the same spool root one
collects. The network modules of the standard library are loaded at the first look, not before.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from spooler import config
from spooler.async_exceptions import ours
from spooler.collectors import Collector, logger
from spooler.collectors.turn import NodeTurn
from spooler.dlrover.metric import DiagnosisDataType

if TYPE_CHECKING:
    from http.client import HTTPResponse

_HOST = "127.0.0.1"
_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_SAMPLE_BYTES = 3 * 1024 * 1024  # what a master takes in one message, with room for its encoding
_CHUNK = 64 * 1024
# Media types of an exposition; a page that names none may be one.
_TYPES = frozenset({"", "text/plain", "application/openmetrics-text"})
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|inf(?:inity)?|nan)"
# A name, labels, a value, perhaps a time. Each part begins where the one before has ended, so a
# line takes time in proportion to its length.
_SAMPLE = re.compile(
    r"[a-z_:][\w:]*"
    r'(?:[ \t]*\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}[ \t]*|[ \t]+)'
    rf"{_NUMBER}(?:[ \t]+{_NUMBER})?[ \t]*(?:# .*)?",
    re.ASCII | re.IGNORECASE,
)


class MetricCollector(Collector):
    """Scrapes `http://127.0.0.1:$XPU_TIMER_PORT/metrics`."""

    name = "metric"
    title = "XPU timer metrics"
    data_type = DiagnosisDataType.XPU_TIMER_METRIC

    def __init__(self) -> None:
        super().__init__()
        self._turn = NodeTurn()

    @property
    def port(self) -> int | None:
        """The port that the environment names, None without one that can be."""
        try:
            port = int(os.environ.get(config.XPU_TIMER_PORT, ""))
        except ours(ValueError):
            return None
        return port if 0 < port < 65536 else None

    def is_enabled(self) -> bool:
        """Whether something listens there, and no other process of this node collects it."""
        port = self.port
        return port is not None and self._has_turn(port) and _listens(port)

    def collect_data(self) -> str:
        """The sample as it is now, "" when there is none to be had."""
        port = self.port
        if port is None:
            return ""
        try:
            return _checked(clean(_fetch(port)))
        except ours(Exception) as error:  # whatever answers there may answer anything
            logger.warning("No sample from the XPU timer at %s:%d: %s", _HOST, port, error)
            return ""

    def store_data(self, data: Any) -> bool:
        """Report a sample; an empty one is none."""
        if not isinstance(data, str):
            return self._refuse_type(data, "text")
        if not data or not self._turn.is_mine():
            return False
        return self._report(data)

    def keep_turn(self) -> None:
        """Show that this process still collects, or ask whether another one still does."""
        if (port := self.port) is not None:
            self._has_turn(port)

    def close(self) -> None:
        """Let another process collect."""
        self._turn.close()

    def _has_turn(self, port: int) -> bool:
        return self._turn.take(f"xpu-timer-{os.uname().nodename}-{port}")


def clean(page: str) -> str:
    """The lines of a metrics page that are samples of the timer itself."""
    lines = (line for line in page.splitlines() if not line.startswith(("#", "exposer")))
    return "\n".join(lines)


def _checked(sample: str) -> str:
    """The sample.

    Raises:
        ValueError: it is not the text of an exposition: any page may answer at a port.
    """
    for line in sample.splitlines():
        if line.strip() and not _SAMPLE.fullmatch(line):
            raise ValueError(f"{line[:80]!r} is not a sample of a metric")
    return sample


def _listens(port: int) -> bool:
    import socket

    try:
        with socket.create_connection((_HOST, port), _CONNECT_SECONDS):
            return True
    except ours(OSError):
        return False


def _fetch(port: int) -> str:
    """The page; through no proxy, in bounded time and size.

    Raises:
        OSError, http.client.HTTPException, ValueError: there is no such page.
    """
    import http.client

    deadline = time.monotonic() + _ANSWER_SECONDS
    connection = http.client.HTTPConnection(_HOST, port, timeout=_CONNECT_SECONDS)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ValueError(f"HTTP status {answer.status} {answer.reason}")
        _check_type(answer)
        page = b""
        while chunk := answer.read1(_CHUNK):
            page += chunk
            if len(page) > _SAMPLE_BYTES:
                raise ValueError(f"the sample is larger than {_SAMPLE_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"no complete answer within {_ANSWER_SECONDS:.0f} s")
        if answer.length:
            raise ValueError(f"the last {answer.length} bytes are missing")
        return page.decode("utf-8")
    finally:
        connection.close()


def _check_type(answer: HTTPResponse) -> None:
    """Refuse a page that says of itself that it is none.

    Raises:
        ValueError: it is of another type, or encoded though we accept no encoding.
    """
    encoding = answer.getheader("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ValueError(f"the answer is encoded as {encoding:.40}")
    kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise ValueError(f"the answer is of type {kind:.80}, not text/plain")

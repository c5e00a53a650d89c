"""Log lines: a fixed event phrase, and what varies in fields.

    log.warning("sink paused, data is kept", extra=fields(sink="processor", reason="refused"))

At info there is a line for each change of state and none for each request. Control characters are
escaped, so that no value can forge a line or move the cursor of a terminal.

No thread waits for the reader of stderr: one thread of its own writes there.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import select
import shutil
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from shipper.humanize import sanitize

log = logging.getLogger(__name__)

# Python 3.10 knows the parameter of this class only while types are checked.
if TYPE_CHECKING:
    _ToStream = logging.StreamHandler["TextIO | BackgroundStream"]
else:
    _ToStream = logging.StreamHandler

# Two records with the same event and the same values of these fields are repeats of each other.
SUBJECT = ("sink", "workload", "spool", "path", "url", "receiver", "reason")
_MAX_SUBJECTS = 4096
_FIELD_CHARACTERS = 8192  # a path has half of that at most
_PRIORITY = ((50, 2), (40, 3), (30, 4), (20, 6), (0, 7))  # level at least -> that of syslog
# What waits for a reader of stderr at most, and how long the end of the process waits for him.
_MAX_WAITING_BYTES = 1024 * 1024
_DRAIN_SECONDS = 2.0
FILE_BYTES = 1024 * 1024  # of a file that only the service writes
_BARE = re.compile(r"[^\s\"=\\]+")


def fields(**values: Any) -> dict[str, Any]:
    """The `extra` of a logging call; None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def start(
    level: str, style: str = "text", repeat_seconds: float = 0.0, own: Path | None = None
) -> None:
    """Log to stderr from `level` on, in one of `FORMATS`; `own` is as for `BackgroundStream`."""
    handler = RateLimitHandler(BackgroundStream(sys.stderr, own), repeat_seconds)
    handler.setFormatter(FORMATS[style](journal=is_journal(sys.stderr, os.environ)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("urllib3", "watchdog"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def flush_repeats() -> None:
    """Write the repeats that are due; to be called every few seconds."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RateLimitHandler):
            handler.flush_repeats()
            stream = handler.stream
            if isinstance(stream, BackgroundStream) and (count := stream.take_discarded()):
                log.warning("log lines discarded, stderr was not read", extra=fields(count=count))


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is systemd's journal itself and not a file it was redirected to."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class BackgroundStream:
    """Writes to a stream's descriptor on a thread of its own, which ends with the process.

    A pipe that no process reads, or a disk that hangs, would stop the thread that logs. Text beyond
    `_MAX_WAITING_BYTES` is discarded and counted. What the descriptor refuses has no other place.

    If the stream is the file `own`, it is emptied at `FILE_BYTES`, and what it had is in `own`.1.
    """

    def __init__(self, stream: TextIO, own: Path | None = None) -> None:
        self._own = own
        self._discarded = 0  # writes
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding
        # It may be used in a signal handler, in the middle of a `put` of the same thread.
        self._waiting: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self._put = self._written = 0  # bytes
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Never waits."""
        data = text.encode(self._encoding, "backslashreplace")
        if self._put - self._written > _MAX_WAITING_BYTES:
            self._discarded += 1
        else:
            self._put += len(data)
            self._waiting.put(data)

    def flush(self) -> None:
        """Nothing: `drain` waits."""

    def take_discarded(self) -> int:
        """How many writes were discarded, once there is space for that line again."""
        if self._put - self._written > _MAX_WAITING_BYTES / 2:
            return 0
        count, self._discarded = self._discarded, 0
        return count

    def drain(self) -> None:
        """Wait until everything before is written, or `_DRAIN_SECONDS`."""
        done = threading.Event()
        self._waiting.put(done)
        done.wait(_DRAIN_SECONDS)

    def _run(self) -> None:
        while True:
            item = self._waiting.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            if self._own is not None:
                with suppress(OSError):  # deleted
                    self._cut(self._own)
            with suppress(OSError):  # closed, or its disk is full
                self._write(item)
            self._written += len(item)

    def _cut(self, own: Path) -> None:
        """Empty the file if it is full, and the one of that name."""
        found = os.fstat(self._descriptor)
        if found.st_size > FILE_BYTES and os.path.samestat(found, os.stat(own)):
            with suppress(OSError):
                shutil.copy(own, f"{own}.1")
            os.ftruncate(self._descriptor, 0)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process of the terminal has made it non-blocking
                select.select([], [self._descriptor], [])


@dataclass(kw_only=True)
class _RepeatWindow:
    """The time in which repeats of one record are held back."""

    until: float
    last: logging.LogRecord | None = None
    count: int = 0


class RateLimitHandler(_ToStream):
    """Writes a record at once, and of its repeats the last one in each `repeat_seconds`.

    The last one is written, and not the first, so that the log ends on the current state.
    """

    def __init__(
        self,
        stream: TextIO | BackgroundStream,
        repeat_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream)
        self._seconds = repeat_seconds
        self._clock = clock
        self._windows: OrderedDict[tuple[Any, ...], _RepeatWindow] = OrderedDict()  # by `until`

    def emit(self, record: logging.LogRecord) -> None:
        """Write it now or hold it back."""
        self.flush_repeats()
        if not self._seconds or record.levelno <= logging.DEBUG:
            super().emit(record)
            return
        window = self._windows.get(_key(record))
        if window is None:
            self._windows[_key(record)] = _RepeatWindow(until=self._clock() + self._seconds)
            super().emit(record)
        else:
            window.last, window.count = record, window.count + 1

    def flush_repeats(self, *, everything: bool = False) -> None:
        """Write the last of the repeats whose time is over; `suppressed` counts the others."""
        now = self._clock()
        due: list[tuple[tuple[Any, ...], logging.LogRecord]] = []
        self.acquire()
        try:
            while self._windows:
                key, window = next(iter(self._windows.items()))
                if not everything and now < window.until and len(self._windows) <= _MAX_SUBJECTS:
                    break
                del self._windows[key]
                if window.last is not None:
                    window.last.suppressed = window.count - 1
                    due.append((key, window.last))
            for key, record in sorted(due, key=lambda one: one[1].created):
                super().emit(record)
                self._windows[key] = _RepeatWindow(until=now + self._seconds)
        finally:
            self.release()

    def close(self) -> None:
        """Write what is still held back."""
        self.flush_repeats(everything=True)
        if isinstance(self.stream, BackgroundStream):
            self.stream.drain()
        super().close()


def _key(record: logging.LogRecord) -> tuple[Any, ...]:
    values = getattr(record, "fields", None)
    if values is None:
        return record.name, record.levelno, record.getMessage()
    return record.name, record.levelno, str(record.msg), *(values.get(name) for name in SUBJECT)


class Text(logging.Formatter):
    """For people: time, level, event, fields; a traceback follows on lines of its own."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines of which each has its priority towards the journal."""
        head = "" if self._journal else f"{self.formatTime(record)} {record.levelname:<7} "
        line = " ".join([sanitize(record.getMessage(), None), *_pairs(_fields(record))])
        trace = [sanitize(line, None) for line in self._trace(record).splitlines()]
        return "\n".join(f"{self._priority(record)}{line}" for line in (head + line, *trace))

    def _priority(self, record: logging.LogRecord) -> str:
        if not self._journal:
            return ""
        return f"<{next(p for level, p in _PRIORITY if record.levelno >= level)}>"

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""

    def _whole(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields with time, level, event and traceback."""
        values: dict[str, Any] = {} if self._journal else {"time": _iso(record.created)}
        values["level"] = record.levelname.lower()
        values["msg"] = sanitize(record.getMessage(), None)
        values |= _fields(record)
        if trace := self._trace(record):
            values["trace"] = "\n".join(sanitize(line, None) for line in trace.splitlines())
        return values


class Logfmt(Text):
    """For machines: name=value with quotes where they are needed."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return self._priority(record) + " ".join(_pairs(self._whole(record)))


class Json(Text):
    """For machines: one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return self._priority(record) + orjson.dumps(self._whole(record), default=str).decode()


FORMATS: dict[str, type[Text]] = {"text": Text, "logfmt": Logfmt, "json": Json}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    values = {
        name: value if isinstance(value, int | float) else sanitize(str(value), _FIELD_CHARACTERS)
        for name, value in getattr(record, "fields", {}).items()
    }
    suppressed = getattr(record, "suppressed", 0)
    return {**values, "suppressed": suppressed} if suppressed else values


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_logfmt(value)}" for name, value in values.items()]


def _logfmt(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if _BARE.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'


def _iso(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"

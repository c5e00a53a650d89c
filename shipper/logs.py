"""Lines of the log: a sentence for people with fields for machines, and no more often than useful.

Rules:

- A call says a sentence and, by `about`, what it is about: `extra=about(sink=..., spool=...)`. In
  text the sentence is the line; logfmt and json add the fields.
- At info there is a line for each change of state and none for each request.
- The same sentence about the same subject comes once in a while; the last one that was held back
  is told when the time is over, with how many there were, so that the log never ends on a state
  that is long gone.
- What comes from elsewhere cannot start a line of its own or move the cursor: control characters
  are escaped.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import orjson

# Python 3.10 knows the parameter of this class only while types are checked.
if TYPE_CHECKING:
    _ToStream = logging.StreamHandler[TextIO]
else:
    _ToStream = logging.StreamHandler

# What of `about` makes it another subject; the rest (seq, detail …) is only told.
SUBJECT = ("sink", "workload", "spool", "path", "url", "receiver", "reason")
_MOST_SUBJECTS = 4096
_PRIORITY = ((50, 2), (40, 3), (30, 4), (20, 6), (0, 7))  # level at least -> that of syslog

# Control characters, line ends of Unicode, what turns the direction of text, halves of pairs.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_BARE = re.compile(r"[^\s\"=\\]+")


def about(**subject: Any) -> dict[str, Any]:
    """The `extra` of a logging call: what it is about, by name; None is left out."""
    return {"about": {name: value for name, value in subject.items() if value is not None}}


def escaped(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal would act upon."""
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def start(level: str, style: str = "text", repeat_seconds: float = 0.0) -> None:
    """Log to stderr from `level` on, in one of `shipper.config.schema.LOG_FORMATS`."""
    handler = Calm(sys.stderr, repeat_seconds)
    handler.setFormatter(FORMATS[style](journal=is_journal(sys.stderr, os.environ)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("urllib3", "watchdog"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def tell_repeats() -> None:
    """Tell what was held back and is due; to be called now and then."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Calm):
            handler.tell_due()


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is systemd's journal itself and not a file it was redirected to."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


# --- how often ------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Said:
    """One sentence about one subject: until when it is held back, and what was."""

    until: float
    held: logging.LogRecord | None = None
    count: int = 0


class Repeats:
    """Which records are told now and which are held back; time is given."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._said: OrderedDict[tuple[Any, ...], _Said] = OrderedDict()

    def admit(self, record: logging.LogRecord, now: float) -> bool:
        """Whether to tell it now; otherwise it is held, in place of the one held before."""
        if not self._seconds or record.levelno <= logging.DEBUG:
            return True
        key = _key(record)
        said = self._said.get(key)
        if said is None:
            self._said[key] = _Said(until=now + self._seconds)
            return True
        said.held, said.count = record, said.count + 1
        return False

    def due(self, now: float) -> Iterator[logging.LogRecord]:
        """Those whose time is over, the last of each subject; `repeats` of it counts the others."""
        over = [key for key, said in self._said.items() if said.until <= now]
        over += list(self._said)[: max(0, len(self._said) - _MOST_SUBJECTS)]
        told = [(self._said.pop(key), key) for key in dict.fromkeys(over)]
        for said, key in sorted(told, key=lambda one: one[0].held.created if one[0].held else 0.0):
            if said.held is not None:
                said.held.repeats = said.count - 1
                self._said[key] = _Said(until=now + self._seconds)
                yield said.held

    def held(self) -> Iterator[logging.LogRecord]:
        """All that is still held, at the end."""
        return self.due(float("inf"))


def _key(record: logging.LogRecord) -> tuple[Any, ...]:
    subject = getattr(record, "about", None)
    if subject is None:
        return record.name, record.levelno, record.getMessage()
    return record.name, record.levelno, str(record.msg), *(subject.get(name) for name in SUBJECT)


class Calm(_ToStream):
    """Writes to a stream, and holds back what repeats."""

    def __init__(self, stream: TextIO, repeat_seconds: float) -> None:
        super().__init__(stream)
        self._repeats = Repeats(repeat_seconds)

    def emit(self, record: logging.LogRecord) -> None:
        """Write it now or hold it."""
        self.tell_due()
        if self._repeats.admit(record, time.monotonic()):
            super().emit(record)

    def tell_due(self) -> None:
        """Write what has been held long enough."""
        self.acquire()
        try:
            for held in self._repeats.due(time.monotonic()):
                super().emit(held)
        finally:
            self.release()

    def close(self) -> None:
        """Write what is still held; nothing comes after it."""
        self.acquire()
        try:
            for held in self._repeats.held():
                super().emit(held)
        finally:
            self.release()
        super().close()


# --- what it looks like ---------------------------------------------------------------------------


class Text(logging.Formatter):
    """For people: time, level, sentence; a traceback follows on lines of its own."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines of which each has its priority towards the journal."""
        head = "" if self._journal else f"{self.formatTime(record)} {record.levelname:<7} "
        sentence = f"{head}{escaped(record.getMessage())}{_more(record)}"
        lines = [sentence, *(escaped(line) for line in self._trace(record).splitlines())]
        return "\n".join(f"{self._priority(record)}{line}" for line in lines)

    def _priority(self, record: logging.LogRecord) -> str:
        if not self._journal:
            return ""
        return f"<{next(p for level, p in _PRIORITY if record.levelno >= level)}>"

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {} if self._journal else {"time": _iso(record.created)}
        fields["level"] = record.levelname.lower()
        fields["msg"] = escaped(record.getMessage())
        for name, value in getattr(record, "about", {}).items():
            fields[name] = value if isinstance(value, int | float) else escaped(str(value))
        if getattr(record, "repeats", 0):
            fields["suppressed"] = record.__dict__["repeats"]
        trace = self._trace(record)
        if trace:
            fields["trace"] = "\n".join(escaped(line) for line in trace.splitlines())
        return fields


class Logfmt(Text):
    """For machines: name=value with quotes where they are needed."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = self._fields(record).items()
        return self._priority(record) + " ".join(f"{n}={_logfmt(v)}" for n, v in fields)


class Json(Text):
    """For machines: one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return self._priority(record) + orjson.dumps(self._fields(record), default=str).decode()


FORMATS: dict[str, type[Text]] = {"text": Text, "logfmt": Logfmt, "json": Json}


def _more(record: logging.LogRecord) -> str:
    repeats = getattr(record, "repeats", 0)
    return f" ({repeats} more like this were held back)" if repeats else ""


def _iso(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _logfmt(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if _BARE.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'

"""Lines of the log: what they look like, how often they come, that strangers cannot forge them."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from shipper import log as log_module
from shipper.humanize import sanitize
from shipper.log import (
    FILE_BYTES,
    FORMATS,
    BackgroundStream,
    RateLimitHandler,
    fields,
    flush_repeats,
    is_journal,
    start,
)
from tests.kit.spools import PATIENCE_SECONDS

EVENT = "sink paused, data is kept"


@pytest.fixture(autouse=True)
def drained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that writes on after its test does so to a descriptor that is another's then."""
    monkeypatch.setattr(log_module, "_DRAIN_SECONDS", PATIENCE_SECONDS)


def record(event: str = EVENT, *, level: int = logging.WARNING, **values: Any) -> logging.LogRecord:
    made = logging.LogRecord("shipper.delivery.sink_state", level, "f.py", 1, event, (), None)
    made.created = 1700000000.25
    if values:
        made.__dict__.update(fields(**values))
    return made


def line(style: str, made: logging.LogRecord, *, journal: bool = False) -> str:
    return FORMATS[style](journal=journal).format(made)


def test_text_is_the_event_and_its_fields() -> None:
    made = record(sink="processor", reason="refused", detail="no route", retry_in=2.5)
    assert line("text", made).endswith(
        ' WARNING sink paused, data is kept sink=processor reason=refused detail="no route"'
        " retry_in=2.5"
    )


def test_logfmt_has_the_fields() -> None:
    made = record(sink="processor", seq=7, detail='a "b" c=d', empty="", whole=True)
    assert line("logfmt", made) == (
        'time=2023-11-14T22:13:20.250Z level=warning msg="sink paused, data is kept"'
        ' sink=processor seq=7 detail="a \\"b\\" c=d" empty="" whole=true'
    )


def test_json_has_the_fields_with_their_types() -> None:
    made = record(sink="processor", seq=7, spool=Path("/s"), nothing=None)
    assert json.loads(line("json", made)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "msg": "sink paused, data is kept",
        "sink": "processor",
        "seq": 7,
        "spool": "/s",
    }


@pytest.mark.parametrize("style", FORMATS)
def test_towards_the_journal_every_line_has_its_priority_and_no_time(style: str) -> None:
    made = record("failed", level=logging.ERROR)
    try:
        raise ValueError("of ours")
    except ValueError:
        made.exc_info = sys.exc_info()
    text = line(style, made, journal=True)
    assert all(one.startswith("<3>") for one in text.splitlines())
    assert "2023" not in text
    assert "ValueError: of ours" in text
    assert len(text.splitlines()) == 1 or style == "text"


@pytest.mark.parametrize(
    ("level", "priority"), [(10, 7), (20, 6), (30, 4), (40, 3), (50, 2), (5, 7), (35, 4)]
)
def test_the_priorities_are_those_of_syslog(level: int, priority: int) -> None:
    assert line("text", record("x", level=level), journal=True) == f"<{priority}>x"


EVIL = "a\nb\r\x1b[31mc\x00\u2028\u202ed\ud800\x9b2J"


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("journal", [True, False])
def test_what_comes_from_elsewhere_cannot_forge_a_line_or_move_a_cursor(
    style: str, journal: bool
) -> None:
    text = line(style, record(EVIL, spool=EVIL, detail=EVIL), journal=journal)
    assert text.isprintable()
    text.encode("utf-8")


@pytest.mark.parametrize("style", FORMATS)
def test_a_field_is_cut_before_it_floods_the_log(style: str) -> None:
    assert len(line(style, record(detail="\x1b" * 10**6))) < 6 * 8192


def test_escaping_leaves_what_is_readable_as_it_is() -> None:
    assert sanitize("größe → 3 µs 漢字") == "größe → 3 µs 漢字"
    assert sanitize("a\nb\x1b") == "a\\nb\\x1b"


# --- how often ------------------------------------------------------------------------------------


class Log:
    """A handler whose time stands still until it is set."""

    def __init__(self, seconds: float, style: str = "json") -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.handler = RateLimitHandler(self.stream, seconds, lambda: self.now)
        self.handler.setFormatter(FORMATS[style](journal=True))

    def write(self, *records: logging.LogRecord) -> list[dict[str, Any]]:
        for made in records:
            self.handler.handle(made)
        return self.read()

    def at(self, now: float) -> list[dict[str, Any]]:
        """What comes out of itself once it is so late."""
        self.now = now
        self.handler.flush_repeats()
        return self.read()

    def read(self) -> list[dict[str, Any]]:
        lines = self.stream.getvalue().splitlines()
        self.stream.seek(0)
        self.stream.truncate()
        return [json.loads(line[3:]) for line in lines]


def test_a_repeat_is_held_back_and_then_the_last_is_written_with_a_count() -> None:
    log = Log(300.0)
    flapping = [record("down", sink="processor", detail=n) for n in range(5)]
    assert [one["detail"] for one in log.write(*flapping)] == [0]
    assert log.at(299.0) == []
    (last,) = log.at(300.0)
    assert last["detail"] == 4
    assert last["suppressed"] == 3
    log.now = 301.0
    assert log.write(record("down", sink="processor", detail=5)) == [], "a new period"
    (last,) = log.at(600.0)
    assert last["detail"] == 5
    assert "suppressed" not in last
    assert log.at(900.0) == []
    log.now = 901.0
    assert [one["detail"] for one in log.write(record("down", sink="processor", detail=6))] == [6]


def test_another_subject_event_or_level_is_not_the_same() -> None:
    log = Log(300.0)
    others = [
        record("down", detail=1, sink="a"),
        record("down", detail=1, sink="b"),
        record("down", detail=1, sink="a", workload="w"),
        record("up", detail=1, sink="a"),
        record("down", detail=1, sink="a", level=logging.ERROR),
        record("no fields 1"),
        record("no fields 2"),
    ]
    assert len(log.write(*others)) == len(others)
    assert log.write(*others) == []


def test_what_was_held_of_several_comes_in_the_order_it_happened() -> None:
    """The last line about something that comes and goes tells how it stands."""
    log = Log(300.0)
    for number, word in enumerate(["down", "up", "down", "up", "down"]):
        made = record(word, detail=number, sink="a")
        made.created += number
        log.write(made)
    assert [(one["msg"], one["detail"]) for one in log.at(300.0)] == [("up", 3), ("down", 4)]


def test_debug_and_a_period_of_nothing_write_everything() -> None:
    assert len(Log(300.0).write(*[record("x", level=logging.DEBUG)] * 3)) == 3
    assert len(Log(0.0).write(*[record("x")] * 3)) == 3


def test_a_flood_of_subjects_is_bounded_and_loses_no_line() -> None:
    log = Log(300.0)
    flood = [record("x", spool=str(number)) for number in range(6000)]
    assert len(log.write(*flood)) == 6000
    again = len(log.write(*flood))
    log.handler.close()
    assert again + len(log.read()) == 6000


def test_at_the_end_what_is_held_is_written() -> None:
    log = Log(300.0, "text")
    for number in range(3):
        log.handler.handle(record("down", sink="a", detail=number))
    assert log.stream.getvalue() == "<4>down sink=a detail=0\n"
    log.handler.close()
    assert log.stream.getvalue().splitlines()[1:] == ["<4>down sink=a detail=2 suppressed=1"]


# --- a file of the service's own ------------------------------------------------------------------


@pytest.mark.parametrize("is_own", [True, False])
def test_a_file_of_the_service_s_own_is_bounded(is_own: bool, tmp_path: Path) -> None:
    path, own = tmp_path / "service.log", tmp_path / ("service.log" if is_own else "other.log")
    line = "x" * 1023 + "\n"
    with path.open("a") as file:
        path.chmod(0o600)
        stream = BackgroundStream(file, own)
        for number in range(5000):
            stream.write(f"{number:4}{line[4:]}")
            if number % 500 == 0:
                stream.drain()
        stream.drain()
    kept = tmp_path / "service.log.1"
    lines = [*(kept.read_text() if is_own else "").splitlines(), *path.read_text().splitlines()]
    numbers = [int(one[:4]) for one in lines]
    assert numbers == list(range(numbers[0], 5000))
    if not is_own:
        assert not kept.exists()
        assert len(numbers) == 5000
        return
    assert kept.stat().st_mode & 0o777 == 0o600
    assert max(path.stat().st_size, kept.stat().st_size) <= FILE_BYTES + len(line)


# --- a reader that does not read ------------------------------------------------------------------


def test_a_pipe_that_is_full_stops_no_thread_and_what_is_discarded_is_counted() -> None:
    reading, writing = os.pipe()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    with open(writing, "w") as pipe:
        stream = BackgroundStream(pipe)
        handler = RateLimitHandler(stream, 0.0)
        handler.setFormatter(FORMATS["json"](journal=True))
        root.handlers = [handler]
        try:
            for number in range(30_000):  # megabytes: a pipe takes 64 KiB
                handler.handle(record("flood", detail=f"{number} {'x' * 100}"))
            flush_repeats()  # no space for a line yet
            lines: list[dict[str, Any]] = []
            with open(reading) as reader:
                while not lines or "discarded" not in lines[-1]["msg"]:
                    flush_repeats()
                    lines.append(json.loads(reader.readline()[3:]))
                assert lines[-1]["msg"] == "log lines discarded, stderr was not read"
                assert lines[-1]["count"] + len(lines) - 1 == 30_000
                stream.drain()
        finally:
            root.handlers, root.level = before, level


def test_a_reader_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        stream = BackgroundStream(pipe)
        stream.write("lost\n")
        stream.drain()


def test_a_descriptor_that_does_not_block_gets_every_line() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(writing, "w") as pipe, open(reading) as reader:
        stream = BackgroundStream(pipe)
        for number in range(5000):
            stream.write(f"{number:099}\n")
        assert [int(reader.readline()) for _ in range(5000)] == list(range(5000))


# --- the journal ----------------------------------------------------------------------------------


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "w") as stream:
        found = os.fstat(stream.fileno())
        ours = f"{found.st_dev}:{found.st_ino}"
        assert is_journal(stream, {"JOURNAL_STREAM": ours})
        for other in ("", "1:2", f"{found.st_dev}:", ours + "0", "nonsense"):
            assert not is_journal(stream, {"JOURNAL_STREAM": other})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": ours})


def test_starting_replaces_what_was_there(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        root.handlers = []
        start("warning", "json", 300.0)
        start("warning", "logfmt", 300.0)
        logging.getLogger("shipper.x").warning("seen", extra=fields(sink="s"))
        logging.getLogger("shipper.x").info("unseen")
        (handler,) = root.handlers
        handler.close()
    finally:
        root.handlers, root.level = before, level
    (said,) = capfd.readouterr().err.splitlines()
    assert said.endswith("level=warning msg=seen sink=s")

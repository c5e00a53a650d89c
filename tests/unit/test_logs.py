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

from shipper.logs import FORMATS, Calm, Repeats, about, escaped, is_journal, start

MESSAGE = "%s: %s; everything is kept"


def record(
    message: str = MESSAGE, *args: Any, level: int = logging.WARNING, **subject: Any
) -> logging.LogRecord:
    made = logging.LogRecord("shipper.delivery.sink_state", level, "f.py", 1, message, args, None)
    made.created = 1700000000.25
    if subject:
        made.__dict__.update(about(**subject))
    return made


def line(style: str, made: logging.LogRecord, *, journal: bool = False) -> str:
    return FORMATS[style](journal=journal).format(made)


def test_text_is_the_sentence() -> None:
    made = record(MESSAGE, "processor", "refused", sink="processor", reason="refused")
    assert line("text", made).endswith(" WARNING processor: refused; everything is kept")


def test_logfmt_has_the_fields() -> None:
    made = record(MESSAGE, "p", "x", sink="processor", seq=7, detail='a "b" c=d', empty="")
    assert line("logfmt", made) == (
        'time=2023-11-14T22:13:20.250Z level=warning msg="p: x; everything is kept"'
        ' sink=processor seq=7 detail="a \\"b\\" c=d" empty=""'
    )


def test_json_has_the_fields_with_their_types() -> None:
    made = record(MESSAGE, "p", "x", sink="processor", seq=7, spool=Path("/s"), nothing=None)
    assert json.loads(line("json", made)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "msg": "p: x; everything is kept",
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
    text = line(style, record("%s said", EVIL, spool=EVIL, detail=EVIL), journal=journal)
    assert text.isprintable()
    text.encode("utf-8")


def test_escaping_leaves_what_is_readable_as_it_is() -> None:
    assert escaped("größe → 3 µs 漢字") == "größe → 3 µs 漢字"
    assert escaped("a\nb\x1b") == "a\\nb\\x1b"


# --- how often ------------------------------------------------------------------------------------


def told(repeats: Repeats, now: float, *records: logging.LogRecord) -> list[str]:
    return [made.getMessage() for made in records if repeats.admit(made, now)]


def test_the_same_about_the_same_is_told_once_and_then_the_last_with_a_count() -> None:
    repeats = Repeats(300.0)
    flapping = [record("down: %s", n, sink="processor", detail=n) for n in range(5)]
    assert told(repeats, 0.0, *flapping) == ["down: 0"]
    assert list(repeats.due(299.0)) == []
    (last,) = repeats.due(300.0)
    assert last.getMessage() == "down: 4"
    assert "(3 more like this were held back)" in line("text", last)
    assert json.loads(line("json", last))["suppressed"] == 3
    assert told(repeats, 301.0, record("down: %s", 5, sink="processor")) == [], "a new period"
    assert [made.getMessage() for made in repeats.due(600.0)] == ["down: 5"]
    assert list(repeats.due(900.0)) == []
    assert told(repeats, 901.0, record("down: %s", 6, sink="processor")) == ["down: 6"]


def test_another_subject_sentence_or_level_is_not_the_same() -> None:
    repeats = Repeats(300.0)
    others = [
        record("down: %s", 1, sink="a"),
        record("down: %s", 1, sink="b"),
        record("down: %s", 1, sink="a", workload="w"),
        record("up: %s", 1, sink="a"),
        record("down: %s", 1, sink="a", level=logging.ERROR),
        record("no subject: %s", 1),
        record("no subject: %s", 2),
    ]
    assert len(told(repeats, 0.0, *others)) == len(others)
    assert told(repeats, 0.0, *others) == []


def test_what_was_held_of_several_comes_in_the_order_it_happened() -> None:
    """The last line about something that comes and goes tells how it stands."""
    repeats = Repeats(300.0)
    for number, word in enumerate(["down", "up", "down", "up", "down"]):
        made = record(f"{word}: %s", number, sink="a")
        made.created += number
        repeats.admit(made, 0.0)
    assert [made.getMessage() for made in repeats.due(300.0)] == ["up: 3", "down: 4"]


def test_debug_and_a_period_of_nothing_tell_everything() -> None:
    assert len(told(Repeats(300.0), 0.0, *[record("x", level=logging.DEBUG)] * 3)) == 3
    assert len(told(Repeats(0.0), 0.0, *[record("x")] * 3)) == 3


def test_a_flood_of_subjects_is_bounded_and_loses_no_line() -> None:
    repeats = Repeats(300.0)
    for _ in range(2):
        for number in range(6000):
            repeats.admit(record("x %s", number, spool=str(number)), 0.0)
    assert len(list(repeats.due(0.0))) + len(list(repeats.held())) == 6000


def test_at_the_end_what_is_held_is_written() -> None:
    stream = io.StringIO()
    handler = Calm(stream, 300.0)
    handler.setFormatter(FORMATS["text"](journal=True))
    for number in range(3):
        handler.handle(record("down: %s", number, sink="a"))
    assert stream.getvalue() == "<4>down: 0\n"
    handler.close()
    assert stream.getvalue().splitlines()[1:] == ["<4>down: 2 (1 more like this were held back)"]


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
        logging.getLogger("shipper.x").warning("seen", extra=about(sink="s"))
        logging.getLogger("shipper.x").info("unseen")
        (handler,) = root.handlers
        handler.flush()
    finally:
        root.handlers, root.level = before, level
    (said,) = capfd.readouterr().err.splitlines()
    assert said.endswith("level=warning msg=seen sink=s")

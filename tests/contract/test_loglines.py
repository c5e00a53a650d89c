"""Every parser of training lines: its samples, and what no line of a log may do to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import spooler.loglines
from spooler.loglines import LINE_LIMIT, REGISTRY, Parser, parsers
from spooler.loglines.pattern import Pattern
from spooler.loglines.reader import Found, LineReader
from tests.kit import spools

SAMPLES = spools.REPOSITORY / "tests" / "golden" / "loglines"
NAMES = sorted(REGISTRY)
OWN = Pattern("step {step}/{} | loss {train/loss} | {} lr {lr}")
every = pytest.mark.parametrize("name", NAMES)


def log_of(name: str) -> str:
    return (SAMPLES / f"{name}.log").read_bytes().decode()


def as_json(found: list[Found]) -> list[Any]:
    rows = [
        [
            one.parser,
            one.step,
            one.step_given,
            one.time and datetime.fromtimestamp(one.time).isoformat(),  # noqa: DTZ006 - as printed
            one.values,
        ]
        for one in found
    ]
    return json.loads(json.dumps(rows), parse_constant=str)  # type: ignore[no-any-return]


def expected(name: str) -> list[Any]:
    text = (SAMPLES / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=str)  # type: ignore[no-any-return]


def test_every_parser_is_registered_with_its_samples() -> None:
    folder = Path(spooler.loglines.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "text", "reader", "pattern"}
    assert files == {place.rpartition(".")[2] for place in REGISTRY.values()}
    assert {path.name for path in SAMPLES.iterdir()} == {
        f"{name}.{kind}" for name in REGISTRY for kind in ("log", "json")
    }


@every
def test_the_samples_have_the_rows_that_are_kept_with_them(name: str) -> None:
    found = list(LineReader(parsers=parsers()).feed(log_of(name)))
    assert as_json(found) == expected(name)
    assert {one.parser for one in found} == {name}
    assert len({(one.step, *one.values) for one in found}) == len(found), "each says something else"


@every
def test_pieces_of_any_length_give_the_same_rows(name: str) -> None:
    for size in (1, 7, 100, 1000):
        reader, found = LineReader(parsers=parsers()), list[Found]()
        text = log_of(name)
        for begin in range(0, len(text), size):
            found += reader.feed(text[begin : begin + size])
            reader = reader.copy()
        assert as_json(found) == expected(name)


@every
def test_its_marks_are_in_its_lines_and_no_line_is_of_two_parsers(name: str) -> None:
    known = parsers()
    lines = [line for part in log_of(name).split("\n") for line in part.split("\r")]
    of_mine = [line for line in lines if known[name].parse(line) is not None]
    assert of_mine
    for line in of_mine:
        assert any(mark in line for mark in known[name].MARKS)
        assert [other for other in known if known[other].parse(line)] == [name]


def broken_lines(name: str) -> list[str]:
    """What a line may be: cut, joined with others, repeated in its parts, or of odd characters."""
    lines = [line for line in log_of(name).splitlines() if any(map(line.count, marks(name)))]
    found = ["", "\0", "\ud800", "١٢: ٣", "{'" * 100, "}" * 100]
    for line in lines:
        found += [line[:cut] for cut in range(0, len(line), 7)]
        found += [line[cut:] for cut in range(0, len(line), 7)]
        found += [line.replace(a, b) for a in "0123456789" for b in ("", "9" * 400, "-", "٣", "e9")]
        found += [line.replace(a, b) for a in ":=|/,'[ " for b in ("", a + a, "nan", "é")]
    return found


def marks(name: str) -> tuple[str, ...]:
    parser: Parser = import_module(REGISTRY[name])
    return parser.MARKS


@every
def test_no_line_raises_and_all_values_are_numbers_that_a_record_can_hold(name: str) -> None:
    parser = parsers()[name]
    for line in broken_lines(name):
        row = parser.parse(line)
        if row is not None:
            assert row.step is None or 0 <= row.step < 2**63
            for key, value in row.values.items():
                assert 0 < len(key) <= 16 * 1024
                assert type(value) in (int, float)
                assert type(value) is float or abs(value) < 2**63


PARTS = (" ", "0", "1,000", ".", "|", "a", "'a': 1, ", "{'", "step: 1  loss: 1 ", "=", "[", "\x1b[")


@pytest.mark.parametrize("name", [*NAMES, "pattern"])
def test_a_line_takes_time_that_grows_with_its_length(name: str) -> None:
    parser = OWN if name == "pattern" else parsers()[name]
    texts = OWN.MARKS if name == "pattern" else marks(name)
    sample = "step 1" if name == "pattern" else log_of(name).splitlines()[-2][:200]
    for mark in (*texts, sample):
        for part in PARTS:
            assert_linear(parser.parse, lambda n, m=mark, p=part: m + p * (n // len(p)))
            assert_linear(parser.parse, lambda n, m=mark, p=part: (m + p) * (n // len(m + p)))


def assert_linear(parse: Callable[[str], Any], line: Callable[[int], str]) -> None:
    """A line of sixteen times the length takes less than the square of that as long."""
    assert cost(parse, line(LINE_LIMIT)) < 100 * cost(parse, line(LINE_LIMIT // 16))


def cost(parse: Callable[[str], Any], line: str) -> float:
    """Seconds of this thread, the least of a few, never 0."""
    taken = []
    for _ in range(3):
        begun = time.thread_time()
        parse(line)
        taken.append(time.thread_time() - begun)
    return max(min(taken), 2e-4)


def test_lines_of_megabytes_are_passed_over() -> None:
    line = log_of("megatron").splitlines()[2]
    reader = LineReader(parsers=parsers())
    huge = line + " " * 1_000_000 + line
    text = f"{huge}\n{line}\n{huge}"
    found = [
        one for at in range(0, len(text), 256 * 1024) for one in reader.feed(text[at:][:262144])
    ]
    assert [one.step for one in found] == [10]

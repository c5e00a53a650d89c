"""Lines of a log to rows: who printed them, bars, numbers, times, an operator's own pattern."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from spooler.loglines import Row, parsers
from spooler.loglines.pattern import Pattern, UnusableError, patterns
from spooler.loglines.reader import Found, LineReader
from spooler.loglines.text import moment, number, origin

LINE = (
    "{}iteration {:8d}/    1000 | elapsed time per iteration (ms): {:.1f} | lm loss: 2.5E+00 |{}\n"
)


def megatron(step: int, before: str = " ", ms: float = 100.0, after: str = "") -> str:
    return LINE.format(before, step, ms, after)


def read(*pieces: str) -> list[Found]:
    reader = LineReader(parsers=parsers())
    return [one for piece in pieces for one in reader.feed(piece)]


def steps(*pieces: str) -> list[int]:
    return [one.step for one in read(*pieces)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        (" 2.50 GB", 2.5),
        ("2701.3/2712.7", 2701.3),
        ("1,234,567.5x", 1234567.5),
        ("12,34", 12),
        ("-1.5E-04|", -1.5e-4),
        ("1e999", math.inf),
        ("-inf", -math.inf),
        (".5", 0.5),
        ("1" * 20, float("1" * 20)),
        ("1.2.3", None),
        ("1" * 21, None),
        ("nano", None),
        ("N/A", None),
        ("", None),
    ],
)
def test_numbers_are_read_as_they_are_printed(text: str, expected: float | None) -> None:
    assert number(text) == expected
    assert type(number(text)) is type(expected)
    assert math.isnan(number("nan |") or 0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" [2025-04-13 23:41:12] iteration", "2025-04-13T23:41:12"),
        ("[default7]: [2026-09-14 15:08:27.273656] x", "2026-09-14T15:08:27.273656"),
        ("[20251121 12:10:29][rank-31/32]", "2025-11-21T12:10:29"),
        ("[titan] 2025-03-12 11:10:21,511 - root", "2025-03-12T11:10:21.511000"),
        ("2025/03/12 11:10:21 x", "2025-03-12T11:10:21"),
        ("2025-02-30 11:10:21", None),
        ("x" * 300 + "2025-03-12 11:10:21", None),
        ("loss 20250312", None),
    ],
)
def test_the_time_of_a_line_is_local_time(line: str, expected: str | None) -> None:
    local = expected and datetime.fromisoformat(expected).timestamp()
    assert moment(line) == local


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[rank0]:[titan] x", "rank0"),
        ("[default7]: iteration", "default7"),
        ("[lrdn3321:3]: [2025", "lrdn3321:3"),
        ("7: iteration", "7"),
        ("[20251121 12:10:29][rank-31/32][INFO ]", "rank-31"),
        ("[2025-04-13 23:41:12] iteration", ""),
        (" iteration 7", ""),
    ],
)
def test_launchers_and_frameworks_say_who_printed_a_line(line: str, expected: str) -> None:
    assert origin(line) == expected


def test_a_line_counts_when_it_has_ended() -> None:
    first, second = megatron(1), megatron(2)
    assert steps(first + second[:-1]) == [1]
    assert steps(first + second[:-20], second[-20:]) == [1, 2]
    assert steps(first[:-1] + "\r\n") == [1]


def test_a_step_belongs_to_the_process_that_printed_it_first() -> None:
    log = [megatron(step, f"[rank{rank}]: ") for rank in (3, 1) for step in range(50)]
    assert steps(*log) == list(range(50))
    interleaved = [megatron(step, f"{rank}: ") for step in range(50) for rank in (0, 2, 1)]
    assert steps(*interleaved) == list(range(50))


def test_equal_lines_without_an_origin_count_once() -> None:
    assert steps(*[megatron(step, ms=n) for step in range(9) for n in range(8)]) == list(range(9))


def test_iterations_may_go_back() -> None:
    numbers = [1, 2, 3, 2, 3, 4]
    assert steps(*[megatron(step) for step in numbers]) == numbers
    assert steps(*[megatron(step, "[rank0]: ") for step in numbers]) == numbers


def test_lines_of_one_step_may_have_different_numbers() -> None:
    assert [one.values for one in read(megatron(7), megatron(7, after=" grad norm: 1.5 |"))] == [
        {"iteration-time": 0.1, "lm loss": 2.5},
        {"iteration-time": 0.1, "lm loss": 2.5, "grad-norm": 1.5},
    ]


BAR = "\r {}%|███  | {}/100 [00:01<00:01,  9.5it/s]"
DICT = "{{'loss': {}, 'epoch': 0.5}}\n"


def test_a_dict_that_takes_the_place_of_a_bar_has_the_step_of_the_next_one() -> None:
    log = [BAR.format(4, 4), "\r   \r" + DICT.format(0.5), BAR.format(5, 5)]
    assert [(one.step, one.step_given) for one in read(*log)] == [(5, True)]
    assert [(one.step, one.step_given) for one in read(*"".join(log))] == [(5, True)]
    again = read(*log, "\r   \r" + DICT.format(0.25), "some text\n", "\r   \r" + DICT.format(0.1))
    assert [(one.step, one.step_given) for one in again] == [(5, True), (6, False)]


def test_each_row_has_a_place_of_its_own() -> None:
    """What is read up to a place is not recorded again: a second row there would be lost."""
    bar, row = "\r   \r", "{{'loss': {}, 'epoch': 0.5}}"
    log = [
        bar + DICT.format(1) + DICT.format(2),
        BAR.format(4, 4) + bar + DICT.format(1) + BAR.format(5, 5)[1:] + row.format(2) + "\n",
    ]
    for text in log:
        ends = [one.end for one in read(text)]
        assert len(ends) == len(set(ends)) == 2


def test_dicts_without_a_bar_are_counted() -> None:
    log = [BAR.format(90, 90), "\n", *(DICT.format(n) for n in range(3)), BAR.format(91, 91)]
    assert [(one.step, one.step_given) for one in read(*log)] == [(n, False) for n in range(3)]


def test_dicts_within_a_log_have_the_steps_of_bars_alone() -> None:
    reader = LineReader(parsers=parsers(), counts=False)
    bar = "\r   \r" + DICT.format(0.5) + BAR.format(5, 5) + "\n"
    log = [DICT.format(1), DICT.format(2), bar, DICT.format(3)]
    found = [one for piece in log for one in reader.feed(piece)]
    assert [(one.step, one.values["loss"]) for one in found] == [(5, 0.5), (6, 3.0)]


def test_the_bar_of_an_evaluation_is_not_that_of_the_training() -> None:
    evaluation = "\r   \r{'eval_loss': 0.5, 'epoch': 0.5}\n\r100%|██| 6/6 [00:01<00:01]"
    log = ["\r   \r", DICT.format(1), BAR.format(5, 5), evaluation, BAR.format(5, 5)]
    assert [one.step for one in read(*log)] == [5, 5]


def test_an_operators_own_pattern_has_names_where_numbers_stand() -> None:
    own = Pattern("Epoch {}, step {step}/{}:  loss={train/loss}, lr = {learning rate} |")
    line = "12:00 INFO Epoch 3 of 7,  step 1500/2000: loss=1,234.5,   lr = 3e-4 | 7 s"
    assert own.parse(line) == Row(1500, {"train/loss": 1234.5, "learning rate": 3e-4})
    assert own.parse(line.replace("3e-4", "none")) is None
    assert own.parse(line.replace("1500", "1.5")) is None
    assert own.parse("Epoch " + line.replace("step", "stop")) is None
    assert own.MARKS == ("Epoch",)
    twice = Pattern("step {step} loss {loss}").parse("step by step 7 loss 2")
    assert twice == Row(7, {"loss": 2})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("loss {loss}", "no {step}"),
        ("{step} {loss}", "begin with a text"),
        ("step {step}", "two to 64 names"),
        ("step {step} a {a} b {a}", "each once"),
        ("step {step}{loss}", "a text between"),
        ("step {step} loss {loss", "not closed"),
        ("step {{step}} loss {loss}", "inside another"),
    ],
)
def test_a_pattern_that_cannot_be_used_says_why(text: str, why: str) -> None:
    with pytest.raises(UnusableError, match=why):
        patterns(f"step {{step}} ok {{ok}}\n{text}\n")
    assert len(patterns("step {step} ok {ok}\n\nit {step}: {loss}\n")) == 2

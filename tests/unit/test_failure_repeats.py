"""What an operator names as an error of the node, and when a failure repeats itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spooler.diagnosis.action import DiagnosisAction, DiagnosisActionType
from spooler.diagnosis.failures import describe, error_data
from spooler.diagnosis.repeats import Repeats, count, limited
from spooler.diagnosis.rules import RULES, NodeErrors, decide, last_exception, named

RESTART, RELAUNCH = DiagnosisActionType.RESTART_WORKER, DiagnosisActionType.RELAUNCH_WORKER
ABORT = DiagnosisActionType.JOB_ABORT
OWN = NodeErrors(
    texts=named("#error code is 12345# device lost #"),
    patterns=("NPU{} gone", "NPU{}: {} stuck"),
    codes=frozenset({99}),
)


# --- an operator's errors -------------------------------------------------------------------------


def test_the_setting_is_dlrover_s() -> None:
    assert named("#error code is 12345# error code is\n 23456# error code is 507035#") == (
        *("error code is 12345", "error code is\n 23456", "error code is 507035"),
    )
    assert named("") == named(" # # ") == ()
    assert named("alone") == ("alone",)


@pytest.mark.parametrize(
    ("failures", "log", "evidence"),
    [
        ({"error": "aclrt: error code is 12345"}, "", "error: aclrt: error code is 12345"),
        ({}, "x\n[rank0]: device lost\n" + "step\n" * 500, "[rank0]: device lost"),
        ({"error": "x"}, "NPU3: it is stuck\n", "NPU3: it is stuck"),
        ({"error": "x"}, "card #3: device lost\n", "card #3: device lost"),
        ({"error": "x"}, "card #2: NPU3 gone\n", "card #2: NPU3 gone"),
        ({3: {"exitcode": 99}}, "", "exit code 99"),
        # Stronger than every row of the table, an abort included.
        ("SyntaxError: invalid syntax", "NPU3 gone", "NPU3 gone"),
    ],
)
def test_a_named_error_asks_for_another_node(failures: Any, log: str, evidence: str) -> None:
    decided = decide(describe(failures), log, 0, 3, OWN)
    assert (decided.rule, decided.action_type) == ("node-error", RELAUNCH)
    assert decided.evidence == evidence


@pytest.mark.parametrize(
    "line",
    [
        "errors: #error code is 12345# device lost #",
        'declare -x FAILURE_NODE_ERRORS="#error code is 12345#device lost"',
        "gone NPU9: stuck",  # in another order
        "errors: #NPU{} gone#NPU{}: {} stuck#",
        "exit code 98",
        "ok",
    ],
)
def test_the_setting_itself_and_other_lines_are_none(line: str) -> None:
    """DLRover's agent prints the setting into the log."""
    assert decide("error: x", line, 0, 3, OWN).rule == "unknown"


def test_no_pattern_takes_longer_than_in_proportion_to_the_line() -> None:
    """As `(a+)+$` of regular expressions, and `.*.*.*.*x`, would never end on these lines."""
    own = NodeErrors(patterns=("(a+)+$", "a{}" * 500 + "x"))
    log = "\n".join(["a" * 2000] * 32)
    assert decide("error: x", log, 0, 3, own).rule == "unknown"


@given(st.text(), st.text(), st.integers(0, 5))
def test_without_an_operator_s_errors_the_table_decides(text: str, log: str, restarts: int) -> None:
    assert decide(text, log, restarts, 3) == decide(text, log, restarts, 3, NodeErrors())


@given(st.text(), st.text(), st.integers(0, 9))
def test_a_named_error_in_any_text_asks_for_another_node(before: str, log: str, n: int) -> None:
    text = f"{before}\ndevice lost\n"
    assert decide(text[-4000:], log, n, 3, OWN).action_type is RELAUNCH


# --- repeats --------------------------------------------------------------------------------------

CRASH = DiagnosisAction(
    action_type=RESTART, rule="crash", reason="native code crashed", evidence="Signal 11 at 0x7f3a"
)


def row(before: Repeats | None, action: DiagnosisAction = CRASH, **more: Any) -> Repeats:
    given = {"exception": "", "step": None, "now": 1000.0, **more}
    return count(before, action, **given)


def test_the_same_failure_is_counted_whatever_its_numbers() -> None:
    first = row(None, step=100)
    again = row(first, replace(CRASH, evidence="Signal 11 at 0x55e0"), step=100, now=2000.0)
    assert (first.count, again.count, again.step) == (1, 2, 100)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"step": 99}, 2),  # from an earlier checkpoint
        ({"step": 101}, 1),  # progress
        ({"step": None}, 2),  # it failed before its first step
        ({"step": None, "now": 1000.0 + 3601}, 1),
        ({"now": 1000.0 + 86_399}, 2),
        ({"now": 1000.0 + 86_401}, 1),
        ({"now": 999.0}, 1),  # a clock that was set back
        ({"exception": "ValueError: another"}, 1),
        ({"action": replace(CRASH, rule="gpu-error")}, 1),
        ({"action": replace(CRASH, evidence="Signal 6 at 0x1")}, 2),  # no numbers
        ({"action": replace(CRASH, evidence="bus error")}, 1),
        ({"action": replace(CRASH, action_type=RELAUNCH)}, 2),
    ],
)
def test_progress_time_or_another_cause_begin_again(change: dict[str, Any], expected: int) -> None:
    assert row(row(None, step=100), **{"step": 100, **change}).count == expected


@pytest.mark.parametrize("rule", sorted({row.name for row in RULES} | {"node-error", "unknown"}))
def test_what_the_surroundings_may_cause_is_never_counted(rule: str) -> None:
    action = replace(CRASH, rule=rule)
    seen: Repeats | None = None
    for _ in range(9):
        seen = row(seen, action)
    assert seen is not None
    assert seen.count == (9 if rule in {"gpu-memory", "gpu-error", "crash", "unknown"} else 0)
    aborted = limited(action, seen, 5).action_type is ABORT
    assert aborted == bool(seen.count)


@pytest.mark.parametrize(
    ("evidence", "exception", "expected"),
    [
        ("0.exitcode: 1", "", 0),
        ("0.exitcode: 1", "KeyError: 'a'", 1),
        ("error: index out of range", "", 1),
    ],
)
def test_an_exit_code_alone_says_nothing(evidence: str, exception: str, expected: int) -> None:
    action = replace(CRASH, rule="unknown", evidence=evidence)
    assert row(None, action, exception=exception).count == expected


def test_another_node_is_asked_for_before_the_job_is_aborted() -> None:
    actions = []
    seen: Repeats | None = None
    for _ in range(6):
        seen = row(seen)
        actions.append(limited(CRASH, seen, 5).action_type)
    assert actions == [RESTART, RESTART, RESTART, RELAUNCH, ABORT, ABORT]
    assert limited(CRASH, replace(seen or row(None), count=99), 0) is CRASH


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 3), st.integers(0, 9000)))
)
def test_a_job_is_only_aborted_for_failures_in_a_row_without_progress(
    failures: list[tuple[str, int | None, int]],
) -> None:
    """Against a reading of all of the past: the failures since the last that ended a row."""
    seen: Repeats | None = None
    past: list[tuple[str, int | None]] = []
    now = 0
    for text, step, later in failures:
        now += later
        best = max((s for _, s in past if s is not None), default=None)
        progress = step is not None and (best is None or step > best)
        late = later > (3600 if step is None else 86400)
        if past and (progress or late or past[-1][0] != text):
            past = []
        past.append((text, step))
        seen = row(seen, replace(CRASH, evidence=text), step=step, now=float(now))
        assert seen.count == len(past)


# --- what a master is told ------------------------------------------------------------------------


class Died:
    """As torch hands it over."""

    local_rank, exitcode, message = 1, -11, "Signal 11 (SIGSEGV) received by PID 7"


class Bad(dict[int, str]):
    def items(self) -> Any:
        raise RuntimeError


def test_the_error_data_has_dlrover_s_form() -> None:
    when = "2026-11-30 02:00:00"
    assert json.loads(error_data({9: Died()}, rank=0, when=when)) == {
        "9": {"local_rank": 1, "exitcode": -11, "message": Died.message, "datetime": when}
    }
    told = json.loads(error_data({"error": "exit code 3"}, rank=4, when=when))
    assert told["4"]["message"] == "error: exit code 3"
    assert (told["4"]["exitcode"], told["4"]["local_rank"]) == (3, None)
    assert json.loads(error_data({}, rank=0, when=when)) == {}
    assert (
        "RuntimeError" in json.loads(error_data(Bad({1: "x"}), rank=0, when=when))["0"]["message"]
    )


@given(st.dictionaries(st.integers(), st.text(max_size=5000), max_size=40) | st.text())
def test_it_is_json_and_bounded_whatever_failed(failures: Any) -> None:
    text = error_data(failures, rank=0, when="now")
    assert len(json.loads(text)) <= 16
    assert sum(len(one["message"]) for one in json.loads(text).values()) <= 2048


def test_the_last_exception_of_a_log() -> None:
    trace = (
        "[rank1]: Traceback (most recent call last):\n[rank1]:   File x\n[rank1]: KeyError: 'a'\n"
    )
    assert last_exception(f"step 1\n{trace}bye\n") == "KeyError: 'a'"
    assert last_exception("step 1\n") == last_exception("Traceback (most recent call last):") == ""

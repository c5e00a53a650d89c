"""Our own faults, threads, signals and forks: training and wandb go on as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contract.wandb.ran import Ran


@pytest.mark.promise("G2")
def test_a_fault_of_ours_anywhere_leaves_training_as_it_was(run: Callable[..., Ran]) -> None:
    ran = run("faults")
    fine = ["returned", "NoneType"]
    for place in ("record", "observe_log", "_pack", "before_log", "bug"):
        assert ran.report[place] == [fine] * 3, place
    assert [ran.report[name] for name in ("finish", "init", "log")] == [fine] * 3
    assert len(ran.stored(ran.report["run"])) == 17
    assert len(ran.stored(ran.report["second"])) == 1


@pytest.mark.promise("G2")
def test_a_fault_of_ours_is_counted_and_said_once(run: Callable[..., Ran]) -> None:
    ran = run("faults")
    assert ran.report["dropped"] == {"bug": 9, "unencodable": 3}
    assert len(ran.said) == 2
    assert all("ZeroDivisionError" in line for line in ran.said)
    gaps = [body for kind, body in ran.records() if kind == "gap"]
    assert sum(gap["count"] for gap in gaps) >= 12
    assert ran.steps(ran.report["run"])[0] == {"a": 0}
    stored = ran.stored(ran.report["run"])
    assert {"a": 99} in stored.values()
    assert all(stored[n] == data for n, data in ran.steps(ran.report["run"]).items() if data)
    assert ran.steps(ran.report["second"]) == {0: {"b": 1}}


@pytest.mark.promise("G2")
def test_an_unusable_path_leaves_training_as_it_was(run: Callable[..., Ran]) -> None:
    ran = run("unwritable")
    assert ran.report["logs"] == [["returned", "NoneType"]] * 5
    assert ran.report["finish"] == ["returned", "NoneType"]
    assert ran.report["recorded"] == {}
    assert ran.report["dropped"] == ran.report["errors"] >= 6
    trouble, losses = ran.said
    assert "cannot record now" in trouble
    assert "records were dropped (error)" in losses
    assert len(ran.stored(ran.report["run"])) == 5
    assert ran.root.read_text() == "a file where the folder should be"


@pytest.mark.promise("G2")
def test_a_time_limit_that_comes_in_our_code_reaches_the_program(run: Callable[..., Ran]) -> None:
    ran = run("interrupted")
    assert (ran.report["raised"], ran.report["caught"]) == (300, 300)
    ours, theirs = ran.steps(ran.report["run"]), ran.stored(ran.report["run"])
    assert all(theirs[number] == data for number, data in ours.items())
    missing = len(theirs) - len(ours)
    assert ran.report["dropped"] == ({"interrupted": missing} if missing else {})
    assert missing < 300


@pytest.mark.promise("G8")
def test_wandb_s_functions_look_the_same_and_go_to_other_processes(run: Callable[..., Ran]) -> None:
    hooked, plain = run("looks"), run("looks", PRIMUS_LENS_WANDB_HOOK="false")
    assert (hooked.report.pop("hooked"), plain.report.pop("hooked")) == (True, False)
    assert hooked.report == plain.report
    assert hooked.report["spawn"] == hooked.report["forkserver"] == 1


@pytest.mark.promise("G2")
@pytest.mark.promise("G3")
def test_threads_and_a_signal_handler_lose_nothing(run: Callable[..., Ran]) -> None:
    ran = run("parallel")
    values: dict[str, list[int]] = {}
    for kind, body in ran.records(ran.report["pid"]):
        if kind == "step":
            for name, value in body["data"].items():
                values.setdefault(name, []).append(value)
    assert values.pop("end") == [1]
    assert set(values) == {"main", *(f"thread-{index}" for index in range(4))}
    assert all(numbers == list(range(100)) for numbers in values.values())
    count, all_taken = ran.report["handled"]
    assert all_taken
    assert len([1 for kind, _ in ran.records(ran.report["pid"]) if kind == "signal"]) == count > 0
    assert ran.said == []


@pytest.mark.promise("G2")
def test_a_fork_under_a_run_has_its_own_spool_and_ends_nothing(run: Callable[..., Ran]) -> None:
    ran = run("parallel")
    child, status = ran.report["fork"]
    assert status == 0
    assert [kind for kind, _ in ran.records(child) if kind != "detection"] == [
        "run",
        "step",
        "child",
    ]
    assert list(ran.steps(ran.report["run"], child).values()) == [{"child": 7}]
    assert ran.report["multiprocessing"] == 0
    assert len(ran.spools) == 2, "a worker that records nothing leaves nothing"
    ours = [kind for kind, _ in ran.records(ran.report["pid"])]
    assert ours.count("finish") == ours.count("exit") == 1
    assert ours[-1] == "exit"

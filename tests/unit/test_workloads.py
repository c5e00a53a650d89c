"""A pod's workload is asked for once, remembered, and used for what is sent from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from shipper.sinks.processor.workloads import ASK_SECONDS, Workloads
from spooler.spool.identity import Identity
from tests.kit.shipping import Clock


class Asked:
    """Counts how often it is asked; `pods` is what it answers."""

    def __init__(self, pods: Mapping[str, Any] | None) -> None:
        self.answer = pods
        self.times = 0

    def pods(self, base: str) -> Mapping[str, Any] | None:
        self.times += 1
        return self.answer


class Memory(dict[str, str]):
    """A ledger's part."""

    def workload(self, spool: str) -> str:
        return self.get(spool, "")

    def remember_workload(self, spool: str, uid: str) -> None:
        self[spool] = uid


def identity(**more: Any) -> Identity:
    return Identity(spool="s", created=1.0, pid=1, host="h", **more)


POD = identity(pod_name="p")


def at_once(ask: Callable[[str], Mapping[str, Any] | None], clock: Clock) -> Workloads:
    """They ask on the thread of the caller."""
    return Workloads(ask, lambda who: "http://processor", clock, lambda work: work())


def test_a_workload_that_is_known_is_not_asked_for() -> None:
    asked = Asked({})
    memory = Memory()
    workloads = at_once(asked.pods, Clock())
    known, nameless = identity(workload_uid="w", pod_name="p"), identity()
    assert workloads.complete(known, memory, alive=True) == known
    assert workloads.complete(nameless, memory, alive=True) == nameless
    assert asked.times == 0


def test_it_is_asked_for_once_and_survives_the_pod() -> None:
    asked, memory = Asked({"p": [["job", "uid-1"]]}), Memory()
    assert at_once(asked.pods, Clock()).complete(POD, memory, alive=True).workload_uid == "uid-1"
    later = at_once(Asked(None).pods, Clock())
    assert later.complete(POD, memory, alive=False).workload_uid == "uid-1"
    assert asked.times == 1


def test_an_unknown_pod_is_asked_for_again_but_not_at_once() -> None:
    asked, clock = Asked({}), Clock()
    memory = Memory()
    workloads = at_once(asked.pods, clock)
    for _ in range(3):
        assert workloads.complete(POD, memory, alive=True).workload_uid == ""
    assert asked.times == 1
    clock.pass_by(ASK_SECONDS)
    asked.answer = {"p": [["job", "uid-1"]]}
    assert workloads.complete(POD, memory, alive=True).workload_uid == "uid-1"


def test_a_pod_of_several_workloads_is_left_to_the_receiver_while_it_lives() -> None:
    asked = Asked({"p": [["job", "uid-1"], ["parent", "uid-2"]]})
    memory = Memory()
    workloads = at_once(asked.pods, Clock())
    assert workloads.complete(POD, memory, alive=True).workload_uid == ""
    assert workloads.complete(POD, memory, alive=False).workload_uid == "uid-1"
    assert asked.times == 1


@pytest.mark.parametrize(
    "answer", [None, {}, {"p": None}, {"p": "uid"}, {"p": [["job"], "x", ["job", ""], ["job", 7]]}]
)
def test_an_answer_of_another_shape_is_no_answer(answer: Any) -> None:
    memory = Memory()
    workloads = at_once(Asked(answer).pods, Clock())
    assert workloads.complete(POD, memory, alive=True).workload_uid == ""


@pytest.mark.promise("G15")
def test_nothing_waits_for_a_processor_that_does_not_answer() -> None:
    """One question at a time, and its answer is for all that came meanwhile."""
    asked, memory = Asked({"p": [["job", "uid-1"]], "q": [["other", "uid-2"]]}), Memory()
    later: list[Callable[[], None]] = []
    workloads = Workloads(asked.pods, lambda who: "http://processor", Clock(), later.append)
    other = Identity(spool="t", created=1.0, pid=2, host="h", pod_name="q")
    for who in (POD, other, POD):
        assert workloads.complete(who, memory, alive=True) == who
    (learn,) = later
    learn()
    assert workloads.complete(POD, memory, alive=True).workload_uid == "uid-1"
    assert workloads.complete(other, memory, alive=True).workload_uid == "uid-2"
    assert asked.times == 1

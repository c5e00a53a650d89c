"""Every hook keeps the contract of `spooler.hooks`, and a hook is one file and one line.

The same claims for every line of the registry, and for a tracker that only these tests have. Each
program is run once for all claims about it: some trackers take seconds to import.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shipper.sinks.processor import encode
from shipper.steps import collect_steps
from spooler.hooks import REGISTRY
from spooler.records import finish, run, step
from spooler.records.step import StepRecord
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.trackers import NAMES, PROGRAMS, Program, play, python_of, recorded

pytestmark = pytest.mark.parametrize("name", NAMES, scope="module")

# What a program sees of its tracker.
_LOOK = """
import inspect, pickle, re, traceback

def said(error):
    return type(error).__name__ + re.sub("0x[0-9a-f]+|[0-9]{13}", "", str(error))

def outcome(call):
    try:
        returned = call()
    except Exception as error:
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        raised = [one for one in (error, error.__cause__, error.__context__) if one is not None]
        return ["raised", [said(one) for one in raised], frames[-1]]
    return ["returned", type(returned).__name__]

import numpy as np
values = {
    "int": 7, "float": 0.5, "true": True, "none": None, "nan": float("nan"),
    "inf": float("inf"), "text": "seven", "float32": np.float32(0.25), "int64": np.int64(3),
    "0d": np.array(2.5), "list": [1, 2],
}
if "torch" in sys.modules:
    values["tensor"] = sys.modules["torch"].tensor(0.75)
found = {}
for number, (kind, value) in enumerate(values.items()):
    found[kind] = outcome(lambda: log({"v": value}, number))
found["refused"] = outcome(lambda: REFUSED)
found["odd argument"] = outcome(lambda: METHOD(run, no_such_argument=1))[:2]
found["method"] = [
    re.sub("0x[0-9a-f]+", "", str(inspect.signature(METHOD))), METHOD.__qualname__,
    METHOD.__module__, bool(METHOD.__doc__), inspect.isfunction(METHOD),
    pickle.loads(pickle.dumps(METHOD)) is METHOD,
]
"""
# Then: threads and a fork, a recorder that fails, and wrapping again and again.
_LOOKED = """
import threading
def log_20(n):
    for m in range(20): log({f"{n}/{m}": m})
threads = [threading.Thread(target=log_20, args=(n,)) for n in range(4)]
[one.start() for one in threads], [one.join() for one in threads]
child = os.fork()
if not child:
    os._exit(0)
ended = os.waitpid(child, 0)[1]
log({"after the fork": 1})
FINISH
dropped = spooler.stats()["dropped"]
from spooler.recorder import Recorder
def broken(*_, **__): raise ZeroDivisionError("ours")
record, Recorder.record = Recorder.record, broken
BEGIN
log({"a": 1}, 1000)
Recorder.record = record
bugs = spooler.stats()["dropped"].get("bug", 0)
ids = []
for change in (spooler.install, spooler.install, spooler.uninstall, spooler.uninstall):
    change(); ids.append(id(METHOD))
own = not hasattr(METHOD, "_lens_ship_original")
print(json.dumps([found, ended, dropped, bugs, ids, own]))
"""
_PLAIN = {
    "int": 7,
    "float": 0.5,
    "true": True,
    "none": None,
    "nan": math.nan,
    "inf": math.inf,
    "text": "seven",
    "float32": 0.25,
    "int64": 3,
    "0d": 2.5,
    "list": [1, 2],
    "tensor": 0.75,
}
# In one process each: `program` -> its code, and what its environment has more.
_CODES: dict[str, tuple[str, dict[str, str]]] = {
    "looked": (_LOOK + _LOOKED, {}),
    "plain": (_LOOK + "print(json.dumps(found))", {}),
    "killed": (
        "log({'a': 0.5})\nfor n in range(7, 12): log({'a': n / 4}, n)\nos.kill(os.getpid(), 9)",
        {},
    ),
    "frozen": (  # the clock stands still, then goes back
        """
import time; real = time.time; frozen = real()
time.time = lambda: frozen
for number in range(50):
    log({"a": 1}, number)
    frozen -= number == 20
time.time = real
print(0)
""",
        {"PRIMUS_LENS_TRACKERS": "log, NAME"},
    ),
    "off": (
        "log({'a': 1}, 1)\nFINISH\nprint(json.dumps(hasattr(METHOD, '_lens_ship_original')))",
        {"PRIMUS_LENS_TRACKERS": "log"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Played:
    """A program that has run, and what was recorded of it."""

    answer: Any
    code: int
    work: Path

    @property
    def steps(self) -> list[StepRecord]:
        return list(map(step.decode, recorded(self.work)["step"]))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Played]:
    """Runs a program of a tracker once; skips the test where no interpreter has the tracker."""
    done: dict[tuple[str, str], Played] = {}

    def run_once(name: str, what: str) -> Played:
        if (name, what) not in done:
            done[name, what] = _played(PROGRAMS[name], what, tmp_path_factory.mktemp(what))
        return done[name, what]

    return run_once


def _played(p: Program, what: str, work: Path) -> Played:
    code, environ = _CODES[what]
    texts = {"BEGIN": p.begin, "REFUSED": p.refused, "METHOD": p.method, "FINISH": p.finish}
    for word, text in texts.items():
        code = code.replace(word, text)
    environ = {key: value.replace("NAME", p.tracker.upper()) for key, value in environ.items()}
    done = play(work, p, code, hooked=what != "plain", **environ)
    assert done.returncode == (-signal.SIGKILL if what == "killed" else 0), done.stderr
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    return Played(answer=answer, code=done.returncode, work=work)


Play = Callable[[str, str], Played]


@pytest.mark.promise("G2")
def test_calls_return_and_raise_and_look_as_they_do_without_us(name: str, played: Play) -> None:
    with_us = played(name, "looked").answer[0]
    assert with_us == played(name, "plain").answer
    assert with_us["refused"][0] == with_us["odd argument"][0] == "raised"


def test_every_value_that_the_tracker_accepts_is_recorded_as_it_is(name: str, played: Play) -> None:
    ran = played(name, "looked")
    found = ran.answer[0]
    accepted = [kind for kind in _PLAIN if found.get(kind, ["raised"])[0] == "returned"]
    assert {"int", "float", "nan", "float32"} <= set(accepted)
    values = [one for one in ran.steps if "v" in one.data]
    assert all(one.accepted for one in values) or PROGRAMS[name].records_refused
    ours = {one.step: one.data["v"] for one in values if one.accepted}
    for number, kind in enumerate(_PLAIN):
        if kind not in accepted:
            assert number not in ours, kind
        elif kind == "nan":
            assert math.isnan(ours[number])
        else:
            assert ours[number] == _PLAIN[kind], kind


def test_threads_and_a_fork_lose_nothing(name: str, played: Play) -> None:
    ran = played(name, "looked")
    _, ended, dropped, *_ = ran.answer
    assert (ended, dropped) == (0, {})
    expected = [f"{n}/{m}" for n in range(4) for m in range(20)] + ["after the fork"]
    names = [name for one in ran.steps for name in one.data]
    assert sorted(name for name in names if name in expected) == sorted(expected)
    assert len(spools.spools_below(ran.work / "spool")) == 1


@pytest.mark.promise("G2")
def test_a_recorder_that_fails_is_counted_and_not_noticed(name: str, played: Play) -> None:
    bugs = played(name, "looked").answer[3]
    assert bugs >= 1


def test_unwrapping_gives_the_tracker_its_own_functions_back(name: str, played: Play) -> None:
    hooked, again, own, still = played(name, "looked").answer[4]
    assert hooked == again
    assert own == still
    assert hooked != own
    assert played(name, "looked").answer[5]


@pytest.mark.promise("G1")
def test_a_kill_right_after_the_call_loses_nothing(name: str, played: Play) -> None:
    """And each record has its tracker, and says whether the caller gave the step."""
    p, ran = PROGRAMS[name], played(name, "killed")
    bodies, found = recorded(ran.work), ran.steps
    (begun,) = map(run.decode, bodies["run"])
    assert (begun.tracker, bool(begun.tracker_version)) == (p.tracker, True)
    assert [(one.step, one.step_given, one.data) for one in found] == [
        (0, p.always_given, {"a": 0.5}),
        *((n, True, {"a": n / 4}) for n in range(7, 12)),
    ]
    assert {(one.run, one.tracker) for one in found} == {(begun.run, p.tracker)}
    (directory,) = spools.spools_below(ran.work / "spool")
    assert sources(Reader(directory)) == [p.tracker]


def sources(reader: Reader) -> list[str]:
    """The `source` of the requests that the steps of a spool become."""
    who, options = reader.identity(), encode.Options()
    whole = collect_steps(reader.read(0, 1000).records, {}).due(ended=True, waited=()).steps
    encoded = [encode.encode_step(one, who, options) for one in whole]
    requests = encode.group(encoded, max_steps=10, max_bytes=10**6)
    return [json.loads(encode.body(request, who))["source"] for request in requests]


def test_no_two_steps_of_a_run_have_one_time(name: str, played: Play) -> None:
    times = [round(one.time * 1000) for one in played(name, "frozen").steps]
    assert len(times) == 50
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 60


def test_a_run_that_is_open_at_the_end_of_the_process_is_finished(name: str, played: Play) -> None:
    bodies = recorded(played(name, "frozen").work)
    assert [finish.decode(body).step for body in bodies["finish"]] == [49]
    assert bodies["detection"][0].get("tracker", "wandb") == PROGRAMS[name].tracker


def test_a_variable_chooses_the_trackers(name: str, played: Play) -> None:
    """The program before this one was chosen."""
    off = played(name, "off")
    assert off.answer is False
    assert not (off.work / "spool").exists()


def test_the_hook_waits_and_does_not_import(name: str, tmp_path: Path) -> None:
    if name not in REGISTRY:
        pytest.skip("a tracker of these tests")
    python_of(PROGRAMS[name])
    code = (
        "import spooler, sys; spooler.install(); from importlib import import_module\n"
        f"import_module({REGISTRY[name]!r}); print({PROGRAMS[name].package!r} in sys.modules)"
    )
    done = spools.python(code, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path))
    assert done.stdout == "False\n", done.stderr

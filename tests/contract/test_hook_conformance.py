"""Every hook keeps the contract of `spooler.hooks`, and a hook is one file and one line.

The same claims for every line of the registry, and for a tracker that only these tests have.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
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
from tests.kit.trackers import NAMES, PROGRAMS, Program, answer, play, python_of, recorded

pytestmark = pytest.mark.parametrize("name", NAMES)
# Threads, forks, kills and refusals, of which the tracker may make what it likes.
_LOOK = """
import inspect, pickle, re, traceback

def outcome(call):
    try:
        returned = call()
    except Exception as error:
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        raised = [one for one in (error, error.__cause__, error.__context__) if one is not None]
        said = [type(one).__name__ + re.sub("0x[0-9a-f]+", "", str(one)) for one in raised]
        return ["raised", said, frames[-1]]
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
method = METHOD
found["method"] = [
    re.sub("0x[0-9a-f]+", "", str(inspect.signature(method))), method.__qualname__,
    method.__module__, bool(method.__doc__), inspect.isfunction(method),
    pickle.loads(pickle.dumps(method)) is method,
]
FINISH
print(json.dumps(found))
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


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """What a program saw of its tracker, and where it has run; each is run once."""
    done: dict[tuple[str, bool], tuple[Any, Path]] = {}

    def look(name: str, *, hooked: bool) -> tuple[Any, Path]:
        if (name, hooked) not in done:
            p, work = PROGRAMS[name], tmp_path_factory.mktemp("looked")
            code = _LOOK.replace("REFUSED", p.refused).replace("METHOD", p.method)
            ran = play(work, p, code.replace("FINISH", p.finish), hooked=hooked)
            done[name, hooked] = answer(ran), work
        return done[name, hooked]

    return look


def of(name: str) -> Program:
    """The tracker's program; skips the test where no interpreter has the tracker."""
    python_of(PROGRAMS[name])
    return PROGRAMS[name]


def steps(work: Path) -> list[StepRecord]:
    return list(map(step.decode, recorded(work)["step"]))


@pytest.mark.promise("G2")
def test_calls_return_and_raise_and_look_as_they_do_without_us(
    name: str, looked: Callable[..., tuple[Any, Path]]
) -> None:
    of(name)
    with_us, _ = looked(name, hooked=True)
    without, _ = looked(name, hooked=False)
    assert with_us == without
    assert with_us["refused"][0] == with_us["odd argument"][0] == "raised"


def test_every_value_that_the_tracker_accepts_is_recorded_as_it_is(
    name: str, looked: Callable[..., tuple[Any, Path]]
) -> None:
    of(name)
    found, work = looked(name, hooked=True)
    accepted = [kind for kind in _PLAIN if found.get(kind, ["raised"])[0] == "returned"]
    assert {"int", "float", "nan", "float32"} <= set(accepted)
    ours = {one.step: one.data["v"] for one in steps(work)}
    for number, kind in enumerate(_PLAIN):
        if kind in accepted:
            same = ours[number] == _PLAIN[kind]
            assert same or (math.isnan(ours[number]) and kind == "nan"), kind
        else:
            assert number not in ours, kind


def test_what_is_logged_is_recorded_with_its_tracker_and_who_gave_the_step(
    name: str, tmp_path: Path
) -> None:
    p = of(name)
    answer(play(tmp_path, p, f"log({{'a': 0.5}})\nlog({{'a': 0.25}}, 7)\n{p.finish}\nprint(0)"))
    bodies = recorded(tmp_path)
    (begun,) = map(run.decode, bodies["run"])
    assert begun.tracker == p.tracker
    assert begun.tracker_version
    found = list(map(step.decode, bodies["step"]))
    assert [(one.step, one.step_given, one.data) for one in found] == [
        (0, False, {"a": 0.5}),
        (7, True, {"a": 0.25}),
    ]
    assert {(one.run, one.tracker) for one in found} == {(begun.run, p.tracker)}
    assert [one.closed for one in found] == [True, name == "tinytrack"] or p.parts
    (ended,) = map(finish.decode, bodies["finish"])
    assert (ended.run, ended.step) == (begun.run, 7)
    assert bodies["detection"][0].get("tracker", "wandb") == p.tracker
    (directory,) = spools.spools_below(tmp_path / "spool")
    assert sources(Reader(directory)) == [p.tracker]


def sources(reader: Reader) -> list[str]:
    """The `source` of the requests that the steps of a spool become."""
    who, options = reader.identity(), encode.Options()
    whole = collect_steps(reader.read(0, 1000).records, {}).complete
    encoded = [encode.encode_step(one, who, options) for one in whole]
    requests = encode.group(encoded, max_steps=10, max_bytes=10**6)
    return [json.loads(encode.body(request, who))["source"] for request in requests]


def test_no_two_steps_of_a_run_have_one_time(name: str, tmp_path: Path) -> None:
    p = of(name)
    ran = play(
        tmp_path,
        p,
        "import time; real = time.time; frozen = real()\ntime.time = lambda: frozen\n"
        "for number in range(50):\n    log({'a': 1}, number)\n    frozen -= number == 20\n"
        f"time.time = real\n{p.finish}\nprint(0)",
    )
    answer(ran)
    times = [round(one.time * 1000) for one in steps(tmp_path)]
    assert len(times) == 50
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 60


def test_a_run_that_is_open_at_the_end_of_the_process_is_finished(
    name: str, tmp_path: Path
) -> None:
    answer(play(tmp_path, of(name), "log({'a': 1}, 3)\nprint(0)"))
    assert [finish.decode(body).step for body in recorded(tmp_path)["finish"]] == [3]


@pytest.mark.promise("G1")
def test_a_kill_right_after_the_call_loses_nothing(name: str, tmp_path: Path) -> None:
    code = "for n in range(5): log({'a': n}, n)\nos.kill(os.getpid(), 9)"
    assert play(tmp_path, of(name), code).returncode == -signal.SIGKILL
    assert [(one.step, one.data) for one in steps(tmp_path)] == [(n, {"a": n}) for n in range(5)]


def test_threads_and_a_fork_lose_nothing(name: str, tmp_path: Path) -> None:
    p = of(name)
    ran = play(
        tmp_path,
        p,
        "import threading\n"
        "def work(n):\n    for m in range(20): log({f'{n}/{m}': m})\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n"
        "[one.start() for one in threads]\n[one.join() for one in threads]\n"
        "child = os.fork()\n"
        "if not child:\n    os._exit(0)\n"
        f"ended = os.waitpid(child, 0)[1]\nlog({{'after': 1}})\n{p.finish}\nprint(ended)",
    )
    assert answer(ran) == 0
    names = [name for one in steps(tmp_path) for name in one.data]
    assert sorted(names) == sorted([f"{n}/{m}" for n in range(4) for m in range(20)] + ["after"])
    assert len(spools.spools_below(tmp_path / "spool")) == 1


@pytest.mark.promise("G2")
def test_a_recorder_that_fails_is_not_noticed(name: str, tmp_path: Path) -> None:
    p = of(name)
    ran = play(
        tmp_path,
        p,
        "from spooler.recorder import Recorder\n"
        "def broken(*_, **__): raise ZeroDivisionError('ours')\n"
        f"Recorder.record = broken\nlog({{'a': 1}}, 1)\n{p.finish}\n"
        "print(json.dumps(spooler.stats()['dropped'].get('bug', 0) > 0))",
    )
    assert answer(ran)


def test_unwrapping_gives_the_tracker_its_own_functions_back(name: str, tmp_path: Path) -> None:
    p = of(name)
    before, hooked, again, after = answer(
        play(
            tmp_path,
            p,
            f"seen = [id({p.method})]\nspooler.install(); seen.append(id({p.method}))\n"
            f"spooler.install(); seen.append(id({p.method}))\n"
            f"spooler.uninstall(); seen.append(id({p.method}))\nprint(json.dumps(seen))",
            hooked=False,
        )
    )
    assert before == after
    assert hooked == again
    assert hooked != before


def test_a_variable_chooses_the_trackers(name: str, tmp_path: Path) -> None:
    p = of(name)
    hooked = f"json.dumps(hasattr({p.method}, '_lens_ship_original'))"
    code = f"log({{'a': 1}}, 1)\n{p.finish}\nprint({hooked})"
    chosen = {"PRIMUS_LENS_TRACKERS": f"other, {p.tracker.upper()}"}
    assert answer(play(tmp_path / "on", p, code, **chosen))
    assert len(steps(tmp_path / "on")) == 1
    assert not answer(play(tmp_path / "off", p, code, PRIMUS_LENS_TRACKERS="other"))
    assert not (tmp_path / "off" / "spool").exists()


def test_the_hook_waits_and_does_not_import(name: str, tmp_path: Path) -> None:
    if name not in REGISTRY:
        pytest.skip("a tracker of these tests")
    code = (
        "import spooler, sys; spooler.install(); from importlib import import_module\n"
        f"import_module({REGISTRY[name]!r}); print({PROGRAMS[name].package!r} in sys.modules)"
    )
    done = spools.python(code, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path))
    assert done.stdout == "False\n", done.stderr

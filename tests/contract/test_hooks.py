"""Every hook keeps the contract of `spooler.hooks`, and a hook is one file and one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shipper.sinks.processor import encode
from shipper.steps import collect_steps
from spooler.hooks import REGISTRY
from spooler.records import finish, run, step
from spooler.spool import codec
from spooler.spool.reader import Reader
from tests.kit import spools

TRACKER = '''
class Experiment:
    def __init__(self, name):
        self.name, self.rows, self.next = name, [], 0

    def log_metrics(self, metrics, step=None):
        """Not as wandb does it: every call is a step of its own."""
        if not isinstance(metrics, dict):
            raise TypeError("metrics must be a dict")
        number = self.next if step is None else step
        self.rows.append((number, dict(metrics)))
        self.next = number + 1
        return number

    def end(self, status=0):
        self.status = status
'''

HOOK = """
import functools
import sys
import weakref

from spooler.hooks.run_tracker import (
    TrackedRun, guarded, runs, unwrap_functions, wrap_functions, wrap_log
)

_experiments = weakref.WeakKeyDictionary()


class _Experiment(TrackedRun):
    tracker = "tinytrack"
    status = None

    def facts(self):
        return {"name": self.run, "tracker_version": "1.0"}

    def exit_code(self):
        return self.status


def wrap(module):
    log = functools.partial(wrap_log, sys.modules[__name__])
    wrap_functions(_places(module), {"log_metrics": log, "end": _wrap_end})


def unwrap(module):
    unwrap_functions(_places(module))


def _places(module):
    return [(module.Experiment, "log_metrics"), (module.Experiment, "end")]


def _wrap_end(original):
    @functools.wraps(original)
    def end(self, status=0):
        result = original(self, status)
        guarded(_observe_end, (self, status))
        return result
    return end


def _observe_end(ended):
    tracked = known_run(ended[0])
    if tracked is not None:
        tracked.status = ended[1]
    runs.finish(tracked)


def known_run(experiment):
    return _experiments.get(experiment)


def before_log(experiment):
    return experiment.next


def observe_log(experiment, before, metrics, step=None):
    tracked = known_run(experiment) or _Experiment(experiment.name)
    _experiments[experiment] = tracked
    runs.log(tracked, before if step is None else step, True, metrics, step is not None)
"""


@dataclass(frozen=True)
class Program:
    """How a tracker is used: `begin` binds `run`, the others are calls."""

    begin: str
    log: str  # {data}
    log_at: str  # {data}, {step}
    refused: str  # a call that the tracker itself refuses
    finish: str
    method: str  # what a hook wraps, for one


PROGRAMS = {
    "wandb": Program(
        begin="import wandb; run = wandb.init(mode='offline', dir=work, project='p')",
        log="run.log({data})",
        log_at="run.log({data}, step={step})",
        refused="run.log(7)",
        finish="run.finish()",
        method="wandb.sdk.wandb_run.Run.log",
    ),
    "tinytrack": Program(
        begin="import tinytrack; run = tinytrack.Experiment('first try')",
        log="run.log_metrics({data})",
        log_at="run.log_metrics({data}, step={step})",
        refused="run.log_metrics(7)",
        finish="run.end(3)",
        method="tinytrack.Experiment.log_metrics",
    ),
}
TRACKERS = sorted({*REGISTRY, "tinytrack"})
pytestmark = pytest.mark.parametrize("tracker", TRACKERS)

_PRELUDE = """
import json, sys
sys.path.insert(0, {site!r})
work = {site!r}
from spooler import hooks
hooks.REGISTRY.setdefault("tinytrack", "tinytrack_hook")
import spooler
spooler.install()
"""


def play(tmp_path: Path, code: str, **environ: str) -> Any:
    """Run `code` in a process that has the hooks; what it prints as JSON."""
    (tmp_path / "tinytrack.py").write_text(TRACKER, encoding="utf-8")
    (tmp_path / "tinytrack_hook.py").write_text(HOOK, encoding="utf-8")
    done = spools.python(
        _PRELUDE.format(site=str(tmp_path)) + code,
        **{
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(tmp_path / "spool"),
            "WORKLOAD_UID": "w",
            "WANDB_SILENT": "true",
            **environ,
        },
    )
    assert done.returncode == 0, done.stderr
    return spools.answer(done)


def recorded(tmp_path: Path) -> tuple[Reader, dict[str, list[dict[str, Any]]]]:
    (directory,) = spools.spools_below(tmp_path / "spool")
    reader = Reader(directory)
    bodies: dict[str, list[dict[str, Any]]] = {}
    for stored in reader.read(0, 1000).records:
        bodies.setdefault(stored.kind, []).append(codec.unpack(stored.body))
    return reader, bodies


def test_what_is_logged_is_recorded_with_its_tracker_and_who_gave_the_step(
    tracker: str, tmp_path: Path
) -> None:
    p = PROGRAMS[tracker]
    play(
        tmp_path,
        f"{p.begin}\n{p.log.format(data={'loss': 0.5})}\n"
        f"{p.log_at.format(data={'loss': 0.25}, step=7)}\n{p.finish}\nprint(json.dumps(None))",
    )
    reader, bodies = recorded(tmp_path)
    (begun,) = map(run.decode, bodies["run"])
    assert begun.tracker == tracker
    assert begun.tracker_version
    steps = list(map(step.decode, bodies["step"]))
    assert [(one.step, one.step_given, one.data) for one in steps] == [
        (0, False, {"loss": 0.5}),
        (7, True, {"loss": 0.25}),
    ]
    assert {(one.run, one.tracker) for one in steps} == {(begun.run, tracker)}
    (ended,) = map(finish.decode, bodies["finish"])
    assert (ended.run, ended.step) == (begun.run, 7)
    assert bodies["detection"][0].get("tracker", "wandb") == tracker
    assert sources(reader) == [tracker]


def test_no_two_steps_of_a_run_have_one_time(tracker: str, tmp_path: Path) -> None:
    p = PROGRAMS[tracker]
    play(
        tmp_path,
        f"{p.begin}\nimport time; real = time.time; frozen = real()\ntime.time = lambda: frozen\n"
        f"for number in range(50):\n    {p.log_at.format(data={'a': 1}, step='number')}\n"
        f"    frozen -= number == 20\n"
        f"time.time = real\n{p.finish}\nprint(json.dumps(None))",
    )
    _, bodies = recorded(tmp_path)
    times = [round(step.decode(body).time * 1000) for body in bodies["step"]]
    assert len(times) == 50
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 60


def sources(reader: Reader) -> list[str]:
    """The `source` of the requests that the steps of a spool become."""
    import json

    who, options = reader.identity(), encode.Options()
    whole = collect_steps(reader.read(0, 1000).records, {}).complete
    encoded = [encode.encode_step(one, who, options) for one in whole]
    requests = encode.group(encoded, max_steps=10, max_bytes=10**6)
    return [json.loads(encode.body(request, who))["source"] for request in requests]


def test_a_run_that_is_open_at_the_end_of_the_process_is_finished(
    tracker: str, tmp_path: Path
) -> None:
    p = PROGRAMS[tracker]
    play(tmp_path, f"{p.begin}\n{p.log.format(data={'a': 1})}\nprint(json.dumps(None))")
    _, bodies = recorded(tmp_path)
    assert [finish.decode(body).step for body in bodies["finish"]] == [0]


def test_what_the_tracker_refuses_reaches_the_caller_and_is_not_recorded(
    tracker: str, tmp_path: Path
) -> None:
    p = PROGRAMS[tracker]
    raised = play(
        tmp_path,
        f"{p.begin}\ntry:\n    {p.refused}\nexcept Exception as error:\n"
        f"    print(json.dumps([type(error).__name__, str(error.__cause__ or error.__context__)]))",
    )
    plain = play(
        tmp_path,
        f"spooler.uninstall()\n{p.begin}\ntry:\n    {p.refused}\nexcept Exception as error:\n"
        f"    print(json.dumps([type(error).__name__, str(error.__cause__ or error.__context__)]))",
    )
    assert raised == plain
    found = [
        body
        for directory in spools.spools_below(tmp_path / "spool")
        for body in Reader(directory).read(0, 1000).records
        if body.kind == "step"
    ]
    assert found == []


@pytest.mark.promise("G2")
def test_a_recorder_that_fails_is_not_noticed(tracker: str, tmp_path: Path) -> None:
    p = PROGRAMS[tracker]
    assert play(
        tmp_path,
        "from spooler.recorder import Recorder\n"
        "def broken(*_, **__): raise ZeroDivisionError('ours')\n"
        f"Recorder.record = broken\n{p.begin}\n{p.log.format(data={'a': 1})}\n{p.finish}\n"
        "print(json.dumps(spooler.stats()['dropped'].get('bug', 0) > 0))",
    )


def test_unwrapping_gives_the_tracker_its_own_functions_back(tracker: str, tmp_path: Path) -> None:
    p = PROGRAMS[tracker]
    before, hooked, again, after = play(
        tmp_path,
        f"spooler.uninstall()\n{p.begin}\nwork = [id({p.method})]\n"
        f"spooler.install(); work.append(id({p.method}))\n"
        f"spooler.install(); work.append(id({p.method}))\n"
        f"spooler.uninstall(); work.append(id({p.method}))\nprint(json.dumps(work))",
    )
    assert before == after
    assert hooked == again
    assert hooked != before

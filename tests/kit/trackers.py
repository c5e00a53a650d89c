"""How each tracker is used, for tests that hold for all of them, and programs that use them.

A program runs in an interpreter that has the tracker: that of the tests, or an environment of its
own below `.venv`. Torch and Transformers take seconds to import: their programs run only where
`LENS_SHIP_TEST_FRAMEWORKS` names an interpreter, as `make test-frameworks` does.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest

from spooler.hooks import REGISTRY
from tests.kit import spools

_VENV = spools.REPOSITORY / ".venv"


@dataclass(frozen=True, kw_only=True)
class Program:
    """A tracker in use: `begin` binds `run`, `log` is the body of a function of data and step."""

    tracker: str  # the name of the hook
    begin: str
    log: str
    refused: str  # a call that the tracker itself refuses
    finish: str
    method: str = ""  # what the hook wraps, for one
    package: str = ""  # without it the program cannot run
    parts: bool = False  # a call with a step is an open part of it
    always_given: bool = False  # there is no call without a step
    records_refused: bool = False  # marked as not accepted


_TENSORBOARD = {
    "tracker": "tensorboard",
    "log": "for name, value in data.items(): run.add_scalar(name, value, step)",
    "refused": "run.add_scalar('a', object())",
    "finish": "run.close()",
    "parts": True,
}
PROGRAMS = {
    "wandb": Program(
        tracker="wandb",
        begin="import wandb; run = wandb.init(mode='offline', dir=work, project='p')",
        log="run.log(data, step=step)",
        refused="run.log(7)",
        finish="run.finish()",
        method="wandb.sdk.wandb_run.Run.log",
        package="wandb",
    ),
    "tensorboardX.writer": Program(
        begin="import tensorboardX; run = tensorboardX.SummaryWriter(work + '/tb')",
        method="tensorboardX.writer.SummaryWriter.add_scalar",
        package="tensorboardX",
        **_TENSORBOARD,  # type: ignore[arg-type]
    ),
    "torch.utils.tensorboard.writer": Program(
        begin="import torch.utils.tensorboard.writer\n"
        "run = torch.utils.tensorboard.SummaryWriter(work + '/tb')",
        method="torch.utils.tensorboard.writer.SummaryWriter.add_scalar",
        package="torch",
        **_TENSORBOARD,  # type: ignore[arg-type]
    ),
    "mlflow.tracking._tracking_service.client": Program(
        tracker="mlflow",
        begin="import mlflow; client = mlflow.MlflowClient(f'sqlite:///{work}/mlflow.db')\n"
        "run = client.create_run('0', run_name='first').info.run_id",
        log="for name, value in data.items(): client.log_metric(run, name, value, step=step)",
        refused="client.log_metric(run, 'a', object())",
        finish="client.set_terminated(run)",
        method="mlflow.tracking._tracking_service.client.TrackingServiceClient.log_metric",
        package="mlflow",
        records_refused=True,
    ),
    "transformers.trainer_callback": Program(
        tracker="transformers",
        begin="import transformers\nfrom transformers import trainer_callback\n"
        "class Arguments:\n    output_dir, run_name = work, 'first'\n"
        "    def to_dict(self): return {'lr': 0.1}\n"
        "args, state = Arguments(), trainer_callback.TrainerState()\n"
        "control = trainer_callback.TrainerControl()\n"
        "class Failing(trainer_callback.DefaultFlowCallback):\n"
        "    def on_log(self, *_, logs, **__):\n"
        "        if 'refused' in logs: raise RuntimeError('refused')\n"
        "run = trainer_callback.CallbackHandler([Failing()], None, None, None, None)\n"
        "run.on_train_begin(args, state, control)",
        log="state.global_step = step or 0; run.on_log(args, state, control, data)",
        refused="run.on_log(args, state, control, {'refused': 1})",
        finish="run.on_train_end(args, state, control)",
        method="transformers.trainer_callback.CallbackHandler.on_log",
        package="transformers",
        parts=True,
        always_given=True,
    ),
    "tinytrack": Program(
        tracker="tinytrack",
        begin="import tinytrack; run = tinytrack.Experiment('first try')",
        log="run.log_metrics(data, step=step)",
        refused="run.log_metrics(7)",
        finish="run.end(3)",
        method="tinytrack.Experiment.log_metrics",
    ),
}
NAMES = sorted({*REGISTRY, *PROGRAMS})

# A tracker that nobody has, and its hook: one file and two lines.
_TINYTRACK = '''
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
_TINYTRACK_HOOK = """
import functools
import sys
import weakref

from spooler.hooks.guard import guarded
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.hooks.wrappers import unwrap_functions, wrap_functions, wrap_log

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
_PRELUDE = """
import json, os, sys
work = {work!r}
sys.path.insert(0, work)
from spooler import config, hooks
hooks.REGISTRY["tinytrack"] = "hook.tinytrack"
config.ALL_TRACKERS |= {{"tinytrack"}}
import spooler
from spooler import recorder
# Also on a slow machine a fork and the end wait for the background thread.
recorder._FORK_SECONDS = recorder._SHUTDOWN_SECONDS = {patience}
"""


def python_of(program: Program) -> str:
    """An interpreter that has the tracker; skips the test where there is none."""
    if not program.package or importlib.util.find_spec(program.package):
        return sys.executable
    mine = str(_VENV / program.package / "bin" / "python")
    given = os.environ.get("LENS_SHIP_TEST_FRAMEWORKS", "")
    found = next((one for one in (mine, given) if one and Path(one).exists()), None)
    if found is None:
        pytest.skip(f"{program.package} is not installed; make test-frameworks runs it")
    return found


@functools.cache
def _mlflow_store(python: str) -> Path:
    """An empty store of MLflow, which takes seconds to make."""
    path = Path(tempfile.mkdtemp(prefix="lens-ship-mlflow-")) / "mlflow.db"
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([python, "-c", code], env=spools.environment(), check=True, capture_output=True)
    return path


def play(
    work: Path, program: Program, code: str, *, hooked: bool = True, **environ: str | None
) -> subprocess.CompletedProcess[str]:
    """Run `code` with `run` and `log(data, step)` of the tracker, in a process of its own."""
    work.mkdir(exist_ok=True)
    (work / "tinytrack.py").write_text(_TINYTRACK, encoding="utf-8")
    (work / "hook").mkdir(exist_ok=True)
    (work / "hook" / "tinytrack.py").write_text(_TINYTRACK_HOOK, encoding="utf-8")
    if not (work / "msgpack").exists():  # environments of trackers do not have it
        (work / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    install = "spooler.install()\n" if hooked else "spooler.uninstall()\n"
    if program.tracker == "mlflow":
        shutil.copy(_mlflow_store(python_of(program)), work / "mlflow.db")
    prelude = _PRELUDE.format(work=str(work), patience=spools.PATIENCE_SECONDS)
    begun = f"{program.begin}\ndef log(data, step=None):\n    {program.log}\n"
    known = {
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(work / "spool"),
        "WORKLOAD_UID": "w",
        "WANDB_SILENT": "true",
        "PYTHONPATH": str(spools.REPOSITORY),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        [python_of(program), "-c", prelude + install + begun + code],
        env=spools.environment(**{**known, **environ}),
        cwd=work,
        capture_output=True,
        text=True,
        timeout=2 * spools.PATIENCE_SECONDS,
        check=False,
    )


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The last line that it printed, as JSON."""
    return spools.answer(done)


def recorded(work: Path) -> dict[str, list[dict[str, Any]]]:
    """Bodies by kind of all spools."""
    bodies = defaultdict[str, list[dict[str, Any]]](list)
    for directory in spools.spools_below(work / "spool"):
        for stored in spools.read_whole(directory).records:
            bodies[stored.kind].append(spools.codec.unpack(stored.body))
    return bodies

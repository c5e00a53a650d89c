"""What each hook but wandb's adds to its tracker's own call.

    python bench/tracker_cost.py [--calls 2000]

Real trackers, each in a process of its own: of this environment, or of `.venv/frameworks`, which
`make test-frameworks` makes. Calls with the hook, calls of the method that it wraps and the hook's
own part alone take turns in blocks. Figures are microseconds a call at the median. An INSERT adds
more than it takes: each finds the processor's caches full of the other (see `hook_cost.py`).

Megatron-LM makes about 20 calls of `add_scalar` a step. The hook records each as a part of its step
before it returns. What one record a step would cost, from a buffer that a kill empties, is below.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aims import aim, at

REPOSITORY = Path(__file__).resolve().parent.parent
FRAMEWORKS = REPOSITORY / ".venv" / "frameworks" / "bin" / "python"
BARE, HOOKED, OWN = "bare", "hooked", "own"
ONE_RECORD, PARTS = "20 values in one record", "20 values in 20 parts"
BLOCK = 20
Calls = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--play", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        name, work = given.play
        print(json.dumps(play(name, Path(work), given.calls)))
        return
    print(f"{'µs a call at p50':<44}{'bare':>10}{'with the hook':>16}{'own part':>12}")
    for name in TRACKERS:
        show(name, given.calls)


def show(name: str, calls: int) -> None:
    """One line, and for TensorBoard two more."""
    python = sys.executable if importlib.util.find_spec(name) else str(FRAMEWORKS)
    if not Path(python).exists():
        print(f"  {name} is not installed: make test-frameworks installs it")
        return
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as work:
        command = (python, __file__, "--calls", str(calls), "--play", name, work)
        known = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    what = f"{name}: {TRACKERS[name][0]}"
    print(f"  {what:<42}{found[BARE]:>10.1f}{found[HOOKED]:>16.1f}{found[OWN]:>12.1f}")
    for one in (ONE_RECORD, PARTS):
        if one in found:
            print(f"    {one:<40}{'':>26}{found[one]:>12.1f}")
    print(aim(f"the hook's own part, {name}", found[OWN], 30, " µs"))


def play(name: str, work: Path, calls: int) -> dict[str, float]:
    """The median of each contestant, in a process of its own."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    os.environ["WORKLOAD_UID"] = "bench"
    import spooler

    spooler.install()
    contestants = TRACKERS[name][1](work)
    for call in contestants.values():
        call()
    taken: dict[str, list[int]] = {one: [] for one in contestants}
    names = list(contestants)
    for _ in range(max(1, calls // BLOCK)):
        for one in names:
            call, mine = contestants[one], taken[one]
            for _ in range(BLOCK):
                before = time.perf_counter_ns()
                call()
                mine.append(time.perf_counter_ns() - before)
        names = names[1:] + names[:1]
    return {one: at(sorted(times), 0.5) for one, times in taken.items()}


def tensorboardx(work: Path) -> Calls:
    """`add_scalar`, and a step of Megatron-LM's."""
    from tensorboardX import SummaryWriter

    return _summary_writer(SummaryWriter(str(work / "tb")))


def torch(work: Path) -> Calls:
    """The same of torch."""
    from torch.utils.tensorboard import SummaryWriter

    return _summary_writer(SummaryWriter(str(work / "tb")))


def _summary_writer(writer: Any) -> Calls:
    from spooler.hooks import tensorboard as hook

    bare, numbers = type(writer).add_scalar._lens_ship_original, itertools.count()
    values = {f"metric/{number}": number / 3 for number in range(20)}

    def parts() -> None:
        number = next(numbers)
        for name, value in values.items():
            hook._record(writer, {name: value}, number, None)

    return {
        BARE: lambda: bare(writer, "loss", 0.5, next(numbers)),
        HOOKED: lambda: writer.add_scalar("loss", 0.5, next(numbers)),
        OWN: lambda: hook._record(writer, {"loss": 0.5}, next(numbers), None),
        ONE_RECORD: lambda: hook._record(writer, values, next(numbers), None),
        PARTS: parts,
    }


def mlflow(work: Path) -> Calls:
    """`log_metric` to a store in SQLite."""
    from mlflow.tracking import MlflowClient

    from spooler.hooks import mlflow as hook

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    run, numbers = client.create_run("0").info.run_id, itertools.count()
    inner = client._tracking_client
    bare = type(inner).log_metric._lens_ship_original

    def own() -> None:
        args = hook._fill_time((run, "loss", 0.5, None, next(numbers)), {})
        hook._observe_metrics(hook._metric(inner, *args), True, None)

    return {
        BARE: lambda: bare(inner, run, "loss", 0.5, None, next(numbers)),
        HOOKED: lambda: inner.log_metric(run, "loss", 0.5, None, next(numbers)),
        OWN: own,
    }


def transformers(work: Path) -> Calls:
    """`on_log` of a handler with the callback that every Trainer has."""
    from types import SimpleNamespace

    from transformers import trainer_callback as library

    from spooler.hooks import transformers as hook

    state, control = library.TrainerState(), library.TrainerControl()
    arguments = SimpleNamespace(output_dir=str(work), run_name="bench", to_dict=dict)
    handler = library.CallbackHandler([library.DefaultFlowCallback()], None, None, None, None)
    logs = {"loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-4, "epoch": 0.25}
    bare = type(handler).on_log._lens_ship_original

    def next_state() -> Any:
        state.global_step += 1
        return state

    def own() -> None:
        told = hook._log_event(handler, arguments, next_state(), control, logs)
        hook._log(told, True, None)

    return {
        BARE: lambda: bare(handler, arguments, next_state(), control, logs),
        HOOKED: lambda: handler.on_log(arguments, next_state(), control, logs),
        OWN: own,
    }


TRACKERS: dict[str, tuple[str, Callable[[Path], Calls]]] = {
    "tensorboardX": ("add_scalar", tensorboardx),
    "torch": ("add_scalar", torch),
    "mlflow": ("log_metric", mlflow),
    "transformers": ("on_log, 4 values", transformers),
}


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
